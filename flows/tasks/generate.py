"""The task that has one row's image made, and how it is mapped over a batch."""

import logging
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from prefect import task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Cancelled
from prefect.task_runners import ThreadPoolTaskRunner

from blocks import ImageGenerator
from blocks.errors import LeftRunning, RetryableError
from flows.batch.jobs import Job
from flows.batch.purchase import Bought, Purchase
from flows.batch.run import BatchRun
from flows.batch.slots import RunStopped
from flows.tasks.artifacts import Progress
from flows.tasks.handing_on import HandOn, kept_only
from flows.tasks.stopping import GRACE_S

TRIES = 3
SUBMITTED_TOGETHER = 1000


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
def generate_image(job: Job, purchase: Purchase, hand_on: HandOn) -> Bought | State[Any]:
    """Have one row's image in the output folder, once; its errors say what a further try would cost."""
    try:
        bought = purchase.get(job)
    except RunStopped as stopped:
        return Cancelled(name="NotBegun", message=f"The run was ending: {stopped}")
    except LeftRunning as left:
        return Cancelled(name="LeftRunning", message=str(left))
    hand_on(bought)
    return bought


def generate_images_of(
    run: BatchRun, generator: ImageGenerator, jobs: Sequence[Job], hand_on: HandOn = kept_only
) -> None:
    """Map the task over the jobs and follow it to the end. Each row's outcome is in the ledger, each image handed on.

    Twice as many threads as calls: a row that waits to be tried again sleeps in its thread, and must not keep a slot
    from the others.
    """
    usd_per_credit = getattr(generator, "usd_per_credit", Decimal(0))
    logging.getLogger("prefect.task_runs").setLevel(logging.WARNING)  # a run's log is its story, not a line a row
    threads: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(2 * run.slots.limit)
    with run.buying(generator, usd_per_credit) as purchase, threads as pool:
        try:
            images: list[PrefectFuture[Any]] = []
            progress = Progress(len(jobs))
            for first in range(0, len(jobs), SUBMITTED_TOGETHER):
                if run.slots.interrupted:
                    break
                some = list(jobs[first : first + SUBMITTED_TOGETHER])
                images += pool.map(
                    generate_image, {"job": some, "purchase": unmapped(purchase), "hand_on": unmapped(hand_on)}
                )
            for _ in as_completed(images):
                progress.add(1)
                if run.slots.interrupted:  # rows that wait in line are dropped; those in flight are waited for below
                    break
        except BaseException:
            run.slots.interrupt("It broke off; the same command goes on from here.", GRACE_S)
            raise
