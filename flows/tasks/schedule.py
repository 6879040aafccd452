"""Runs that a schedule starts: nobody looks at them, so they must have a cap."""

from prefect.context import FlowRunContext

from blocks import ImageGenerator
from flows.batch.problems import NotStarted, Problem
from flows.batch.settings import BatchSettings


def check_schedule(batch: BatchSettings, generator: ImageGenerator) -> None:
    """Raise NotStarted where a schedule has started this flow run, its images cost money, and there is no cap."""
    context = FlowRunContext.get()
    scheduled = context is not None and context.flow_run is not None and context.flow_run.auto_scheduled
    if scheduled and not batch.money.caps and not generator.capabilities.free:
        mend = "Give its deployment max_cost_usd or max_cost_per_day_usd, in US dollars."
        raise NotStarted([Problem("A schedule started this run, and it has no cap on what it may spend.", mend)])
