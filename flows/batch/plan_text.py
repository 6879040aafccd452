"""A plan as a person reads it on a terminal or in a log."""

from collections.abc import Iterator
from decimal import Decimal

from flows.batch.comparison import SIZES, Comparison
from flows.batch.ledger_tables import State
from flows.batch.plan import Plan
from flows.batch.prices import dollars, dollars_or_free
from flows.batch.words import counted

SMALL_DOLLARS = Decimal("0.1")
WHOLE_DOLLARS = 100
NOTES = {
    State.FAILED: "failed before, taken up again",
    State.REJECTED: "refused before (--retry-rejected asks again)",
    State.UNKNOWN: "of unknown outcome, perhaps paid (--retry-unknown buys again)",
    State.LOST: "lost (--rebuy-lost buys again)",
    State.SUBMITTED: "cut off in a call; what became of it is looked up first, for free",
    State.RESERVED: "held by a run under way",
}


def plan_lines(plan: Plan) -> Iterator[str]:
    """The plan, a line at a time."""
    batch = plan.batch
    yield f"{batch.csv}: {counted(len(batch.rows), 'row')}, {counted(len(batch.jobs), 'image')}"
    yield f"  {plan.new:>7,}  new"
    for count, what in (
        (plan.changed, "changed, would be made anew"),
        (plan.bought, "bought already"),
        *((plan.states.get(state, 0), note) for state, note in NOTES.items()),
        (batch.duplicates, "equal to an earlier row, share its image"),
        (sum(1 for row in batch.rows if row.job is None), "invalid, left out"),
        (len(plan.to_store), "bought and not in the store yet; costs nothing"),
        (len(plan.to_publish), "stored and not published yet; costs nothing"),
    ):
        if count:
            yield f"  {count:>7,}  {what}"
    if plan.left_for_later:
        yield f"  {plan.left_for_later:>7,}  left pending by the limit"
    yield from _money(plan)
    if plan.comparison:
        yield from _otherwise(plan.comparison)
    for job in plan.samples:
        yield f"  e.g. line {job.line}, {job.sku}: {' '.join(job.prompt.split())[:160]}"
    for warning in plan.warnings:
        yield f"  Note: {warning}"


def _money(plan: Plan) -> Iterator[str]:
    if not plan.to_buy:
        yield "  Nothing to buy."
        return
    rest = f", and {plan.unpriced:,} whose price nobody knows" if plan.unpriced else ""
    yield f"  To buy: {counted(len(plan.to_buy), 'image')}, {dollars_or_free(plan.cost_usd)}{rest}"
    for cost in plan.costs:
        price = "price not known" if cost.usd is None else dollars_or_free(cost.usd)
        yield f"  {cost.images:>7,}  {cost.model:<20} {price}"
    for generator, usd in plan.elsewhere_usd.items():
        yield f"  Bought from {generator}, the same would cost {dollars(usd)} at list prices."


def _otherwise(comparison: Comparison) -> Iterator[str]:
    """A table: each way to have these images made, and more of them."""
    planned = comparison.planned
    same = [choice for choice in comparison.choices if planned and choice.usd == planned.usd]
    ways = [*([planned] if planned and not same else []), *comparison.choices]
    names = [f"{way.model} (planned)" if way in same[:1] else way.model for way in ways]
    lines = [["The same rows with", f"these {comparison.images:,}", *(f"{size:,}" for size in SIZES)]]
    for name, way in [*zip(names, ways, strict=True), *((hand.model, hand) for hand in comparison.by_hand)]:
        lines.append([name, _rounded(way.usd), *(_rounded(way.usd_for(size)) for size in SIZES)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        yield "  ".join(["  " + line[0].ljust(widths[0]), *cells])


def _rounded(usd: Decimal) -> str:
    """An amount to compare: small ones as they are, cents up to a hundred dollars, then whole dollars."""
    if usd < SMALL_DOLLARS:
        return dollars(usd)
    return f"${usd:,.2f}" if usd < WHOLE_DOLLARS else f"${usd:,.0f}"
