"""The Prefect automation that notices a flow run whose machine has died; `rowshot setup` makes it."""

from datetime import timedelta
from typing import Final

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.tasks.suspend_event import LEFT

NAME: Final = "rowshot: a run without a sign of life has crashed"
FLOWS: Final = ("generate-images", "generate-shard", "redo-images", "plan-batch", "check-setup")
# A run sends a heartbeat every 180 s if nothing else is set; one more minute lets a late one arrive.
SILENCE_S: Final = 240
MADE, CHANGED, SAME = "made", "changed", "as it was"

_SIGNS_OF_LIFE: Final = frozenset(
    {"prefect.flow-run.heartbeat", "prefect.flow-run.Running", "prefect.flow-run.Cancelling"}
)


def set_up_crash_automation(silence_s: float = SILENCE_S) -> str:
    """Have the server mark a run of ours Crashed that has been silent for so many seconds; gives what was done.

    There is one such automation, however often this is called. One that somebody has switched off stays off.
    """
    wanted = crash_automation(silence_s)
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(NAME)
        if not found:
            client.create_automation(wanted)
            return MADE
        kept, *doubles = sorted(found, key=lambda one: str(one.id))
        for double in doubles:
            client.delete_automation(double.id)
        wanted.enabled = kept.enabled
        if _told(kept) == _told(wanted) and not doubles:
            return SAME
        client.update_automation(kept.id, wanted)
        return CHANGED


def crash_automation(silence_s: float = SILENCE_S) -> AutomationCore:
    """After a sign of life the next event of the same run is awaited: another one, its end, or that it leaves.

    A run that has ended is left alone by the server's own rules, so an end needs no list of states here.
    """
    return AutomationCore(
        name=NAME,
        description="Made by `rowshot setup`. Retry such a run: it goes on from the ledger and buys nothing twice.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": ["flow"], "prefect.resource.name": list(FLOWS)}
            ),
            after=set(_SIGNS_OF_LIFE),
            expect={"prefect.flow-run.*", LEFT},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_s),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"It has given no sign of life for {silence_s:.0f} s, so its machine or its process has died. "
                "Retry goes on from the ledger and buys nothing twice.",
            )
        ],
    )


def _told(automation: Automation | AutomationCore) -> dict[str, object]:
    """What decides how it acts; the server adds ids and other defaults."""
    trigger = automation.trigger.model_dump(mode="json", exclude={"id"})
    for field in ("after", "expect", "for_each"):
        trigger[field] = sorted(trigger[field])
    actions = [action.model_dump(mode="json") for action in automation.actions]
    return {"description": automation.description, "trigger": trigger, "actions": actions}
