"""What a suspended run says as its process goes away: it will be silent for days, and has not died."""

import time
from typing import Final
from uuid import UUID

from prefect.events import emit_event

LEFT: Final = "rowshot.flow-run.left"
TIMES: Final = 3
APART_S: Final = 1.0


def tell_it_left(flow_run: UUID, flow: str) -> None:
    """Tell the server that this run's process goes away in good order; takes two seconds.

    It may have sent a heartbeat after it was suspended, while its calls came home. Whoever waits for the next one
    (automations.py) would take it for dead, and the server lets a suspended run become Crashed.

    It is told three times, as once may go unheard: a server on SQLite that meets another write gives an event up after
    four tries in a tenth of a second (prefect/server/utilities/messaging/memory.py), and two events that are sent
    together may change places. Hearing it again changes nothing.
    """
    for told in range(TIMES):
        if told:
            time.sleep(APART_S)
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
