"""A Prefect server of our own for one command, where none is configured.

Prefect would start one too, once the flow begins. This one is started before anything else is done, so that reading and
planning cost no time of their own; it records every task run; and it ends when its parent does, even if that is killed.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import requests

READY_S = 120.0
STOP_S = 30.0
READY_POLL_S = 0.1

# Whether what runs now uses a server of the command's own, which has no pages and ends with the command.
OWN_SERVER: ContextVar[bool] = ContextVar("OWN_SERVER", default=False)

# By default the recorder takes one message at a time, falls behind a large run and drops what its queue can't hold.
# pyproject.toml has the same for a server that is started in this folder.
RECORDER: Mapping[str, str] = MappingProxyType(
    {
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "200",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
)


class ServerNotStarted(Exception):
    """The server did not come up."""


class EmbeddedServer:
    """A server under way; `wait` for it before use."""

    def __init__(self, child: subprocess.Popen[bytes], port: int) -> None:
        self._child = child
        self._used = False
        self.url = f"http://127.0.0.1:{port}/api"

    def wait(self) -> None:
        """Wait until it answers. Raises: ServerNotStarted."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self._child.poll() is None:
            try:
                if requests.get(f"{self.url}/health", timeout=5).ok:
                    self._used = True
                    return
            except (requests.ConnectionError, requests.Timeout):
                time.sleep(READY_POLL_S)
        raise ServerNotStarted(
            "Rowshot's own Prefect server did not come up. Start one with `prefect server start` and set "
            "PREFECT_API_URL, or look at what it says: python -m flows.tasks.embedded_server 4200"
        )

    def stop(self) -> None:
        """End it, leaving it time to write down what it has been told, if it has been told anything."""
        if not self._used:
            self._child.kill()
        if self._child.stdin:
            self._child.stdin.close()
        try:
            self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


@contextmanager
def embedded_server() -> Iterator[EmbeddedServer]:
    """Start a server on a free loopback port, without waiting for it; end it with the body."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "flows.tasks.embedded_server", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={
            **RECORDER,
            **os.environ,
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
        },
        start_new_session=True,  # Ctrl-C is for the run; the server must be there for its last words
    )
    server = EmbeddedServer(child, port)
    try:
        yield server
    finally:
        server.stop()


def _serve(port: int) -> None:
    import uvicorn  # noqa: PLC0415 - only the child needs it

    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )
    server = uvicorn.Server(config)

    def end_with_parent() -> None:
        sys.stdin.buffer.read()  # returns when the parent closes its end, or dies
        server.should_exit = True

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
