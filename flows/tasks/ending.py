"""The final state of a flow run: the sentence that the server's list of runs shows."""

from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.batch.plan import Plan
from flows.batch.run import Summary


def planned(plan: Plan) -> State[Any]:
    """A run that was only to plan."""
    return Completed(name="Planned", message=plan.headline)


def ended(summary: Summary) -> State[Any]:
    """A run that bought: completed even if rows failed, as one bad row is one bad row; failed if it ended early."""
    if summary.stopped:
        return Failed(name="EndedEarly", message=f"{summary.stopped} {summary}.", data=summary)
    return Completed(message=str(summary), data=summary)
