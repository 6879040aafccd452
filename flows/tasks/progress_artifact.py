"""How a run is getting on, on its page: an artifact that is kept up to date, and a line in the log now and then."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.batch.prices import dollars
from flows.batch.problems import LedgerUnavailable
from flows.batch.run import BatchRun
from flows.batch.words import about
from flows.tasks.final_states import this_run
from flows.tasks.run_state import UNREACHABLE

KEY = "rowshot-progress"
EVERY_S = 5.0
PACE_OVER_S = 120.0  # the time left is told by the pace of the last two minutes
LOG_EVERY_S = 20.0
LOG_LINES = 10


@contextmanager
def progress_shown(run: BatchRun, rows: int) -> Iterator[None]:
    """Show how many of so many rows have ended while the body has them made.

    It costs the same whatever the number of rows: every few seconds two counters are read, and one artifact is changed.
    """
    done = threading.Event()
    here = copy_context()  # the log and the server's address are found in it
    teller = threading.Thread(target=here.run, args=(_tell, run, rows, done), name="progress-artifact", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


@dataclass(slots=True)
class Pace:
    """How fast rows end, by the last two minutes."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def look(self, at: float, ended: int) -> None:
        """So many rows have ended by this moment, in seconds."""
        self.seen.append((at, ended))
        while len(self.seen) > 2 and at - self.seen[1][0] >= PACE_OVER_S:  # noqa: PLR2004 - the first and the last
            self.seen.popleft()

    @property
    def per_minute(self) -> float:
        """Rows a minute."""
        (began, before), (at, ended) = self.seen[0], self.seen[-1]
        return 60 * (ended - before) / (at - began) if at > began else 0.0


def told(ended: int, failed: int, rows: int, spent: str, per_minute: float) -> str:
    """How a run is getting on, in one line. `spent` is empty where that can't be told."""
    parts = [f"{ended:,} of {rows:,} rows"]
    parts += [f"{failed:,} of them failed"] if failed else []
    parts += [spent] if spent else []
    if per_minute >= 1:
        parts.append(f"{per_minute:,.0f} rows a minute")
        if rows > ended:
            parts.append(f"about {about(60 * (rows - ended) / per_minute)} left")
    return ", ".join(parts)


def _tell(run: BatchRun, rows: int, done: threading.Event) -> None:
    log, pace = get_run_logger(), Pace()
    lines, log_at = 0, time.monotonic() + LOG_EVERY_S
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        artifact = _Shown(client)
        while True:
            last = done.wait(0 if not pace.seen else EVERY_S)
            now, ended = time.monotonic(), run.ended
            pace.look(now, ended)
            line = told(ended, run.failed, rows, _spent(run), pace.per_minute) if rows else "Nothing was to be made"
            artifact.show(100.0 * ended / rows if rows else 100.0, line)
            if last:
                return
            # a line for every tenth of the rows, however many they are, and none for what is over in no time
            if rows and now >= log_at and ended * LOG_LINES // rows > lines:
                lines, log_at = ended * LOG_LINES // rows, now + LOG_EVERY_S
                log.info("%s", line)


class _Shown:
    """The artifact. What a server that is away can't show must not end a run that buys."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client
        self._made: UUID | None = None
        self._is_told = False

    def show(self, percent: float, line: str) -> None:
        try:
            if self._made is None:
                new = ArtifactCreate(type="progress", key=KEY, description=line, data=percent, flow_run_id=this_run())
                self._made = self._client.create_artifact(new).id
            else:
                change = ArtifactUpdate(description=line, data=percent)
                self._client.update_artifact(self._made, change)
        except UNREACHABLE as error:
            if not self._is_told:
                get_run_logger().warning("The Prefect server does not show how the run gets on: %s", error)
            self._is_told = True


def _spent(run: BatchRun) -> str:
    """What the run has spent, with what is reserved for the calls under way: a look at one counter."""
    try:
        usd = run.ledger.budgets.of_run(run.id)
    except LedgerUnavailable:
        return ""  # the calls under way meet the same, and say so
    return f"{dollars(usd)} spent" if usd else "nothing spent"
