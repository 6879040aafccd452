"""Shards as flow runs of a deployment: started a few at a time, followed, and started again where one died."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from uuid import UUID

from httpx import HTTPError, HTTPStatusError
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelling, Crashed

from flows.batch.jobs import Job
from flows.batch.problems import LedgerUnavailable
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.batch.shards import Shard, ShardState, cut
from flows.batch.shards_progress import RowsOfShards
from flows.tasks.run_state import UNREACHABLE
from flows.tasks.stopping import SUSPENDED

ENDED_EARLY = "EndedEarly"
NOT_STARTED = "NotStarted"
FOLLOW_EVERY_S = 2.0
TICK_S = 0.25
STARTS = 4  # a shard's flow runs: the first, and three more where it died
NO_WORKER_S = 60.0
STARTING_S = 900.0  # from a worker's taking it to its first step; an image of some gigabytes is pulled in less
PATIENCE = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


class ShardBroke(Exception):
    """A shard could not be brought to its end."""


class ShardStopped(Exception):
    """A shard ended early, for a reason that holds for all."""


@dataclass(slots=True)
class _Live:
    """A shard's flow run that is not over. `is_left`: nobody held the shard when it was last looked at."""

    number: int
    tries: int
    flow_run: UUID
    is_left: bool = False


class ShardRuns:
    """Has one run's jobs bought by flow runs of a deployment."""

    def __init__(self, run: BatchRun, settings: BatchSettings, deployment: str, at_once: int) -> None:
        self._run = run
        self._settings = settings
        self._deployment = deployment
        self._at_once = at_once
        self._waiting: list[int] = []
        self._live: dict[int, _Live] = {}
        self._counted: dict[int, int] = {}
        self._last = 0
        self._broke: list[str] = []
        self._log = get_run_logger()
        self._lonely_since = time.monotonic()
        self._was_told = False

    def have(self, jobs: Sequence[Job], rows: int) -> None:
        """Cut these jobs into shards of so many rows, and follow them until all are over. What stops one stops all."""
        with get_client(sync_client=True) as client:
            taken_up = self._take_up(client)
            mine = [job for job in jobs if job.key not in taken_up]
            self._waiting = self._run.ledger.shards.put(self._run.id, cut(mine, rows)) if mine else []
            self._last = max([*self._waiting, *self._live], default=0)
            if mine:
                told = "%d rows to make, in %d shards of %s, %d at a time"
                self._log.info(told, len(mine), len(self._waiting), self._deployment, self._at_once)
            counted = RowsOfShards(self._run)
            try:
                with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # they would hold up its end by a minute
                    self._follow(client, counted)
            except LedgerUnavailable as error:
                self._run.slots.stop(error)
            else:
                self._drop_the_rest()
        if self._broke:
            self._run.slots.stop(ShardBroke(" ".join(self._broke)))

    def _take_up(self, client: SyncPrefectClient) -> set[tuple[str, str, str]]:
        """Find the shards that this very run had begun before it died, and that go on. Gives the images they have."""
        shards = self._run.ledger.shards
        found: set[tuple[str, str, str]] = set()
        for shard in shards.of_run(self._run.id):
            if shard.state.is_over:
                continue
            known = self._known(client, shard.number, shard.tries) if shard.tries else None
            if known is None or known.state is None or known.state.is_final() or known.state.is_cancelling():
                shards.end(self._run.id, shard.number, ShardState.DROPPED)  # what is left of it is cut anew
                continue
            self._live[shard.number] = _Live(shard.number, shard.tries, known.id)
            found |= {job.key for job in shards.jobs(self._run.id, shard.number) or ()}
        if self._live:
            self._log.info("%d shards of this run go on from before", len(self._live))
        return found

    def _drop_the_rest(self) -> None:
        """What was never begun is cut anew by the next run; nothing stays in the ledger of what others were to buy."""
        for number in self._waiting:
            self._run.ledger.shards.end(self._run.id, number, ShardState.DROPPED)
        self._run.ledger.shards.forget_jobs(self._run.id)

    def _follow(self, client: SyncPrefectClient, counted: RowsOfShards) -> None:
        cancelled = False
        while self._live or (self._waiting and self._run.slots.stopped is None):
            given_up = self._is_given_up
            if not self._run.slots.paused:
                self._start(client)
            try:
                self._look(client)
                counted.update()
                if given_up and not cancelled:
                    self._cancel(client)
                    cancelled = True
            except UNREACHABLE as error:
                self._log.warning("The Prefect server doesn't answer (%s); its shards go on", type(error).__name__)
            if self._run.slots.left.is_set():
                return
            self._pause(until_interrupted=not given_up)

    @property
    def _is_given_up(self) -> bool:
        """Whether somebody has ended the run or suspended it; else what has begun may end in its own time."""
        return self._run.slots.interrupted or str(self._run.slots.stopped or "") == SUSPENDED

    def _pause(self, *, until_interrupted: bool) -> None:
        deadline = time.monotonic() + FOLLOW_EVERY_S
        over = self._run.slots.stopped is not None and not self._live
        while not over and time.monotonic() < deadline and not self._run.slots.left.is_set():
            if until_interrupted and self._is_given_up:
                return
            time.sleep(TICK_S)

    def _start(self, client: SyncPrefectClient) -> None:
        while self._waiting and len(self._live) < self._at_once and self._run.slots.stopped is None:
            number = self._waiting[0]
            tries = self._counted.get(number) or self._run.ledger.shards.next_try(self._run.id, number)
            self._counted[number] = tries
            try:
                self._live[number] = _Live(number, tries, self._asked_for(client, number, tries))
            except UNREACHABLE as error:
                if refused := _refused(error):  # it would be, for ever; the shards under way are followed to their end
                    told = f"The Prefect server refuses to start shard {number} on {self._deployment}: {refused}. "
                    self._run.slots.stop(ShardBroke(told + _DEPLOY))
                    return
                self._log.warning("Shard %d could not be started yet: %s", number, type(error).__name__)
                return
            del self._counted[number], self._waiting[0]

    def _asked_for(self, client: SyncPrefectClient, number: int, tries: int) -> UUID:
        known = self._known(client, number, tries)
        if known is not None:  # asked for, and the answer was lost
            return known.id
        batch = self._settings.model_dump(mode="json", exclude_defaults=True)  # the form's lists are for people
        parameters = {"batch": batch, "run_id": self._run.id, "shard": number}
        flow_run: FlowRun = run_deployment(  # type: ignore[assignment]  # called outside of a coroutine it is the run
            self._deployment,
            parameters=parameters,
            flow_run_name=f"generate-shard / {self._run.request.name} {number} of {self._last}",
            idempotency_key=_key(self._run.id, number, tries),
            timeout=0,
        )
        return flow_run.id

    def _known(self, client: SyncPrefectClient, number: int, tries: int) -> FlowRun | None:
        """The flow run of one try of a shard, if it was ever made."""
        key = FlowRunFilterIdempotencyKey(any_=[_key(self._run.id, number, tries)])
        return next(iter(client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key))), None)

    def _look(self, client: SyncPrefectClient) -> None:
        """See how the shards stand, and act on each that is over."""
        if not self._live:
            self._lonely_since = time.monotonic()
            return
        ids = FlowRunFilterId(any_=[live.flow_run for live in self._live.values()])
        told: Mapping[UUID, State | None] = {
            found.id: found.state for found in client.read_flow_runs(flow_run_filter=FlowRunFilter(id=ids))
        }
        shards = self._run.ledger.shards.of_run(self._run.id, list(self._live))
        for shard in shards:
            self._act(client, shard, told.get(self._live[shard.number].flow_run))
        self._mind_workers(shards)

    def _act(self, client: SyncPrefectClient, shard: Shard, state: State | None) -> None:
        over = state is None or state.is_final()  # none: somebody has deleted it
        live = self._live[shard.number]
        left = shard.state is not ShardState.WAITING and not shard.is_held and not over
        is_gone = left and live.is_left  # only when seen twice: one that ends well needs a moment to tell the server
        live.is_left = left
        if shard.state in {ShardState.ENDED, ShardState.STOPPED, ShardState.INTERRUPTED}:
            if over or is_gone:
                self._over(shard)
        elif is_gone:
            self._declare_dead(client, shard, "Its process died.")
        elif state is not None and state.is_cancelled():
            self._run.ledger.shards.end(self._run.id, shard.number, ShardState.DROPPED)
            self._off(shard, f"Shard {shard.number} was cancelled. Retry, or the same command, goes on from here.")
        elif state is not None and state.name in {ENDED_EARLY, NOT_STARTED}:
            self._off(shard)
            self._run.slots.stop(ShardStopped(state.message or "A shard ended early."))
        elif over:
            self._again(shard, (state.message if state else "") or "no reason was given")
        elif shard.state is ShardState.WAITING and state is not None and _is_stuck(state):
            self._declare_dead(client, shard, f"A worker took it, and it had not begun {STARTING_S:.0f} s later.")

    def _over(self, shard: Shard) -> None:
        """A shard that has written down its end."""
        self._off(shard)
        if shard.state is ShardState.STOPPED:
            self._run.slots.stop(ShardStopped(shard.reason))
        elif shard.state is ShardState.INTERRUPTED and not self._run.slots.interrupted:
            self._broke.append(f"Shard {shard.number}: {shard.reason}")
        elif shard.state is ShardState.ENDED:
            self._run.delivery_stopped = self._run.delivery_stopped or shard.reason
            self._log.info("Shard %d has ended; %d to go", shard.number, len(self._live) + len(self._waiting))

    def _declare_dead(self, client: SyncPrefectClient, shard: Shard, told: str) -> None:
        """Its process or its worker is gone and nobody has told the server."""
        client.set_flow_run_state(self._live[shard.number].flow_run, Crashed(message=told), force=True)
        self._again(shard, told)

    def _again(self, shard: Shard, why: str) -> None:
        self._off(shard)
        if shard.tries >= STARTS:
            self._run.ledger.shards.end(self._run.id, shard.number, ShardState.DROPPED, why)
            self._broke.append(f"Shard {shard.number} broke off {shard.tries} times: {why.rstrip('.')}. {_MEND}")
            self._log.error(self._broke[-1])
        elif self._run.slots.stopped is None:
            self._log.warning("Shard %d broke off and is started again: %s", shard.number, why)
            self._waiting.insert(0, shard.number)
        else:
            self._run.ledger.shards.end(self._run.id, shard.number, ShardState.DROPPED, why)

    def _off(self, shard: Shard, why: str = "") -> None:
        del self._live[shard.number]
        if why and not self._run.slots.interrupted:
            self._broke.append(why)

    def _cancel(self, client: SyncPrefectClient) -> None:
        told = "The run that it is a part of was ended or suspended."
        for live in self._live.values():
            client.set_flow_run_state(live.flow_run, Cancelling(message=told))

    def _mind_workers(self, shards: Sequence[Shard]) -> None:
        """Say so where nobody takes the shards: without a worker the run would wait for ever, and not tell why."""
        now = time.monotonic()
        if any(shard.state is not ShardState.WAITING for shard in shards):
            self._lonely_since, self._was_told = now, False
        elif not self._was_told and now - self._lonely_since > NO_WORKER_S:
            self._was_told = True
            self._log.warning(
                "No shard is under way since %.0f s: is a worker polling the work pool of %s, with room for more than "
                "this run? (prefect worker start --pool NAME)",
                NO_WORKER_S,
                self._deployment,
            )


_DEPLOY = "Deploy again (`prefect deploy --all`), then run the same command again: it goes on from here."
_MEND = "Its flow runs' logs tell more; the same command goes on from here."


def _refused(error: Exception) -> str:
    """Why the server won't do what it was asked, now or later; empty where it may, and only could not be reached."""
    if isinstance(error, HTTPStatusError):
        answer = error.response
        return answer.text if answer.is_client_error and answer.status_code not in PATIENCE else ""
    if isinstance(error, ObjectNotFound):
        return "it has no such deployment"
    return "" if isinstance(error, HTTPError) else str(error) or type(error).__name__


def _is_stuck(state: State) -> bool:
    """Whether a worker has taken it for long: longer than a flow run needs to begin."""
    age_s = (datetime.now(UTC) - state.timestamp).total_seconds()
    return (state.is_pending() or state.is_running()) and age_s > STARTING_S


def _key(run: str, number: int, tries: int) -> str:
    return f"rowshot/{run}/{number}/{tries}"
