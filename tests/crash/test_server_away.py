"""The Prefect server goes away in mid-run, and comes back."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, rowshot_here, start_rowshot, until, write_csv
from processes import end

REPO = Path(__file__).parents[2]
SKUS = [f"s{number}" for number in range(60)]
RUN = ("run", "away.csv", "--generator", "anycap", "--concurrency", "8")
AWAY_S = float(os.environ.get("ROWSHOT_CRASH_AWAY_S", "8"))
PATIENCE_S = 240.0


@contextmanager
def prefect_server_on(port: int, home: Path) -> Iterator[str]:
    """A Prefect server whose life this test decides upon."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, cwd=REPO, env={**os.environ, "PREFECT_HOME": str(home)}, stdout=log, stderr=log
        )
        try:
            until(lambda: answers(port))
            yield f"http://127.0.0.1:{port}/api"
        finally:
            end(server)


def answers(port: int) -> bool:
    """Whether the server is up."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def port() -> int:
    """A port on the loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A PREFECT_HOME whose database is there already, as making one takes long."""
    home = tmp_path / "prefect home"
    home.mkdir()
    built = Path(os.environ["PREFECT_HOME"]).parent / "server" / "prefect.db"
    with closing(sqlite3.connect(built)) as one, closing(sqlite3.connect(home / "prefect.db")) as other:
        one.backup(other)
    return home


@pytest.mark.usefixtures("prefect_server_url")
def test_a_run_outlives_its_server(tmp_path: Path, home: Path, port: int, anycap_server: AnyCapServer) -> None:
    """A run whose server is away for a while goes on or ends in order, keeps all it has bought, and a rerun of the same
    command has every image, each bought once.
    """
    write_csv(tmp_path / "away.csv", SKUS)
    variables = anycap_variables(anycap_server, tmp_path)
    anycap_server.delay_s = 2.0
    with prefect_server_on(port, home) as api:
        run = start_rowshot(tmp_path, *RUN, PREFECT_API_URL=api, **variables)
        until(lambda: anycap_server.counts()["calls"] >= 16)
    gone = time.monotonic()
    time.sleep(AWAY_S)
    assert anycap_server.counts()["calls"] > 16, "it goes on without the server"
    with prefect_server_on(port, home):
        said, _ = run.communicate(timeout=PATIENCE_S)
        sys.stdout.write(f"server away for {time.monotonic() - gone:.0f} s at most: {said}\n")
        assert run.returncode in {0, 3}, said
        assert "Traceback" not in said
        bought = anycap_server.counts()["calls"]
        rows = by_sku(tmp_path / "output/manifest.csv")
        assert sum(row["status"] == "stored" for row in rows.values()) == bought
        again = rowshot_here(tmp_path, *RUN, PREFECT_API_URL=api, **variables)
    assert again.returncode == 0, again
    assert len(anycap_server.calls) == len(SKUS)
    assert set(anycap_server.calls.values()) == {1}
