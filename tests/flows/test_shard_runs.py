"""How a run follows its shards as flow runs, where no worker is there to buy them: what it asks the server for."""

import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from command import until
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.deployments import run_deployment
from prefect.states import Paused, Pending, Running
from small_batch import SmallBatch

from blocks.proof import Proof
from flows.batch.approval import Narrowed, narrowed
from flows.batch.request import Request
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.batch.settings_groups import Advanced
from flows.batch.shards import ShardState, cut
from flows.batch.slots import Slots
from flows.tasks import shard_runs
from flows.tasks.handing_on import kept_only
from flows.tasks.shard_runs import ShardRuns
from flows.tasks.shards import generate_in_shards, settings_of_shard
from flows.tasks.stopping import stoppable

PATIENCE_S = 120.0

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    """A client of the session's server."""
    with get_client(sync_client=True) as ours:
        yield ours


@pytest.fixture
def small(tmp_path: Path) -> SmallBatch:
    """A batch of three rows."""
    batch = SmallBatch(tmp_path)
    batch.products("A", "B", "C")
    return batch


def begun(small: SmallBatch, batch: BatchSettings) -> BatchRun:
    """A run that gives up should it wait for ever."""
    run = small.open(batch)
    run.begin("anycap")
    late = threading.Timer(PATIENCE_S, run.slots.interrupt, ("it waits for ever", 0.0))
    late.daemon = True
    late.start()
    return run


def tries(run: BatchRun) -> list[int]:
    """How often each shard of a run was asked for."""
    return [shard.tries for shard in run.ledger.shards.of_run(run.id)]


def follow(client: SyncPrefectClient, body: Callable[[str], None]) -> None:
    """Do this in a flow, with a deployment whose flow runs nobody takes."""

    @flow(name=f"followed-{uuid4().hex[:8]}")
    def followed(deployment: str) -> None:
        body(deployment)

    client.create_deployment(client.create_flow(followed), "nobody")
    followed(f"{followed.name}/nobody")


def beside(work: Callable[[], None]) -> threading.Thread:
    """Do this in another thread, with this one's server."""
    thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True)
    thread.start()
    return thread


def test_a_start_that_the_server_refuses_ends_the_run_with_words(tmp_path: Path) -> None:
    """What a deployment's form does not take, or one that is gone, is not asked for again: the run says what to do."""
    small = SmallBatch(tmp_path)
    small.products("A", "B", "C")
    jobs, batch = small.jobs(), small.settings()
    name = f"refusing-{uuid4().hex[:8]}"
    form = {"type": "object", "properties": {"shard": {"type": "string"}}, "required": ["shard"]}

    @flow(name=name)
    def refused(deployment: str) -> str:
        run = small.open(batch)
        run.begin("anycap")
        ShardRuns(run, batch, deployment, 2).have(jobs, 1)
        assert {shard.state for shard in run.ledger.shards.of_run(run.id)} == {ShardState.DROPPED}
        return str(run.slots.stopped)

    with get_client(sync_client=True) as client:
        client.create_deployment(
            client.create_flow(refused), "strict", parameter_openapi_schema=form, enforce_parameter_schema=True
        )
    for deployment, why in ((f"{name}/strict", "is not of type 'string'"), (f"{name}/gone", "no such deployment")):
        told = refused(deployment)
        assert f"refuses to start shard 1 on {deployment}" in told
        assert why in told
        assert "prefect deploy --all" in told


def test_a_shard_that_dies_after_its_end_is_not_waited_for(small: SmallBatch, client: SyncPrefectClient) -> None:
    """Its end is in the ledger; that nobody told the server any more does not hold up the run for ever."""
    jobs, batch = small.jobs(), small.settings()
    run = begun(small, batch)

    def end() -> None:
        until(lambda: tries(run) == [1, 1, 1])
        for number in (1, 2, 3):
            run.ledger.shards.end(run.id, number, ShardState.ENDED)

    beside(end)
    follow(client, lambda deployment: ShardRuns(run, batch, deployment, 3).have(jobs, 1))
    assert run.slots.stopped is None


def test_a_shard_whose_worker_is_gone_before_it_begins_is_started_again(
    small: SmallBatch, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken and never begun: after a while it is crashed on the server, and one more flow run is asked for."""
    monkeypatch.setattr(shard_runs, "STARTING_S", 1.0)
    jobs, batch = small.jobs(), small.settings()
    run = begun(small, batch)
    told: list[str] = []

    def lose() -> None:
        until(lambda: tries(run) == [1] and len(flow_runs(client, run)) == 1)
        (first,) = flow_runs(client, run)
        client.set_flow_run_state(first, Pending())
        until(lambda: tries(run) == [2])
        told.append(str(client.read_flow_run(first).state))
        run.ledger.shards.end(run.id, 1, ShardState.ENDED)

    beside(lose)
    follow(client, lambda deployment: ShardRuns(run, batch, deployment, 1).have(jobs, 3))
    assert run.slots.stopped is None
    assert "A worker took it, and it had not begun" in told[0]


def flow_runs(client: SyncPrefectClient, run: BatchRun) -> list[UUID]:
    """The flow runs of the first try of a run's first shard."""
    wanted = {"flow_runs": {"idempotency_key": {"any_": [f"rowshot/{run.id}/1/1"]}}}
    return [UUID(found["id"]) for found in client.request("POST", "/flow_runs/filter", json=wanted).json()]


def test_a_run_that_is_retried_follows_its_shards_however_few_rows_are_left(
    small: SmallBatch, client: SyncPrefectClient
) -> None:
    """What goes on in a shard from before is waited for, and bought by nobody else."""
    jobs = small.jobs()

    def retried(deployment: str) -> None:
        advanced = Advanced(shard_rows=3, shard_deployment=deployment, ledger=small.where)
        batch = small.settings().model_copy(update={"advanced": advanced})
        run = begun(small, batch)
        run.ledger.shards.put(run.id, cut(jobs[:2], 2))
        attempt = run.ledger.shards.next_try(run.id, 1)
        run_deployment(deployment, idempotency_key=f"rowshot/{run.id}/1/{attempt}", timeout=0)
        began = threading.Event()

        def end() -> None:
            began.wait(PATIENCE_S)
            run.ledger.shards.end(run.id, 1, ShardState.ENDED)

        beside(end)
        threading.Timer(3.0, began.set).start()
        generate_in_shards(batch, run, Proof(), jobs[:2], kept_only)
        assert began.is_set()
        assert run.slots.stopped is None
        assert not run.ledger.standings(job.key for job in jobs)

    follow(client, retried)


def test_a_cap_that_was_lowered_in_an_approval_holds_for_shards(small: SmallBatch) -> None:
    """They are given what the person let the run spend, not what the form had."""
    batch = small.settings(max_cost_usd="25")
    run = small.open(batch)
    narrowed(small.plan(), Narrowed(max_cost_usd="0.01"), run)
    assert Request.of(settings_of_shard(batch, run)).caps.run_usd == Decimal("0.01")


def test_a_shard_is_paused_with_its_run(client: SyncPrefectClient) -> None:
    """While its run is paused it begins no call, and it goes on once that is resumed."""
    whole, part = (under_way(client) for _ in range(2))
    slots = Slots(1)

    @flow
    def shard() -> None:
        with stoppable(slots, part, part_of=whole):
            client.set_flow_run_state(whole, Paused(timeout_seconds=300), force=True)
            until(lambda: slots.paused)
            client.set_flow_run_state(whole, Running(), force=True)
            until(lambda: not slots.paused)

    shard()
    assert slots.stopped is None


def under_way(client: SyncPrefectClient) -> UUID:
    """A flow run that is under way as far as the server knows."""
    of = {"flow_id": str(client.create_flow_from_name("paused")), "state": {"type": "RUNNING"}}
    return UUID(client.request("POST", "/flow_runs/", json=of).json()["id"])
