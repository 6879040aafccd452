"""What a suspended run says as its process goes away: it will be silent for days, and has not died."""

from typing import Final
from uuid import UUID

from prefect.events import emit_event

LEFT: Final = "rowshot.flow-run.left"


def tell_it_left(flow_run: UUID, flow: str) -> None:
    """Tell the server that this run's process goes away in good order.

    It may have sent a heartbeat after it was suspended, while its calls came home. Whoever waits for the next one
    (automations.py) would take it for dead, and the server lets a suspended run become Crashed.
    """
    emit_event(
        LEFT,
        resource={"prefect.resource.id": f"prefect.flow-run.{flow_run}"},
        related=[
            {
                "prefect.resource.id": f"rowshot.flow.{flow}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": flow,
            }
        ],
    )
