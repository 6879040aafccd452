"""Whether what a run would buy fits under its caps, before anything is bought."""

import time
from collections.abc import Sequence
from decimal import Decimal
from itertools import accumulate

from flows.batch.costs import listed
from flows.batch.jobs import Job
from flows.batch.prices import dollars
from flows.batch.problems import NotStarted, Problem
from flows.batch.run import BatchRun


def check_caps(jobs: Sequence[Job], run: BatchRun) -> None:
    """Raise NotStarted where these images would cost more than a cap leaves, or nobody knows what one costs."""
    caps = run.request.caps
    if not caps or not jobs:
        return
    costs = [listed(job, run.prices).usd for job in jobs]
    unpriced = sorted({job.model for job, usd in zip(jobs, costs, strict=True) if usd is None})
    if unpriced:
        mend = "Put its price into a price book (--prices), choose another model, or leave out the cap."
        raise NotStarted([Problem(f"There is a cap, and no price is known for {', '.join(unpriced)}.", mend)])
    known = [usd for usd in costs if usd is not None]
    problems = []
    if caps.run_usd is not None:
        left = caps.run_usd - run.ledger.budgets.of_run(run.id)
        if sum(known) > left:
            mend = f"Raise --max-cost, {_fewer(known, left)}."
            problems.append(_over(known, f"the run's cap is {dollars(caps.run_usd)}", mend))
    if caps.day_usd is not None:
        left = caps.day_usd - run.ledger.budgets.of_day(time.time())
        if sum(known) > left:
            spent = f"{dollars(caps.day_usd - left)} of the day's cap of {dollars(caps.day_usd)} is spent or reserved"
            mend = f"Raise --max-cost-per-day, wait for tomorrow (days are UTC), {_fewer(known, left)}."
            problems.append(_over(known, spent, mend))
    if problems:
        raise NotStarted(problems)


def _over(costs: Sequence[Decimal], cap: str, mend: str) -> Problem:
    return Problem(f"What is to be bought would cost {dollars(sum(costs, Decimal(0)))}, and {cap}.", mend)


def _fewer(costs: Sequence[Decimal], left: Decimal) -> str:
    """How many of the first images fit, as an advice."""
    fit = sum(1 for total in accumulate(costs) if total <= left)
    return f"or buy the first {fit:,} with --limit {fit}" if fit else "for it doesn't leave enough for one image"
