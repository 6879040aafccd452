"""What a person sees of a run in the server's UI."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.batch.comparison import SIZES, Comparison
from flows.batch.plan import Plan
from flows.batch.prices import dollars, dollars_or_free
from flows.batch.summary import Summary
from flows.tasks.stopping import UNREACHABLE

EVERY_S = 5.0
MOST_FAILURES = 500


class Progress:
    """A progress artifact, updated as rows end, and at most every few seconds."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._done = 0
        self._told_at = time.monotonic()
        self._artifact: UUID | None = None
        with _only_shown():
            begun = 0.0 if rows else 100.0
            self._artifact = create_progress_artifact(begun, key="rowshot-progress", description=f"0 of {rows} rows")  # type: ignore[assignment]

    def add(self, rows: int) -> None:
        """So many more rows have ended."""
        self._done += rows
        if self._artifact and (time.monotonic() - self._told_at >= EVERY_S or self._done >= self._rows):
            self._told_at = time.monotonic()
            with _only_shown():
                update_progress_artifact(
                    self._artifact, 100.0 * self._done / self._rows, description=f"{self._done} of {self._rows} rows"
                )


def show_plan(plan: Plan) -> None:
    """The plan's costs, as a table."""
    table = [
        {
            "model": cost.model,
            "images": cost.images,
            "cost": "not known" if cost.usd is None else dollars_or_free(cost.usd),
        }
        for cost in plan.costs
    ]
    with _only_shown():
        create_table_artifact(table, key="rowshot-plan", description="What this run buys, at list prices")
    if plan.comparison:
        _show_comparison(plan.comparison)


def _show_comparison(comparison: Comparison) -> None:
    """What the same rows, and more of them, would cost otherwise."""
    planned = [comparison.planned] if comparison.planned else []
    table = [
        {
            "made with": way.model,
            "these": dollars(way.usd),
            **{f"{size:,}": dollars(way.usd_for(size)) for size in SIZES},
        }
        for way in (*planned, *comparison.choices, *comparison.by_hand)
    ]
    told = f"What these {comparison.images:,} images, and more like them, would cost otherwise, at list prices"
    with _only_shown():
        create_table_artifact(table, key="rowshot-comparison", description=told)


def show_summary(summary: Summary) -> None:
    """How the run ended, and each failure with its reason."""
    lines = [f"# {summary}", ""]
    if summary.stopped:
        lines += [f"**Ended early:** {_escaped(summary.stopped)}", ""]
    if summary.delivery_stopped:
        lines += [f"**Handing on ended early:** {_escaped(summary.delivery_stopped)}", ""]
    for note in filter(None, (*summary.notes, summary.unheard)):
        lines += [_escaped(note), ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {status} | {count} |" for status, count in summary.counts.items()]
    lines += [f"| spent | {dollars_or_free(summary.spent_usd)} |"]
    if summary.in_doubt_usd:
        lines += [f"| of it in doubt | {dollars_or_free(summary.in_doubt_usd)} |"]
    lines += [f"| time | {summary.seconds:.0f} s |", "", f"Contact sheet: `{_escaped(str(summary.contact_sheet))}`"]
    with _only_shown():
        create_markdown_artifact("\n".join(lines), key="rowshot-summary")
    failures = summary.failures
    if failures:
        table = [
            {"line": row.line, "sku": row.sku, "template": row.template, "status": row.status, "reason": row.error}
            for row in failures[:MOST_FAILURES]
        ]
        told = (
            f"The first {MOST_FAILURES} of {len(failures)}; failures.csv has all"
            if len(failures) > MOST_FAILURES
            else "Every row that failed"
        )
        with _only_shown():
            create_table_artifact(table, key="rowshot-failures", description=told)


@contextmanager
def _only_shown() -> Iterator[None]:
    """What a server that is gone can't show must not end a run that buys, nor hold it up."""
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            yield
    except UNREACHABLE as error:
        get_run_logger().warning("The Prefect server does not show how the run gets on: %s", error)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
