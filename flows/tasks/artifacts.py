"""What a person sees of a run in the server's UI."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.batch.comparison import SIZES, Comparison
from flows.batch.markdown import escaped
from flows.batch.plan import Plan
from flows.batch.prices import dollars, dollars_or_free
from flows.batch.problems import LedgerUnavailable
from flows.batch.run import BatchRun
from flows.batch.small_sheet import SmallPicture, small_pictures
from flows.batch.spend import run_costs
from flows.batch.summary import Summary
from flows.tasks.run_state import UNREACHABLE

MOST_FAILURES = 500
ACROSS = 4  # pictures in a line


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


def show_summary(summary: Summary, run: BatchRun) -> None:
    """How the run ended: the sums, what was paid, each failure with its reason, and the contact sheet."""
    lines = [f"# {summary}", ""]
    if summary.stopped:
        lines += [f"**Ended early:** {escaped(summary.stopped)}", ""]
    if summary.delivery_stopped:
        lines += [f"**Handing on ended early:** {escaped(summary.delivery_stopped)}", ""]
    for note in filter(None, (*summary.notes, summary.unheard)):
        lines += [escaped(note), ""]
    lines += ["| | |", "|---|---:|"]
    lines += [f"| {status} | {count:,} |" for status, count in summary.counts.items()]
    lines += [f"| bought now | {summary.bought:,} |", f"| spent | {dollars_or_free(summary.spent_usd)} |"]
    if summary.in_doubt_usd:
        lines += [f"| of it in doubt | {dollars_or_free(summary.in_doubt_usd)} |"]
    lines += [f"| time | {summary.seconds:.0f} s |", "", _where_the_sheet_is(summary)]
    with _only_shown():
        create_markdown_artifact("\n".join(lines), key="rowshot-summary", description=str(summary))
    _show_costs(run)
    _show_failures(summary)
    _show_contact_sheet(summary, run)


def _show_costs(run: BatchRun) -> None:
    """What this run's calls have cost, a line a model and template."""
    try:
        costs = run_costs(run.ledger, run.id)
    except LedgerUnavailable as error:
        get_run_logger().warning("The costs are not shown: %s", error)
        return
    table = [
        {
            "model": cost.model,
            "template": cost.template,
            "images": cost.images,
            "paid calls": cost.paid_calls,
            "cost": dollars_or_free(cost.usd),
            "in doubt": dollars(cost.in_doubt_usd) if cost.in_doubt_usd else "",
        }
        for cost in costs
    ]
    with _only_shown():
        create_table_artifact(table, key="rowshot-costs", description="What this run has bought, and what it has paid")


def _show_failures(summary: Summary) -> None:
    failures = summary.failures
    if not failures:
        return
    table = [
        {"line": row.line, "sku": row.sku, "template": row.template, "status": row.status, "reason": row.error}
        for row in failures[:MOST_FAILURES]
    ]
    told = (
        f"The first {MOST_FAILURES} of {len(failures):,}; failures.csv has all"
        if len(failures) > MOST_FAILURES
        else "Every row that failed"
    )
    with _only_shown():
        create_table_artifact(table, key="rowshot-failures", description=told)


def _show_contact_sheet(summary: Summary, run: BatchRun) -> None:
    """The sheet's address, where it has one; else where its file is, and some of its pictures here on the page."""
    if summary.sheet_url.startswith(("https://", "http://")):
        with _only_shown():
            create_link_artifact(
                summary.sheet_url, link_text="Contact sheet", key="rowshot-contact-sheet", description=str(summary)
            )
        return
    try:
        pictures = list(small_pictures(run.ledger.rows.report(run.output.name, run.id), run.output.root))
    except LedgerUnavailable as error:
        get_run_logger().warning("The pictures are not shown: %s", error)
        return
    images = f"{len(pictures)} of {summary.images:,} images" if len(pictures) < summary.images else "Every image"
    lines = [_where_the_sheet_is(summary)]
    lines += ["", f"{images}, small:", "", *_side_by_side(pictures)] if pictures else []
    with _only_shown():
        create_markdown_artifact("\n".join(lines), key="rowshot-contact-sheet", description="Contact sheet")


def _side_by_side(pictures: Sequence[SmallPicture]) -> Iterator[str]:
    """A table: alone in a paragraph, the server's pages put pictures one below the other."""
    for first in range(0, len(pictures), ACROSS):
        line = pictures[first : first + ACROSS]
        yield "".join(f"| ![{escaped(picture.sku)}]({picture.address}) " for picture in line) + "|"
        if not first:
            yield "|---" * ACROSS + "|"
        yield "".join(f"| {escaped(picture.sku)} " for picture in line) + "|"


def _where_the_sheet_is(summary: Summary) -> str:
    if summary.sheet_url.startswith(("https://", "http://")):
        return f"[Contact sheet]({summary.sheet_url})"
    path = str(summary.contact_sheet).replace("`", "'")
    return f"Contact sheet: `{path}` on the machine that made it"


@contextmanager
def _only_shown() -> Iterator[None]:
    """What a server that is gone can't show must not end a run that buys, nor hold it up."""
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            yield
    except UNREACHABLE as error:
        get_run_logger().warning("The Prefect server does not show how the run gets on: %s", error)
