"""An HTTP server on the loopback that answers by a function: what the simple far ends are made of."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `headers` are found by any spelling of their names."""

    method: str
    path: str
    headers: Message
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered to it."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Loopback:
    """Has a server serve within its `with`."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self.host = f"127.0.0.1:{server.server_port}"
        self.url = f"http://{self.host}"
        self._thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class HttpDouble(Loopback):
    """Where `answer` gives None the connection is cut."""

    def __init__(self, answer: Callable[[Asked], Answer | None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                """Serve one connection; whoever asks may leave in the middle."""
                with suppress(ConnectionError):
                    super().handle()

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answered = answer(Asked(self.command, self.path, self.headers, body))
                if answered is None:
                    self.close_connection = True
                    return
                self.send_response(answered.status)
                for name, value in {**answered.headers, "Content-Length": str(len(answered.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answered.body)

            do_GET = do_PATCH = do_PUT = do_POST = do_DELETE = _any  # noqa: N815 - http.server looks for these names

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
