"""The limit that runs share, on a real Prefect server: leased, shared, changed in the UI, lost, and free again."""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, rowshot_here, start_rowshot, until, write_csv
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.logging import disable_run_logger
from prefect.server.concurrency.lease_storage.filesystem import ConcurrencyLeaseStorage
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from recorded import Recorded
from seaweed import free_ports

from blocks import AnyCap
from flows.batch.slots import RunStopped, Slots
from flows.tasks import limit_share
from flows.tasks.leases import LEASE_S, RENEW_S, Leases
from flows.tasks.limit_setup import set_up_limits
from flows.tasks.limit_share import DEMAND, LimitShare, read_limit
from flows.tasks.limits import find_limit, leased
from flows.tasks.requests_per_minute import PER_MINUTE, burst_and_decay

pytestmark = pytest.mark.usefixtures("prefect_server")
FEW_S = 0.05


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:  # noqa: ARG001 - it is the server that it talks to
    """A client of the session's server."""
    with get_client(sync_client=True) as ours:
        yield ours


@pytest.fixture
def storage(prefect_database: Path) -> ConcurrencyLeaseStorage:
    """Where the session's server keeps its leases."""
    return ConcurrencyLeaseStorage(prefect_database.with_name("concurrency_leases"))


def make_limit(client: SyncPrefectClient, limit: int, decay: float = 0.0, name: str = "") -> str:
    """A limit of its own for each test; gives its name."""
    name = name or f"limit-{uuid.uuid4().hex[:8]}"
    new = GlobalConcurrencyLimitCreate(name=name, limit=limit, slot_decay_per_second=decay)
    client.create_global_concurrency_limit(new)
    return name


def change(client: SyncPrefectClient, name: str, limit: int) -> None:
    """What a person does in the UI."""
    client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=limit))


def active(client: SyncPrefectClient, name: str) -> int:
    """How many slots of a limit are taken, as the UI shows it."""
    return client.read_global_concurrency_limit_by_name(name).active_slots


class Run:
    """A run without its rows: threads that always want to make calls, each of a twentieth of a second."""

    def __init__(self, name: str, wide: int) -> None:
        self.slots = Slots(wide)
        self.calls: list[float] = []
        self._name = name
        self._threads = [threading.Thread(target=self.call) for _ in range(2 * wide)]

    def call(self) -> None:
        """Make calls until the run is stopped."""
        try:
            while True:
                with self.slots.hold():
                    self.calls.append(time.monotonic())
                    time.sleep(FEW_S)
        except RunStopped:
            return

    @contextmanager
    def going(self) -> Iterator[None]:
        """Calls are made while the body runs."""
        with disable_run_logger(), leased(self.slots, self._name, self.slots.limit):
            for thread in self._threads:
                thread.start()
            try:
                yield
            finally:
                self.slots.stop(ValueError("over"))
                for thread in self._threads:
                    thread.join(10)


def rowshot_run(folder: Path, server: AnyCapServer, limit: str, rows: int) -> tuple[list[str], dict[str, str]]:
    """The arguments and variables of a run that keeps to this limit."""
    folder.mkdir()
    write_csv(folder / "products.csv", [f"{folder.name}-{number}" for number in range(rows)])
    arguments = ["run", "products.csv", "--generator", "anycap", "--concurrency", "4", "--global-limit", limit]
    return arguments, anycap_variables(server, folder)


@pytest.mark.parametrize("anycap_server", [{"delay_s": 5}], indirect=True)
def test_two_runs_share_a_limit_and_take_up_its_change(
    tmp_path: Path, anycap_server: AnyCapServer, client: SyncPrefectClient
) -> None:
    """The provider never has more calls than the limit says, both runs make some of them, a limit that is raised
    meanwhile is used, and runs that are ended give back what they have.
    """
    limit = make_limit(client, 4)
    runs = []
    for name in ("one", "two"):
        arguments, variables = rowshot_run(tmp_path / name, anycap_server, limit, 100)
        runs.append(start_rowshot(tmp_path / name, *arguments, **variables))
    made = anycap_server.calls
    until(lambda: all(sum(f"product {name}" in prompt for prompt in list(made)) >= 2 for name in ("one", "two")))
    until(lambda: anycap_server.max_in_flight >= 4)
    assert anycap_server.max_in_flight == 4
    change(client, limit, 7)
    until(lambda: anycap_server.max_in_flight >= 7)
    for run in runs:
        run.terminate()
    anycap_server.hurry.set()
    told = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [3, 3], told
    assert anycap_server.max_in_flight == 7
    assert (active(client, limit), active(client, limit + DEMAND)) == (0, 0)


@pytest.mark.parametrize("anycap_server", [{"delay_s": 60}], indirect=True)
def test_the_slots_of_a_killed_run_come_back(
    tmp_path: Path, anycap_server: AnyCapServer, client: SyncPrefectClient, storage: ConcurrencyLeaseStorage
) -> None:
    """Nobody renews the leases of a run that was killed, they are for a minute at most, and once they have run out the
    server lets others have the slots.
    """
    limit = make_limit(client, 2)
    arguments, variables = rowshot_run(tmp_path / "killed", anycap_server, limit, 4)
    run = start_rowshot(tmp_path / "killed", *arguments, **variables)
    until(lambda: anycap_server.max_in_flight == 2)
    run.kill()
    run.communicate(timeout=60)
    anycap_server.hurry.set()
    assert active(client, limit) == 2
    ours = {client.read_global_concurrency_limit_by_name(name).id for name in (limit, limit + DEMAND)}
    for lease_id in asyncio.run(storage.read_active_lease_ids()):
        lease = asyncio.run(storage.read_lease(lease_id))
        if lease is not None and ours & set(lease.resource_ids):
            assert (lease.expiration - datetime.now(UTC)).total_seconds() <= LEASE_S
            asyncio.run(storage.renew_lease(lease_id, timedelta(0)))  # the minute is over
    until(lambda: (active(client, limit), active(client, limit + DEMAND)) == (0, 0))


def test_a_limit_that_is_named_and_not_there_stops_the_run(tmp_path: Path, anycap_server: AnyCapServer) -> None:
    """Nothing is bought without a limit that somebody counts on, and the mend is told."""
    arguments, variables = rowshot_run(tmp_path / "run", anycap_server, "nobody-made-it", 2)
    told = rowshot_here(tmp_path / "run", *arguments, **variables)
    assert told.returncode == 2, told
    assert "no global concurrency limit 'nobody-made-it'" in told.stderr
    assert "prefect gcl create" in told.stderr
    assert anycap_server.calls.total() == 0


def test_a_server_that_does_not_answer_may_have_the_limit() -> None:
    """A run then waits for slots until it is told, and does not call as if there were no limit."""
    away = {PREFECT_API_URL: f"http://127.0.0.1:{free_ports(1)[0]}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(away), disable_run_logger():
        assert find_limit("", AnyCap()) == "rowshot-anycap"


def test_a_tag_limit_tags_the_task_runs_of_rows(tmp_path: Path, recorded: Recorded) -> None:
    """Prefect's own limit for tags counts each row where somebody asks for it, and no row where nobody does."""
    for sheet, more in (("tagged", ("--tag-limit", "a-tag")), ("plain", ())):
        write_csv(tmp_path / f"{sheet}.csv", [f"{sheet}-1", f"{sheet}-2"])
        assert rowshot_here(tmp_path, "run", f"{sheet}.csv", *more).returncode == 0
    tags = {}
    for sheet in ("tagged", "plain"):
        (flow_run,) = recorded.flow_runs(f"generate-images / {sheet}.csv")
        tags[sheet] = [run.tags for run in recorded.task_runs(flow_run.id, 2)]
    assert tags == {"tagged": [["a-tag"], ["a-tag"]], "plain": [[], []]}


def test_runs_share_by_what_they_want(client: SyncPrefectClient) -> None:
    """Alone a run has the whole limit; beside another both have their part; what one gives up the other takes."""
    name = make_limit(client, 6)
    one, two = Run(name, 8), Run(name, 2)
    with one.going():
        until(lambda: one.slots.in_flight == 6)
        with two.going():
            until(lambda: two.slots.in_flight == 2)
            until(lambda: one.slots.in_flight <= 4)
            assert active(client, name) == 6
        until(lambda: one.slots.in_flight == 6)
    assert (active(client, name), active(client, name + DEMAND)) == (0, 0)


def test_a_limit_is_kept_to_as_a_person_changes_it(client: SyncPrefectClient) -> None:
    """Lowered, set to nothing, switched off and deleted while a run goes on: each counts within seconds."""
    name = make_limit(client, 6)
    run = Run(name, 8)
    with run.going():
        until(lambda: run.slots.in_flight == 6)
        change(client, name, 1)
        until(lambda: run.slots.in_flight == 1 and active(client, name) == 1)
        change(client, name, 0)
        until(lambda: run.slots.in_flight == 0)
        client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active=False))
        until(lambda: run.slots.in_flight == 8)
        client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active=True, limit=3))
        until(lambda: run.slots.in_flight == 3)
        client.delete_global_concurrency_limit_by_name(name)
        until(lambda: run.slots.in_flight == 8)


def test_a_run_that_gets_no_slot_says_so(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its log tells which limit it waits for and that all of it is taken, once, and it makes no call."""
    monkeypatch.setattr(limit_share, "NONE_S", 1.0)
    name = make_limit(client, 2)
    assert Leases(client, name, None).take_up_to(2) == 2
    run, done = Run(name, 1), threading.Event()
    run.slots.allow(0)
    share = LimitShare(run.slots, name, 1, client, None, logging.getLogger("a run"))
    follower = threading.Thread(target=share.follow, args=(threading.Event(), done))
    row = threading.Thread(target=run.call)
    for thread in (follower, row):
        thread.start()
    until(lambda: f"No slot of {name}" in caplog.text)
    assert "2 of 2 are taken" in caplog.text
    time.sleep(3)
    done.set()
    run.slots.stop(RunStopped("over"))
    for thread in (follower, row):
        thread.join(30)
    assert caplog.text.count("No slot of") == 1
    assert run.calls == []


def test_a_lease_that_the_server_forgot_is_lost_and_its_slots_are_free(
    client: SyncPrefectClient, storage: ConcurrencyLeaseStorage
) -> None:
    """A server that has forgotten a lease would count its slots for ever; they are free again, and no others."""
    name = make_limit(client, 5)
    leases = Leases(client, name, None)
    assert leases.take_up_to(9) == 5
    assert active(client, name) == 5
    forgotten = leases.held[2]
    asyncio.run(storage.revoke_lease(forgotten.id))
    for lease in leases.held:
        lease.renewed -= RENEW_S
    assert [lease.slots for lease in leases.renew()] == [forgotten.slots]
    assert leases.slots == active(client, name)
    for lease in list(leases.held):
        leases.give_back(lease)
    assert (leases.slots, active(client, name)) == (0, 0)


def test_never_more_calls_a_minute_than_the_limit_says(client: SyncPrefectClient) -> None:
    """However many slots there are, calls start only as the second limit gives them out."""
    name = make_limit(client, 8)
    burst, decay = burst_and_decay(120)
    make_limit(client, burst, decay, name + PER_MINUTE)
    run = Run(name, 8)
    began = time.monotonic()
    with run.going():
        until(lambda: len(run.calls) > burst)
    seconds = time.monotonic() - began
    assert len(run.calls) <= burst + decay * seconds
    assert burst + decay * 65 <= 120


def test_setup_makes_the_limits_and_leaves_what_a_person_has_set(client: SyncPrefectClient) -> None:
    """Missing: made. Told in the file: set. Not told: as it is on the server."""
    provider = f"somebody-{uuid.uuid4().hex[:8]}"
    name = f"rowshot-{provider}"

    def limit_and_decay(of: str) -> tuple[int, float] | None:
        found = read_limit(client, of)
        return (found.limit, found.slot_decay_per_second) if found else None

    assert dict(set_up_limits(provider, {})) == {name: "made (64 calls at once)"}
    assert limit_and_decay(name) == (64, 0)
    change(client, name, 20)
    assert dict(set_up_limits(provider, {})) == {name: "as it was (20 calls at once)"}
    assert dict(set_up_limits(provider, {"at_once": 30, "per_minute": 600})) == {
        name: "changed (30 calls at once)",
        name + PER_MINUTE: "made (600 calls a minute)",
    }
    assert limit_and_decay(name) == (30, 0)
    assert limit_and_decay(name + PER_MINUTE) == pytest.approx(burst_and_decay(600))
    assert dict(set_up_limits(provider, {"at_once": 30, "per_minute": 600})) == {
        name: "as it was (30 calls at once)",
        name + PER_MINUTE: "as it was (600 calls a minute)",
    }
