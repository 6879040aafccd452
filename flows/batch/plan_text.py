"""A plan as a person reads it on a terminal or in a log."""

from collections.abc import Iterator

from flows.batch.ledger_tables import State
from flows.batch.plan import Plan
from flows.batch.prices import dollars_or_free

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
    yield f"{batch.csv}: {_count(len(batch.rows), 'row')}, {_count(len(batch.jobs), 'image')}"
    new = plan.states.get(State.PENDING, 0) - plan.changed
    yield f"  {new:>7,}  new"
    for count, what in (
        (plan.changed, "changed, would be made anew"),
        (plan.bought, "bought already"),
        *((plan.states.get(state, 0), note) for state, note in NOTES.items()),
        (batch.duplicates, "equal to an earlier row, share its image"),
        (sum(1 for row in batch.rows if row.job is None), "invalid, left out"),
    ):
        if count:
            yield f"  {count:>7,}  {what}"
    if plan.left_for_later:
        yield f"  {plan.left_for_later:>7,}  left pending by the limit"
    yield from _money(plan)
    for job in plan.samples:
        yield f"  e.g. line {job.line}, {job.sku}: {' '.join(job.prompt.split())[:160]}"
    for warning in plan.warnings:
        yield f"  Note: {warning}"


def _money(plan: Plan) -> Iterator[str]:
    if not plan.to_buy:
        yield "  Nothing to buy."
        return
    rest = f", and {plan.unpriced:,} whose price nobody knows" if plan.unpriced else ""
    yield f"  To buy: {_count(len(plan.to_buy), 'image')}, {dollars_or_free(plan.cost_usd)}{rest}"
    for cost in plan.costs:
        price = "price not known" if cost.usd is None else dollars_or_free(cost.usd)
        yield f"  {cost.images:>7,}  {cost.model:<20} {price}"


def _count(count: int, of: str) -> str:
    return f"1 {of}" if count == 1 else f"{count:,} {of}s"
