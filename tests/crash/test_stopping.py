"""Runs that are ended from outside: calls in flight get their time, the rest is left to the next run."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from anycap_faults import hang
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, environment, rowshot_here, start_rowshot, until, write_csv
from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.states import Cancelling
from processes import end
from recorded import Recorded

REPO = Path(__file__).parents[2]
SKUS = [f"s{number}" for number in range(40)]
SLOW = ("s0", "s1")
PATIENCE_S = 240.0


@contextmanager
def worker(folder: Path, **variables: str) -> Iterator[Callable[[Path], UUID]]:
    """A process worker; gives what has it run a CSV, and tells the flow run's id."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="stopping", type="process"))
    source = flow.from_source(str(REPO), "flows/generate_images.py:generate_images")
    assert isinstance(source, Flow)
    source.deploy("stopping", work_pool_name="stopping", print_next_steps=False, build=False)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "stopping"]
    with (folder / "worker.log").open("wb") as log:
        child = subprocess.Popen(command, env=environment(folder, **variables), stdout=log, stderr=log)
    try:

        def ask(csv: Path) -> UUID:
            batch = {"csv": str(csv), "output": str(folder / "output"), "generator": "anycap", "concurrency": 8}
            name = "generate-images/stopping"
            asked = run_deployment(name, parameters={"batch": batch}, timeout=0)
            assert isinstance(asked, FlowRun)
            return asked.id

        yield ask
    finally:
        end(child)


def cancel(run: UUID) -> None:
    """What the button in the UI does."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling())


def ended(run: UUID) -> FlowRun:
    """The flow run, once the server has its end."""
    found: list[FlowRun] = []

    def is_final() -> bool:
        with get_client(sync_client=True) as client:
            found[:] = [client.read_flow_run(run)]
        return found[0].state is not None and found[0].state.is_final()

    until(is_final)
    return found[0]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """A folder with a CSV for each way of ending a run."""
    folders = {way: tmp_path / way for way in ("told", "cancelled", "worker")}
    for way, folder in folders.items():
        folder.mkdir()
        write_csv(folder / f"{way}.csv", {sku: f"#{sku}#" for sku in SKUS})
    return folders


def test_a_run_that_is_told_to_end_keeps_what_comes_home_and_leaves_the_rest(
    places: dict[str, Path], recorded: Recorded
) -> None:
    """By SIGTERM, and by a cancellation on the server of a plain command and of a worker's run: no call starts any
    more, calls that come home within 20 s are kept, slower ones go on by themselves and the next run takes them, bought
    once. The reports are written, and the flow run ends Cancelled before a worker would kill it.
    """
    with ExitStack() as stack:
        servers = {
            way: stack.enter_context(AnyCapServer(delay_s=3.0, faults={f"#{sku}#": [hang(300.0)] for sku in SLOW}))
            for way in places
        }
        variables = {way: anycap_variables(servers[way], places[way]) for way in places}
        start = stack.enter_context(worker(places["worker"], **variables["worker"]))
        worker_run = start(places["worker"] / "worker.csv")
        options = ("--generator", "anycap", "--concurrency", "8")
        commands = {
            way: start_rowshot(places[way], "run", f"{way}.csv", *options, **variables[way])
            for way in ("told", "cancelled")
        }
        for server in servers.values():
            until(lambda server=server: server.was_asked(*map("#{}#".format, SLOW)) and server.counts()["calls"] >= 8)  # type: ignore[misc]
        (plain_run,) = recorded.flow_runs("generate-images / cancelled.csv")
        (told_run,) = recorded.flow_runs("generate-images / told.csv")

        begun = time.monotonic()
        commands["told"].send_signal(signal.SIGTERM)
        cancel(plain_run.id)
        cancel(worker_run)
        time.sleep(10)  # it takes no longer for it: the slow calls hold up the ends for 20 s
        calls = {way: server.counts()["calls"] for way, server in servers.items()}
        states = {run: ended(run).state for run in (worker_run, plain_run.id, told_run.id)}
        said = {way: command.communicate(timeout=PATIENCE_S)[0] for way, command in commands.items()}
        assert time.monotonic() - begun < 60, said  # the slow calls would take 300 s
        assert {way: server.counts()["calls"] for way, server in servers.items()} == calls
        assert {str(state and state.type.value) for state in states.values()} == {"CANCELLED"}
        assert {command.returncode for command in commands.values()} == {3}, said
        assert "It was told to end" in said["told"]
        assert "It was cancelled on the server" in said["cancelled"]
        for way, folder in places.items():
            rows = by_sku(folder / "output/manifest.csv")
            states_of = {sku: (row["status"], row["error"]) for sku, row in rows.items() if row["status"] != "stored"}
            assert {sku for sku, (status, _) in states_of.items() if status == "unknown"} == set(SLOW), states_of
            assert sum(row["status"] == "stored" for row in rows.values()) == calls[way] - len(SLOW)

        for way, folder in places.items():
            servers[way].delay_s = 0.0
            later = threading.Timer(6.0, servers[way].hurry.set)  # the next run is waiting for the slow ones by then
            later.start()
            output = ("--output", str(folder / "output"))
            again = rowshot_here(folder, "run", f"{way}.csv", *options, *output, **variables[way])
            assert again.returncode == 0, again
            assert set(servers[way].calls.values()) == {1}
            assert len(servers[way].calls) == len(SKUS)
            assert by_sku(folder / "output/manifest.csv")["s0"]["attempts"] == "1"


@pytest.mark.usefixtures("prefect_server")
def test_a_second_ctrl_c_waits_for_nothing(tmp_path: Path, anycap_server: AnyCapServer) -> None:
    """Calls in flight are left at once, the run is ended as after one Ctrl-C, and nothing is bought twice."""
    write_csv(tmp_path / "twice.csv", SKUS[:6])
    variables = anycap_variables(anycap_server, tmp_path)
    anycap_server.delay_s = 300.0
    run = start_rowshot(tmp_path, "run", "twice.csv", "--generator", "anycap", **variables)
    until(lambda: anycap_server.counts()["calls"] == 4)
    run.send_signal(signal.SIGINT)
    assert run.stdout
    said = ""
    while "Stopping:" not in said:
        assert run.poll() is None, said
        said += os.read(run.stdout.fileno(), 65536).decode(errors="replace")
    run.send_signal(signal.SIGINT)
    begun = time.monotonic()
    said += run.communicate(timeout=PATIENCE_S)[0]
    assert run.returncode == 3, said
    assert time.monotonic() - begun < 15  # one Ctrl-C alone would take 20 s
    assert "4  unknown" in rowshot_here(tmp_path, "status").stdout
    anycap_server.delay_s = 0.0
    anycap_server.hurry.set()
    again = rowshot_here(tmp_path, "run", "twice.csv", "--generator", "anycap", **variables)
    assert again.returncode == 0, again
    assert set(anycap_server.calls.values()) == {1}
    assert len(anycap_server.calls) == 6
