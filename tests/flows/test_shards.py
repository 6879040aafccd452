"""Large files in shards: in the run's own process, and as flow runs of a deployment that die and are started again."""

import os
import signal
import threading
from collections.abc import Iterator
from contextvars import copy_context
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, table, until, write_csv
from object_store import ObjectStore
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import Pause
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Cancelling, Suspended
from recorded import Recorded
from served import Served, copy_of_repo
from small_batch import SmallBatch
from sqlalchemy import select

from flows.batch.addresses import Addresses
from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import owners, shards
from flows.batch.plan import Left
from flows.batch.settings import BatchSettings
from flows.batch.settings_groups import Advanced
from flows.batch.uploads import Shelf
from flows.generate_images import generate_images
from flows.tasks.handing_on import handing_on

REPO = Path(__file__).parents[2]
POOL = "shards"
SHARD = "generate-shard/generate-shard"
PRICE = 1  # of an image, in credits


@pytest.fixture(scope="module")
def provider() -> Iterator[AnyCapServer]:
    """The provider of all the runs here: the worker has its address from its start."""
    with AnyCapServer() as server:
        yield server


@pytest.fixture(scope="module")
def workers(
    prefect_server_url: str, provider: AnyCapServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A process worker for all deployments of a clone, in a pool of its own; gives the clone, which has its ledger."""
    clone = copy_of_repo(tmp_path_factory.mktemp("shards"))
    deployments = clone / "prefect.yaml"
    deployments.write_text(deployments.read_text("utf-8").replace("name: rowshot", f"name: {POOL}"), "utf-8")
    served = Served(clone, prefect_server_url, anycap_variables(provider, clone), POOL)
    served.make_pool()
    served.prefect("deploy", "-n", "generate-images", "-n", "generate-shard")
    with temporary_settings({PREFECT_API_URL: prefect_server_url}), get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("rowshot-anycap", 16)  # another test's may be there
    with served.worker():
        yield clone


@pytest.fixture
def buying(workers: Path, provider: AnyCapServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has this process buy of the same provider, with the same ledger, as the worker's; gives the clone."""
    for name, value in anycap_variables(provider, workers).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ROWSHOT_LEDGER", str(workers / "ledger.sqlite3"))
    provider.credit, provider.delay_s = None, 0.5
    return workers


def settings(folder: Path, name: str, shard_rows: int = 3, shards_at_once: int = 4) -> BatchSettings:
    """A batch of nine rows, in shards that are flow runs."""
    return BatchSettings(
        csv=str(write_csv(folder / name, [f"{name[:3]}{number}" for number in range(9)])),
        output=str(folder / "out"),
        generator="anycap",
        concurrency=2,
        advanced=Advanced(shard_rows=shard_rows, shard_deployment=SHARD, shards_at_once=shards_at_once),
    )


def calls_for(provider: AnyCapServer, name: str) -> list[int]:
    """How often each image of a batch was charged for."""
    return [count for prompt, count in provider.charges.items() if f"product {name[:3]}" in prompt]


def process_of_shard(ledger: Ledger, number: int) -> int:
    """The pid of whoever works on a shard of the newest run that has one; 0 where nobody does."""
    with ledger.reading() as connection:
        mine = (shards.c.number == number, shards.c.state == "under-way", shards.c.owner == owners.c.owner)
        found: int | None = connection.scalar(select(owners.c.pid).where(*mine).order_by(shards.c.at.desc()).limit(1))
    return found or 0


def once_it_buys(name: str, ledger: Ledger, provider: AnyCapServer, recorded: Recorded) -> UUID:
    """The flow run of a batch, once a call of its first shard is at the provider."""
    until(lambda: bool(process_of_shard(ledger, 1)) and f"product {name[:3]}" in " ".join(provider.calls))
    (run,) = recorded.flow_runs(f"generate-images / {name}")
    return run.id


def test_a_shard_that_dies_is_started_again_and_buys_nothing_twice(
    buying: Path, provider: AnyCapServer, recorded: Recorded, tmp_path: Path
) -> None:
    """Three shards are three flow runs, named by their part; one that is killed goes on in a fourth from the ledger,
    and the one report of them has all rows.
    """
    ledger, batch = Ledger.open(str(buying / "ledger.sqlite3")), settings(tmp_path, "killed.csv", shards_at_once=2)

    def kill() -> None:
        until(lambda: bool(process_of_shard(ledger, 2)) and "product kil" in " ".join(provider.calls))
        pid = process_of_shard(ledger, 2)
        assert pid, "the shard is over already"
        os.kill(pid, signal.SIGKILL)

    provider.delay_s = 2.0
    killer = threading.Thread(target=kill)
    killer.start()
    state = generate_images(batch, return_state=True)
    killer.join()
    assert state.message is not None
    assert state.message.startswith("9 of 9"), state
    assert calls_for(provider, "killed.csv") == [1] * 9
    assert [row["image_status"] for row in table(tmp_path / "out/results.csv")] == ["stored"] * 9
    tried = [len(recorded.flow_runs(f"generate-shard / killed.csv {number} of 3")) for number in (1, 2, 3)]
    assert tried == [1, 2, 1]


@pytest.mark.usefixtures("buying")
def test_what_stops_one_shard_stops_all(provider: AnyCapServer, recorded: Recorded, tmp_path: Path) -> None:
    """Where the credit ends in the second shard the third is not begun, and the run says why it ended early."""
    provider.credit = 5 * PRICE
    state = generate_images(settings(tmp_path, "poor.csv", shards_at_once=1), return_state=True)
    assert state.name == "EndedEarly"
    assert "credit" in str(state.message)
    assert len(calls_for(provider, "poor.csv")) == 5
    statuses = [row["image_status"] for row in table(tmp_path / "out/results.csv")]
    assert (statuses.count("stored"), statuses.count("pending")) == (5, 4)
    assert recorded.flow_runs("generate-shard / poor.csv 3 of 3") == []


def test_a_run_that_dies_finds_its_shards_again(
    buying: Path, provider: AnyCapServer, recorded: Recorded, tmp_path: Path
) -> None:
    """The run is killed while shards go on, and retried as from the server's pages: it follows those that live, starts
    none a second time, and makes the report.
    """
    batch = settings(tmp_path, "parent.csv", shard_rows=5)
    ledger = Ledger.open(str(buying / "ledger.sqlite3"))
    provider.delay_s = 10.0
    deployment = recorded.deployment("generate-images/generate-images").id
    with get_client(sync_client=True) as client:
        parameters = {"batch": batch.model_dump(mode="json", exclude_defaults=True)}
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters).id
        until(lambda: all(process_of_shard(ledger, number) for number in (1, 2)))
        os.kill(process_of_run(ledger, run), signal.SIGKILL)
        until(lambda: client.read_flow_run(run).state_name == "Crashed")
        client.set_flow_run_state(run, AwaitingRetry(scheduled_time=datetime.now(UTC)), force=True)
        until(lambda: client.read_flow_run(run).state_name in {"Completed", "EndedEarly", "Failed"})
        state = client.read_flow_run(run).state
    assert state is not None
    assert str(state.message).startswith("9 of 9"), state
    assert calls_for(provider, "parent.csv") == [1] * 9
    names = [f"generate-shard / parent.csv {number} of 2" for number in (1, 2)]
    assert [len(recorded.flow_runs(name)) for name in names] == [1, 1]


def test_a_run_that_is_cancelled_cancels_its_shards(
    buying: Path, provider: AnyCapServer, recorded: Recorded, tmp_path: Path
) -> None:
    """What is under way comes home, nothing else is begun, the reports are there, and the run and its shards are
    cancelled.
    """
    batch = settings(tmp_path, "cancelled.csv", shard_rows=5, shards_at_once=1)
    ledger = Ledger.open(str(buying / "ledger.sqlite3"))
    provider.delay_s = 8.0

    def cancel() -> None:
        run = once_it_buys("cancelled.csv", ledger, provider, recorded)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run, Cancelling())

    canceller = threading.Thread(target=copy_context().run, args=(cancel,))
    canceller.start()
    state = generate_images(batch, return_state=True)
    canceller.join()
    assert state.is_cancelled(), state
    (shard,) = recorded.flow_runs("generate-shard / cancelled.csv 1 of 2")
    until(lambda: recorded.flow_runs(shard.name)[0].state_name == "Cancelled")
    bought = calls_for(provider, "cancelled.csv")
    assert 0 < len(bought) < 9
    statuses = [row["image_status"] for row in table(tmp_path / "out/results.csv")]
    assert (statuses.count("stored"), statuses.count("pending")) == (len(bought), 9 - len(bought))
    assert recorded.flow_runs("generate-shard / cancelled.csv 2 of 2") == []


def test_a_run_that_is_suspended_has_its_shards_end(
    buying: Path, provider: AnyCapServer, recorded: Recorded, tmp_path: Path
) -> None:
    """Its shards begin no further call, either: a suspended run buys nothing through others."""
    batch = settings(tmp_path, "waiting.csv", shard_rows=5, shards_at_once=1)
    ledger = Ledger.open(str(buying / "ledger.sqlite3"))
    provider.delay_s = 8.0

    def suspend() -> None:
        run = once_it_buys("waiting.csv", ledger, provider, recorded)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run, Suspended(timeout_seconds=300), force=True)

    person = threading.Thread(target=copy_context().run, args=(suspend,))
    person.start()
    with pytest.raises(Pause):
        generate_images(batch, return_state=True)
    person.join()
    assert recorded.flow_runs("generate-images / waiting.csv")[0].state_name == "Suspended"
    (shard,) = recorded.flow_runs("generate-shard / waiting.csv 1 of 2")
    until(lambda: recorded.flow_runs(shard.name)[0].state_name == "Cancelled")
    assert 0 < len(calls_for(provider, "waiting.csv")) < 5
    assert recorded.flow_runs("generate-shard / waiting.csv 2 of 2") == []


def process_of_run(ledger: Ledger, run: UUID) -> int:
    """The pid of the process that holds a run and none of its shards."""
    with ledger.reading() as connection:
        held = select(shards.c.owner).where(shards.c.run == str(run))
        mine = (owners.c.run == str(run), owners.c.owner.not_in(held))
        pids = connection.execute(select(owners.c.pid).where(*mine)).scalars().all()
        others = connection.execute(select(owners.c.pid).where(owners.c.owner.in_(held))).scalars().all()
    (pid,) = set(pids) - set(others)
    return int(pid)


@pytest.mark.usefixtures("prefect_server")
def test_shards_in_one_process_give_the_same_reports(tmp_path: Path) -> None:
    """A file in shards, one after the other, leaves the same rows in its reports as the file in one."""
    path = write_csv(tmp_path / "same.csv", [f"s{number}" for number in range(7)])
    told = []
    for name, rows in (("whole", 0), ("shards", 3)):
        output, ledger = tmp_path / name, str(tmp_path / f"{name}.sqlite3")
        advanced = Advanced(shard_rows=rows, ledger=ledger)
        state = generate_images(BatchSettings(csv=str(path), output=str(output), advanced=advanced), return_state=True)
        assert state.is_completed(), state
        manifest = [{**row, "seconds": "", "request_id": ""} for row in table(output / "manifest.csv")]
        told.append((manifest, (output / "results.csv").read_text("utf-8-sig"), state.message))
    assert told[0] == told[1]


@pytest.mark.usefixtures("prefect_server")
def test_shards_that_nobody_could_buy_are_refused_before_anything_is_bought(tmp_path: Path) -> None:
    """A deployment that the server doesn't have is told with what to do about it."""
    batch = settings(tmp_path, "nowhere.csv").model_copy(update={"generator": "proof"})
    advanced = batch.advanced.model_copy(update={"shard_deployment": "generate-shard/elsewhere"})
    state = generate_images(batch.model_copy(update={"advanced": advanced}), return_state=True)
    assert "has no deployment 'generate-shard/elsewhere'" in str(state.message)
    assert "prefect deploy --all" in str(state.message)
    assert not (tmp_path / "out/images").exists()


@pytest.mark.usefixtures("prefect_server")
def test_why_a_shard_could_not_hand_on_stays_the_run_s_own_word(tmp_path: Path) -> None:
    """A run that has nothing of its own to hand on does not forget what stopped its shards' deliveries."""
    small = SmallBatch(tmp_path)
    run = small.open(small.settings())
    run.shelf = Shelf(ObjectStore(), Addresses("", "bucket"), run.ledger.deliveries, run.output.root)

    @flow
    def handing() -> None:
        with handing_on(run, Left()):
            run.delivery_stopped = "The store's key is refused."

    handing()
    assert run.delivery_stopped == "The store's key is refused."
