"""A deployed run's last words: the server has heard how every row ended before the run's process does.

Prefect ends its connection without asking whether all has arrived, and breaks it off after ten seconds. What a busy
server has not read by then is lost: such rows stay Running on its pages for good, or never appear there.
"""

import time
from datetime import UTC, datetime
from math import inf
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext

from flows.batch.run import BatchRun
from flows.tasks.run_state import UNREACHABLE

ASK_EVERY_S = 0.5
STANDS_STILL_S = 30.0
INTERRUPTED_S = 2.0  # of the 30 s that a worker leaves a run which it ends: the reports are still to be written
OVER = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]


def until_heard(run: BatchRun) -> None:
    """Wait until the server knows how the run's rows have ended, as long as it gets on with them.

    One that is ended from outside waits 2 s at most. A command's own run does not wait here: the command does, once the
    flow has ended.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        return
    heard, since = -1, time.monotonic()
    deadline = since + INTERRUPTED_S if run.slots.interrupted else inf
    try:
        with get_client(sync_client=True) as client:
            while time.monotonic() < min(since + STANDS_STILL_S, deadline):
                before, heard = heard, _ended(client, context.flow_run.id, run.started_at)
                if heard >= run.ended:
                    return
                if heard > before:
                    since = time.monotonic()
                time.sleep(ASK_EVERY_S)
    except UNREACHABLE as error:
        get_run_logger().debug("The server can't be asked what it has heard: %r", error)
        return
    get_run_logger().warning(
        "The server shows how %d of %d rows ended and is too slow to be waited for; the ledger has all of them",
        max(heard, 0),
        run.ended,
    )


def _ended(client: SyncPrefectClient, flow_run: UUID, since: float) -> int:
    """Only what began since then: a run that is retried has the task runs of its earlier tries, too."""
    began = {"after_": datetime.fromtimestamp(since, UTC).isoformat()}
    task_runs = {"state": {"type": {"any_": OVER}}, "start_time": began}
    asked = {"flow_runs": {"id": {"any_": [str(flow_run)]}}, "task_runs": task_runs}
    return int(client.request("POST", "/task_runs/count", json=asked).json())
