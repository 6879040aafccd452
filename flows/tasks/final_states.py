"""The final state of a flow run: the sentence that the server's list of runs shows."""

from contextvars import ContextVar
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from flows.batch.plan import Plan
from flows.batch.summary import Summary
from flows.tasks.run_state import is_cancelled, is_suspended, state_on_server
from flows.tasks.stopping import SUSPENDED

# Where a command that has called the flow finds how it ended, be the server there to take the state or not.
summaries: ContextVar[list[Summary]] = ContextVar("summaries")


def planned(plan: Plan) -> State[Any]:
    """A run that was only to plan."""
    return Completed(name="Planned", message=plan.headline)


def ended(summary: Summary) -> State[Any]:
    """A run that bought: completed even if rows failed, as one bad row is one bad row; failed if it ended early, and
    cancelled if somebody ended it.
    """
    summaries.get([]).append(summary)
    now = state_on_server(this_run())
    if is_suspended(now) or (now is not None and summary.stopped == SUSPENDED):
        raise Pause(state=now)  # the server has the state already, be it that of whoever has resumed it meanwhile
    if summary.interrupted:
        return Cancelled(message=f"{summary.told}. {summary.stopped}", data=summary)
    if summary.stopped:
        return Failed(name="EndedEarly", message=f"{summary.told}. {summary.stopped}", data=summary)
    if is_cancelled(now):  # too late to change anything; the server takes no other state now
        return Cancelled(message=f"{summary.told}. It was cancelled when all was done.", data=summary)
    return Completed(message=summary.told, data=summary)


def this_run() -> UUID | None:
    """The flow run that is under way; None outside of one."""
    known = flow_run.get_id()
    return UUID(known) if known else None
