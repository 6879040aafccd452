"""Handing finished images on while others are still being made: to the store, and from there to the CMS.

Blocks of up to 50 go out as their images come, each a task run in small pools of their own. Nothing that fails here
reaches the generator: an image is bought before it is handed on, and what could not be delivered is for the next run.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from queue import Empty, SimpleQueue
from typing import Any

from prefect import Task, get_run_logger
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import Pause
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from blocks.errors import DeliveryError, DeliveryStopped, DeliveryUnavailable
from flows.batch.deliveries import Delivery
from flows.batch.ledger_images import Key
from flows.batch.plan import Left, Plan
from flows.batch.problems import LedgerUnavailable
from flows.batch.publishing import PublishRow
from flows.batch.purchase import Bought
from flows.batch.run import BatchRun
from flows.batch.uploads import RunEnded, StoreRow
from flows.tasks.publish import publish_to_cms
from flows.tasks.upload import upload_images

BLOCK = 50
AT_ONCE = 4
GATHER_S = 3.0
TICK_S = 0.25
AGAIN_AFTER_S = 30.0
# About a minute in all. None is long, for a run that is ended waits for a retry that sleeps.
DELAYS_S: list[float] = [1, 2, 4, 8, 8, 8, 8, 8, 8]

HandOn = Callable[[Bought], None]


@dataclass(slots=True)
class _Way:
    """The way to one destination: the images that wait for it, and the blocks that are on it."""

    task: Task[Any, Any]
    parameters: dict[str, Any]
    destination: str
    pool: ThreadPoolTaskRunner[Any]
    waiting: list[Any] = field(default_factory=list)
    since: float = 0.0
    not_before: float = 0.0
    under_way: int = 0
    over: DeliveryError | None = None

    def add(self, rows: Sequence[Any]) -> None:
        if rows and not self.waiting:
            self.since = time.monotonic()
        self.waiting += rows

    def next_block(self, *, last: bool) -> list[Any]:
        """The block that is to go out now; empty while more is to be gathered, or enough are on their way."""
        now = time.monotonic()
        ripe = last or len(self.waiting) >= BLOCK or now - self.since >= GATHER_S
        if (
            self.over
            or not self.waiting
            or not ripe
            or self.under_way >= AT_ONCE
            or (now < self.not_before and not last)
        ):
            return []
        size = min(BLOCK, ceil(len(self.waiting) / (AT_ONCE - self.under_way))) if last else BLOCK
        block, self.waiting = self.waiting[:size], self.waiting[size:]
        self.since = now
        return block


@dataclass(frozen=True, slots=True)
class _Arrived:
    """Images that may go on a way now."""

    way: _Way
    rows: Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Ended:
    """A block that is off its way, well or not."""

    way: _Way
    rows: Sequence[Any]
    future: PrefectFuture[Any]


class _Closing:
    """No more images come."""


class HandingOn:
    """Follows the blocks of one run, in a thread of its own."""

    def __init__(self, run: BatchRun, store: ThreadPoolTaskRunner[Any], cms: ThreadPoolTaskRunner[Any]) -> None:
        self._run = run
        self._inbox: SimpleQueue[_Arrived | _Ended | _Closing] = SimpleQueue()
        self._closing = False
        self._ways: list[_Way] = []
        self._log = get_run_logger()
        told: Callable[[Sequence[PublishRow]], None] = kept_only
        if run.site:
            to_cms = {"site": run.site, "deliveries": run.ledger.deliveries, "run": run.id, "left": run.slots.left}
            publishing = _Way(self._patient(publish_to_cms), to_cms, run.site.name, cms)
            self._ways.append(publishing)
            self._publishing = publishing
            if not run.request.holds_back:

                def told(rows: Sequence[PublishRow]) -> None:
                    self._inbox.put(_Arrived(publishing, rows))

        if run.shelf:
            self._storing = _Way(
                self._patient(upload_images), {"run": run, "stored": told}, run.shelf.destination, store
            )
            self._ways.insert(0, self._storing)

    def begin(self, plan: Plan | Left) -> None:
        """Take up what earlier runs have left."""
        if plan.to_store:
            self._inbox.put(_Arrived(self._storing, plan.to_store))
        if plan.to_publish:
            self._inbox.put(_Arrived(self._publishing, plan.to_publish))

    def add(self, bought: Bought) -> None:
        """Hand on an image that is finished. Takes no time, and raises nothing."""
        self._inbox.put(_Arrived(self._storing, [StoreRow(bought.job, bought.place)]))

    def close(self) -> None:
        """No more images come: what waits goes out."""
        self._inbox.put(_Closing())

    def follow(self) -> None:
        """Submit blocks as they are ready, until all are home after `close`."""
        while True:
            try:
                message = self._inbox.get(timeout=TICK_S)
            except Empty:
                message = None
            if isinstance(message, _Arrived):
                message.way.add(message.rows)
            elif isinstance(message, _Ended):
                self._off(message)
            elif isinstance(message, _Closing):
                self._closing = True
            if not self._inbox.empty():
                continue
            for way in self._ways:
                self._send(way)
            if self._closing and not any(way.under_way or self._goes_on(way) for way in self._ways):
                break
        for way in self._ways:
            self._give_up(way)

    @property
    def stopped(self) -> str:
        """Why a person must act before more can be delivered; empty where nobody must."""
        return next((str(way.over) for way in self._ways if isinstance(way.over, DeliveryStopped)), "")

    def _goes_on(self, way: _Way) -> bool:
        return bool(way.waiting) and not way.over and not self._run.slots.interrupted

    def _send(self, way: _Way) -> None:
        last = self._closing and not any(earlier.under_way or self._goes_on(earlier) for earlier in self._before(way))
        while self._goes_on(way) and (block := way.next_block(last=last)):
            way.under_way += 1
            future = way.pool.submit(way.task, {"rows": block, **way.parameters})
            future.add_done_callback(partial(self._ended, way, block))

    def _has(self, row: StoreRow | PublishRow, known: Mapping[Key, Delivery]) -> bool:
        """Whether a row of a block that failed arrived all the same."""
        delivery = known.get(_key(row))
        if isinstance(row, StoreRow):
            return self._run.shelf is not None and self._run.shelf.has(row, delivery)
        return delivery is not None and delivery.is_done and delivery.url == row.url

    def _patient(self, deliver: Task[Any, Any]) -> Task[Any, Any]:
        """A delivery that is tried again for as long as that may help."""
        return deliver.with_options(
            retries=len(DELAYS_S),
            retry_delay_seconds=DELAYS_S,
            retry_jitter_factor=0.3,
            retry_condition_fn=self._may_retry,
        )

    async def _may_retry(self, _task: Any, _run: TaskRun, state: State[Any]) -> bool:
        """Whether a later try may bring rows home; a run that is ended waits for none."""
        told = await state.aresult(raise_on_failure=False)
        return isinstance(told, DeliveryUnavailable) and not self._run.slots.interrupted

    def _ended(self, way: _Way, block: Sequence[Any], future: PrefectFuture[Any]) -> None:
        self._inbox.put(_Ended(way, block, future))

    def _before(self, way: _Way) -> Sequence[_Way]:
        return self._ways[: self._ways.index(way)]

    def _off(self, ended: _Ended) -> None:
        """What came of a block. One that a later try may bring home waits again, as long as images are being made."""
        way = ended.way
        way.under_way -= 1
        error = _outcome(ended.future)
        if error is None:
            way.not_before = 0.0
        elif isinstance(error, DeliveryUnavailable):
            way.add(ended.rows)
            way.not_before = time.monotonic() + AGAIN_AFTER_S
            if self._closing:
                way.over = error
        elif isinstance(error, DeliveryStopped):
            way.add(ended.rows)
            way.over = error
        elif isinstance(error, LedgerUnavailable):
            self._run.slots.stop(error)
        else:  # its rows stay as they are, and the reports say so
            self._log.error("A block of %d images was not delivered: %r", len(ended.rows), error)

    def _give_up(self, way: _Way) -> None:
        """Note why images are not delivered; those that were merely not begun say nothing."""
        if way.over is None or not way.waiting:
            return
        try:
            deliveries = self._run.ledger.deliveries
            known = deliveries.standing(map(_key, way.waiting), way.destination)
            late = [row for row in way.waiting if not self._has(row, known)]
            deliveries.failed(way.destination, dict.fromkeys(map(_key, late), way.over))
        except LedgerUnavailable as error:
            self._run.slots.stop(error)


def _key(row: StoreRow | PublishRow) -> Key:
    return row.job.key if isinstance(row, StoreRow) else row.key


def _outcome(future: PrefectFuture[Any]) -> BaseException | None:
    """What made a task run fail; None where it did not."""
    try:
        future.wait()
        if future.state.is_completed():
            return None
        told = future.state.result(raise_on_failure=False)
    except Pause:
        return RunEnded("The run was suspended. It goes on with them when it is resumed.")
    except Exception as error:  # noqa: BLE001 - whatever it was, its rows are not delivered, and the caller says so
        return error
    return told if isinstance(told, BaseException) else RuntimeError(str(told))


@contextmanager
def handing_on(run: BatchRun, plan: Plan | Left) -> Iterator[HandOn]:
    """Hand images on while the body makes them; ends when all that can be delivered is. Gives where to put them."""
    if not run.shelf:
        yield kept_only
        return
    with ExitStack() as pools:
        store: ThreadPoolTaskRunner[Any] = pools.enter_context(ThreadPoolTaskRunner(AT_ONCE))
        cms: ThreadPoolTaskRunner[Any] = pools.enter_context(ThreadPoolTaskRunner(AT_ONCE))
        handing = HandingOn(run, store, cms)
        handing.begin(plan)
        here = copy_context()  # tasks find their flow run in it
        follower = threading.Thread(target=here.run, args=(handing.follow,), name="handing-on", daemon=True)
        follower.start()
        try:
            yield handing.add
        finally:
            handing.close()
            follower.join()
            run.delivery_stopped = run.delivery_stopped or handing.stopped  # its shards may have told why


def kept_only(_what: Any) -> None:
    """Hand nothing on: the output folder is where it was to go."""
