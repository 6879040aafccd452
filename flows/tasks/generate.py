"""The task that has one row's image made, and how it is mapped over a batch."""

import logging
from collections.abc import Iterator, Sequence
from decimal import Decimal
from math import ceil
from queue import Empty, SimpleQueue
from typing import Any

from prefect import Task, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import Pause
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import opaque

from blocks import ImageGenerator
from blocks.errors import LeftRunning, RetryableError
from flows.batch.jobs import Job
from flows.batch.purchase import Purchase
from flows.batch.run import BatchRun
from flows.batch.slots import RunStopped, Slots
from flows.tasks.handing_on import HandOn, kept_only
from flows.tasks.limits import leased, limit_of
from flows.tasks.row_log_filter import tell_no_rows
from flows.tasks.stopping import GRACE_S, SUSPENDED

TRIES = 3
AHEAD = 4  # rows submitted for each that may be in flight
HEAD_START_S = 0.5
MOST_HEAD_STARTS = 20


async def is_free_to_retry(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether a new call costs nothing: the provider refused the last one before any work."""
    return isinstance(await state.aresult(raise_on_failure=False), RetryableError)


@task(
    name="generate_image",
    task_run_name="{job.sku}",
    retries=TRIES - 1,
    retry_delay_seconds=[2, 4],
    retry_jitter_factor=0.5,
    retry_condition_fn=is_free_to_retry,
    cache_policy=NO_CACHE,  # the ledger knows what is bought; a cache key would only cost
    persist_result=False,
)
def generate_image(job: Job, purchase: Purchase, hand_on: HandOn) -> State[Any] | None:
    """Have one row's image in the output folder, once; its errors say what a further try would cost.

    It gives no result, for the flow run would keep that, and more about it, to its end: 4 KB and more a row.
    """
    try:
        bought = purchase.get(job)
    except RunStopped as stopped:
        return Cancelled(name="NotBegun", message=f"The run was ending: {stopped}")
    except LeftRunning as left:
        return Cancelled(name="LeftRunning", message=str(left))
    hand_on(bought)
    return None


def generate_images_of(
    run: BatchRun, generator: ImageGenerator, jobs: Sequence[Job], hand_on: HandOn = kept_only, *, lease: bool = True
) -> None:
    """Map the task over the jobs and follow it to the end. Each row's outcome is in the ledger, each image handed on.

    Twice as many threads as calls: a row that waits to be tried again sleeps in its thread, and must not keep a slot
    from the others. Calls are made in slots of the provider's limit, where the server has one; with `lease` off
    whoever calls this has leased them.
    """
    limit = limit_of(run, generator) if lease else ""
    tag = run.request.tag_limit
    of_row = generate_image.with_options(tags=[tag]) if tag else generate_image
    usd_per_credit = getattr(generator, "usd_per_credit", Decimal(0))
    tell_no_rows()
    threads: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(2 * run.slots.limit)
    with leased(run.slots, limit, len(jobs)), run.buying(generator, usd_per_credit) as purchase, threads as pool:
        try:
            same = {"purchase": unmapped(opaque(purchase)), "hand_on": unmapped(opaque(hand_on))}
            for image in _mapped(pool, of_row, jobs, same, run.slots):
                _count(image, run)
        except Pause:  # suspended: what is in flight comes home, and the run goes on when it is resumed
            run.slots.stop(RunStopped(SUSPENDED))
            raise
        except BaseException:
            run.slots.interrupt("It broke off. Retry, or the same command, goes on from here.", GRACE_S)
            raise


def _mapped(
    pool: ThreadPoolTaskRunner[Any], of_row: Task[Any, Any], jobs: Sequence[Job], same: dict[str, Any], slots: Slots
) -> Iterator[PrefectFuture[Any]]:
    """Map the task over the jobs, and give each row's future as it ends, until all have or the run is interrupted.

    Rows are submitted as others end, a few ahead: a thousand at once would hold up the first calls by a second, and a
    hundred thousand would stay in memory. They are opaque: Prefect would look for other runs' results in each of their
    fields.
    """
    ended: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    together = ceil(slots.limit / 2)
    ahead, begun, done = slots.limit, 0, 0  # at first no more than may be in flight, so that the first rows go first
    patience = MOST_HEAD_STARTS
    while done < len(jobs) and not slots.interrupted:
        if begun < len(jobs) and begun - done <= ahead - together:
            some = jobs[begun : done + ahead]
            for image in pool.map(of_row, {"job": [opaque(job) for job in some], **same}):
                image.add_done_callback(ended.put)
            begun += len(some)
        try:
            image = ended.get(timeout=HEAD_START_S)
        except Empty:
            patience -= 1
            if slots.wanted >= begun - done or not patience:
                ahead = AHEAD * slots.limit
        else:
            ahead = AHEAD * slots.limit
            done += 1
            yield image


def _count(image: PrefectFuture[Any], run: BatchRun) -> None:
    """Count a row that has ended; one that was never begun, or goes on without us, has not."""
    try:
        image.wait()
        state = image.state
    except Exception as error:  # noqa: BLE001 - what becomes of the row is in the ledger; here it is only counted
        logging.getLogger(__name__).debug("a row broke off: %r", error)
        state = Failed()
    if not state.is_cancelled():
        run.ended += 1
        run.failed += not state.is_completed()
