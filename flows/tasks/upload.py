"""The tasks that put finished images, and a run's reports, into a store."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from blocks.errors import DeliveryUnavailable
from flows.batch.publishing import PublishRow
from flows.batch.run import BatchRun
from flows.batch.stored_reports import upload_reports
from flows.batch.summary import Summary
from flows.batch.uploads import StoreRow, upload_rows

REPORTS_DELAYS_S: list[float] = [1, 2, 4]


async def is_worth_a_retry(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether a later try may succeed."""
    return isinstance(await state.aresult(raise_on_failure=False), DeliveryUnavailable)


@task(name="upload_images", cache_policy=NO_CACHE, persist_result=False)  # the ledger knows what is stored
def upload_images(rows: Sequence[StoreRow], run: BatchRun, stored: Callable[[Sequence[PublishRow]], None]) -> None:
    """Store a block of finished images; each row's outcome is in the ledger, and no generator is ever asked.

    Raises: DeliveryUnavailable where rows are left for a later try; DeliveryStopped where nothing can be stored until a
    person has acted; LedgerUnavailable.
    """
    if run.shelf is None:
        return
    request_ids = run.ledger.request_ids(row.job.key for row in rows)
    upload_rows(rows, run.shelf, request_ids, run.slots.left, stored)


@task(
    name="upload_reports",
    retries=len(REPORTS_DELAYS_S),
    retry_delay_seconds=REPORTS_DELAYS_S,
    retry_jitter_factor=0.3,
    retry_condition_fn=is_worth_a_retry,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def upload_reports_of(run: BatchRun) -> str:
    """Store the output's reports; gives the address of its contact sheet. Raises: a leaf of DeliveryError, OSError."""
    return upload_reports(run)


def hand_on_reports(run: BatchRun, summary: Summary) -> Summary:
    """Put a run's reports beside its images, where it has a store; a failure there is told in the summary."""
    if run.shelf is None or run.delivery_stopped or run.slots.interrupted:
        return summary
    state = upload_reports_of(run, return_state=True)
    told = state.result(raise_on_failure=False)
    if state.is_completed():
        return replace(summary, sheet_url=str(told))
    return replace(summary, notes=(*summary.notes, f"The reports are not in the store: {told}"))
