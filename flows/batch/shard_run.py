"""A shard's part in its run: taken from the ledger, bought on the run's account, and its end written down."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flows.batch.jobs import Job
from flows.batch.ledger_tables import State
from flows.batch.problems import NotStarted, Problem
from flows.batch.run import BatchRun
from flows.batch.shards import ShardState
from flows.batch.stores import StoreUnusable


@contextmanager
def taken(run: BatchRun, number: int) -> Iterator[Sequence[Job]]:
    """Be the one who works on a shard while the body runs. Gives all its jobs, be they done by now or not.

    Raises: NotStarted where the ledger here doesn't have it, or no image could be kept.
    """
    jobs = run.ledger.shards.jobs(run.id, number)
    if jobs is None:
        mend = "Give the worker the ledger that the run has: ROWSHOT_LEDGER, or Ledger in the form."
        raise NotStarted([Problem(f"The ledger has no shard {number} of the run {run.id}.", mend)])
    try:
        run.output.prepare()
    except StoreUnusable as error:
        raise NotStarted([Problem(str(error), "")]) from error
    with run.ledger.owning(run.id) as owner:
        run.ledger.shards.take(run.id, number, owner.id)
        yield jobs


def has_shards(run: BatchRun) -> bool:
    """Whether shards of this very run may go on from before it died."""
    return any(not shard.state.is_over for shard in run.ledger.shards.of_run(run.id))


def end_shard(run: BatchRun, number: int) -> None:
    """Write down how a shard has ended, for the run that waits for it."""
    state = ShardState.ENDED
    if run.slots.stopped is not None:
        state = ShardState.INTERRUPTED if run.slots.interrupted else ShardState.STOPPED
    run.ledger.shards.end(run.id, number, state, str(run.slots.stopped or run.delivery_stopped))


def images_of(run: BatchRun, jobs: Sequence[Job]) -> int:
    """How many of these jobs have their image."""
    standings = run.ledger.standings(job.key for job in jobs)
    return sum(standing.state is State.BOUGHT for standing in standings.values())
