"""Runs that are ended from outside: by Ctrl-C, and by a kill that leaves no time for anything."""

import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, rowshot_here, start_rowshot, until, write_csv

SKUS = [f"s{number}" for number in range(8)]
RUN = ("run", "products.csv", "--generator", "anycap", "--concurrency", "2")
PATIENCE_S = 180.0


@pytest.mark.usefixtures("prefect_server")
def test_ctrl_c_waits_for_what_is_paid_and_begins_no_more(tmp_path: Path, anycap_server: AnyCapServer) -> None:
    """An interrupted run keeps the images in the making, starts no others, leaves its reports and is exit code 3; the
    same command goes on from there.
    """
    variables = anycap_variables(anycap_server, tmp_path)
    write_csv(tmp_path / "products.csv", SKUS)
    anycap_server.delay_s = 2.0
    run = start_rowshot(tmp_path, *RUN, **variables)
    until(lambda: anycap_server.counts()["calls"] >= 2)
    anycap_server.delay_s = 8.0  # of the next two
    until(lambda: anycap_server.counts()["calls"] >= 4)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 3, said
    assert "the same command, goes on from here" in said.lower()
    assert "Traceback" not in said
    assert anycap_server.counts()["calls"] == 4
    rows = by_sku(tmp_path / "output/manifest.csv")
    assert sorted(row["status"] for row in rows.values()) == ["pending"] * 4 + ["stored"] * 4
    assert "under way" not in rowshot_here(tmp_path, "status").stdout

    anycap_server.delay_s = 0.0
    again = rowshot_here(tmp_path, *RUN, **variables)
    assert again.returncode == 0, again
    assert anycap_server.charges.total() == len(SKUS)
    assert set(anycap_server.charges.values()) == {1}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Prefect home that has never been used; the first server to start there has to build its database."""
    return tmp_path_factory.mktemp("a fresh home") / "prefect"


def test_with_no_server_configured_a_run_has_its_own(tmp_path: Path, home: Path) -> None:
    """The command starts a Prefect server where there is none, says so, has every row recorded in it, and ends it."""
    write_csv(tmp_path / "own.csv", SKUS[:3])
    run = start_rowshot(tmp_path, "run", "own.csv", PREFECT_HOME=str(home))
    server = embedded_server_of(run.pid)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert "PREFECT_API_URL names yours" in said
    assert "3 of 3 rows have their image; 3 bought" in said
    assert "Traceback" not in said
    assert not server.is_running()
    assert recorded_in(home, "own.csv") == [("COMPLETED", "COMPLETED")] * 3


def test_a_kill_loses_nothing_that_was_paid_for_and_leaves_no_server(
    tmp_path: Path, home: Path, prefect_server_url: str, anycap_server: AnyCapServer
) -> None:
    """When the command is killed, its own server and the calls under way end by themselves, and the next run takes
    the images of those calls instead of buying them again.
    """
    variables = anycap_variables(anycap_server, tmp_path)
    write_csv(tmp_path / "products.csv", SKUS)
    anycap_server.delay_s = 8.0
    run = start_rowshot(tmp_path, *RUN, PREFECT_HOME=str(home), **variables)
    server = embedded_server_of(run.pid)
    until(lambda: anycap_server.counts()["calls"] >= 2)
    time.sleep(0.5)
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) == 3
    run.kill()
    run.communicate()
    status = rowshot_here(tmp_path, "status").stdout
    assert "2  unknown" in status
    assert "cut off" in status
    _, alive = psutil.wait_procs(family, timeout=90)
    assert alive == []
    assert not server.is_running()

    anycap_server.delay_s = 0.0
    again = rowshot_here(tmp_path, *RUN, PREFECT_API_URL=prefect_server_url, **variables)
    assert again.returncode == 0, again
    assert "2  cut off in a call" in again.stdout
    assert anycap_server.counts()["calls"] == anycap_server.counts()["charges"] == len(SKUS)
    assert set(anycap_server.charges.values()) == {1}
    assert {row["attempts"] for row in by_sku(tmp_path / "output/manifest.csv").values()} == {"1"}


def embedded_server_of(command: int) -> psutil.Process:
    """The Prefect server that a command has started, once it is there."""
    found: list[psutil.Process] = []

    def is_there() -> bool:
        children = psutil.Process(command).children()
        found[:] = [child for child in children if "flows.tasks.embedded_server" in child.cmdline()]
        return bool(found)

    until(is_there)
    return found[0]


def recorded_in(home: Path, csv: str) -> list[tuple[str, str]]:
    """The states of flow run and task run, for each row of a CSV, in the database that an ended server has left."""
    states = """
        select flow_run.state_type, task_run.state_type
        from task_run join flow_run on flow_run.id = task_run.flow_run_id where flow_run.name = ?
    """
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        return [tuple(row) for row in database.execute(states, (f"generate-images / {csv}",))]
