"""Where limits begin and end: the first start of a run, from one shard to the next, and a run that is ended."""

import logging
import re
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import until, write_csv
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.context import FlowRunContext
from prefect.logging import disable_run_logger

from flows.batch.request import Request
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.batch.settings_groups import Advanced
from flows.batch.slots import Slots
from flows.generate_images import generate_images
from flows.tasks.limits import leased
from flows.tasks.recording import STANDS_STILL_S, until_heard
from flows.tasks.requests_per_minute import PER_MINUTE

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:  # noqa: ARG001 - it is the server that it talks to
    """A client of the session's server."""
    with get_client(sync_client=True) as ours:
        yield ours


def make_limit(client: SyncPrefectClient, limit: int, decay: float = 0.0, name: str = "") -> str:
    """A limit of its own for each test; gives its name."""
    name = name or f"limit-{uuid.uuid4().hex[:8]}"
    new = GlobalConcurrencyLimitCreate(name=name, limit=limit, slot_decay_per_second=decay)
    client.create_global_concurrency_limit(new)
    return name


def active(client: SyncPrefectClient, name: str) -> int:
    """How many slots of a limit are taken, as the UI shows it."""
    return client.read_global_concurrency_limit_by_name(name).active_slots


def test_starts_need_no_grant_once_nobody_grants_them(client: SyncPrefectClient) -> None:
    """The very first call takes a start; what is held back goes on where the limit is kept to no more."""
    name = make_limit(client, 4)
    make_limit(client, 1, 0.001, name + PER_MINUTE)
    slots, over = Slots(4), threading.Event()
    with disable_run_logger(), leased(slots, name, 4):
        with slots.hold():
            until(lambda: slots.starts_left == 0)
        until(lambda: active(client, name + PER_MINUTE) == 1)

    def call() -> None:
        with slots.hold():
            over.set()

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    assert over.wait(20)
    caller.join(20)


def test_slots_are_kept_from_one_shard_to_the_next(client: SyncPrefectClient, tmp_path: Path) -> None:
    """Shards of one process are bought on one lease: between two of them no other run takes the slots."""
    name, seen = make_limit(client, 3), list[int]()

    class Between(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if re.match(r"Shard \d of 3 has ended", record.getMessage()):
                seen.append(active(client, name))

    path = write_csv(tmp_path / "products.csv", [f"s{number}" for number in range(9)])
    advanced = Advanced(shard_rows=3, global_limit=name, ledger=str(tmp_path / "ledger.sqlite3"))
    log, between = logging.getLogger("prefect.flow_runs"), Between()
    log.addHandler(between)
    try:
        batch = BatchSettings(csv=str(path), output=str(tmp_path / "out"), concurrency=3, advanced=advanced)
        state = generate_images(batch, return_state=True)
    finally:
        log.removeHandler(between)
    assert state.is_completed(), state
    assert len(seen) == 3
    assert min(seen) > 0
    assert active(client, name) == 0


def test_a_run_that_is_ended_does_not_wait_for_a_slow_server(tmp_path: Path) -> None:
    """Its worker kills it soon, and the reports are still to be written: what the server has not heard of is told."""
    told: list[str] = []

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    @flow
    def ended_flow() -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        context.flow_run.deployment_id = uuid.uuid4()
        batch = BatchSettings(csv="x.csv", output=str(tmp_path), advanced=Advanced(ledger=str(tmp_path / "ledger.db")))
        run = BatchRun.open(Request.of(batch))
        run.ended = 5
        run.slots.interrupt("over", 0.1)
        log, teller = logging.getLogger("prefect.flow_runs"), Told()
        log.addHandler(teller)
        try:
            until_heard(run)
        finally:
            log.removeHandler(teller)

    began = time.monotonic()
    ended_flow()
    assert time.monotonic() - began < STANDS_STILL_S
    assert any("of 5 rows ended" in line for line in told)
