"""What every suite shares: an environment of its own, a real Prefect server, the real AnyCap CLI.

Prefect reads its settings when it is first imported and keeps them, so the environment is cleaned here, before any test
module is imported, and a server's address is given both ways: to this process by `temporary_settings`, which Prefect's
calls and task-runner threads see (a bare `threading.Thread` does not), and to child processes by PREFECT_API_URL.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from processes import end

if TYPE_CHECKING:
    from anycap_server import AnyCapServer
    from recorded import Recorded
    from seaweed import Seaweed

REPO = Path(__file__).parents[1]
HOME = Path(tempfile.mkdtemp(prefix="rowshot-tests-"))
SERVER_READY_S = 300

for name in [name for name in os.environ if name.startswith(("PREFECT_", "ROWSHOT_", "ANYCAP_"))]:
    if not name.startswith(("ROWSHOT_CRASH_", "ROWSHOT_PICTURES")):  # what whoever tests asks for
        del os.environ[name]
os.environ |= {
    "PREFECT_HOME": str(HOME / "prefect"),
    # Named, because Prefect also looks for a profile in the folder it is started in.
    "PREFECT_PROFILES_PATH": str(HOME / "prefect" / "profiles.toml"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # A test that names no ledger must not write into that of whoever runs the tests.
    "ROWSHOT_LEDGER": f"sqlite:///{HOME / 'ledger.db'}",
    "XDG_DATA_HOME": str(HOME / "data"),
}


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failure: a missing part there would go unseen."""
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """As above, for a module that skips itself whole."""
    report = yield
    _refuse_skip_in_ci(report)
    return report


def _refuse_skip_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, and in CI every part must be there: {report.longrepr}"


@pytest.fixture(scope="session")
def prefect_server_url() -> Iterator[str]:
    """API address of a Prefect server for the whole session: a child process on SQLite, with the repo's own settings.

    It changes nothing in this process: take `prefect_server` to talk to it.
    """
    folder = HOME / "server"
    folder.mkdir()
    port = free_port()
    address = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log_path = folder / "server.log"
    with log_path.open("wb") as log:
        # Started in the clone, where it finds [tool.prefect] in pyproject.toml, as a user's own server does.
        server = subprocess.Popen(
            command,
            cwd=REPO,
            env={
                **os.environ,
                "PREFECT_HOME": str(folder),
                "PREFECT_UI_URL": address.removesuffix("/api"),
                "PREFECT_SERVER_UI_API_URL": address,  # its pages would ask port 4200, whatever --port says
                "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_healthy(server, address, log_path)
            yield address
        finally:
            _send_last_words()
            end(server)


@pytest.fixture
def prefect_database(prefect_server_url: str) -> Path:  # noqa: ARG001 - it is there once the server is
    """The file of the session's Prefect server, in which it keeps all that it was told."""
    return HOME / "server" / "prefect.db"


@pytest.fixture
def prefect_server(prefect_server_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """API address of the session's Prefect server, which this test and every process that it starts use."""
    from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: PLC0415 - most suites need no Prefect

    monkeypatch.setenv("PREFECT_API_URL", prefect_server_url)
    with temporary_settings({PREFECT_API_URL: prefect_server_url}):
        yield prefect_server_url


@pytest.fixture
def recorded(prefect_server: str) -> "Recorded":
    """What the session's Prefect server records from now on: no run of an earlier test, whatever its name."""
    from recorded import Recorded  # noqa: PLC0415 - most suites need no Prefect

    return Recorded(prefect_server, since=datetime.now(UTC))


@pytest.fixture(scope="session")
def anycap_cli() -> Path:
    """Path of the real AnyCap CLI."""
    from cli import anycap_executable  # noqa: PLC0415 - the first call installs it

    return anycap_executable()


@pytest.fixture
def anycap_server(request: pytest.FixtureRequest) -> Iterator["AnyCapServer"]:
    """A provider on the loopback that the real CLI can draw against; an indirect parameter holds its arguments."""
    from anycap_server import AnyCapServer  # noqa: PLC0415 - most suites need no server

    with AnyCapServer(**getattr(request, "param", {})) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Seaweed"]:
    """A real S3 for the whole session, which no test stops. Buckets are the test's to make and to name."""
    from seaweed import seaweed  # noqa: PLC0415 - most suites need no S3

    with seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


def free_port() -> int:
    """A port on the loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _send_last_words() -> None:
    """Have this process tell the server what it still holds back, or it goes on trying for a minute after the tests."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker  # noqa: PLC0415 - most suites need no Prefect
        from prefect.logging.handlers import APILogWorker  # noqa: PLC0415 - as above

        APILogWorker.drain_all(timeout=10)
        EventsWorker.drain_all(timeout=10)


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + SERVER_READY_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(
        f"No Prefect server at {address} within {SERVER_READY_S} s. Its log:\n{log.read_text(errors='replace')}"
    )
