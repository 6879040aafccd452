"""How many calls may be in flight, and when the next may start."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flows.batch.adaptive_limit import AdaptiveLimit

BEGIN_S = 0.3


class RunStopped(Exception):
    """The run is ending: this row was not begun and stays pending."""


@dataclass(frozen=True, slots=True)
class Call:
    """A slot that is held for one call. `spell` tells under which width of the pool it began."""

    spell: int


class Slots:
    """At most `limit` calls at once, and no more than are allowed from outside or than the provider takes.

    A pause or a stop holds for all of them. `left` is set when calls in flight are waited for no longer.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = threading.Event()
        self._learnt = AdaptiveLimit(limit)
        self._allowed = limit
        self._in_flight = 0
        self._waiting = 0
        self._starts: deque[tuple[float, int]] | None = None
        self._change = threading.Condition()
        self._begun = threading.Condition()
        self._beginning: set[int] = set()  # threads that hold a slot and have not made their call yet
        self._not_before = 0.0
        self._stopped: BaseException | None = None
        self._interrupted = False

    @contextmanager
    def hold(self) -> Iterator[Call]:
        """Hold a slot for one call. Raises: RunStopped once the run is ending."""
        with self._change:
            self._waiting += 1
            try:
                call = self._begin()
            finally:
                self._waiting -= 1
        with self._begun:
            self._beginning.add(threading.get_ident())
        try:
            yield call
        finally:
            self.has_begun()
            with self._change:
                self._in_flight -= 1
                self._change.notify()

    def has_begun(self) -> None:
        """The call of this thread is on its way."""
        with self._begun:
            self._beginning.discard(threading.get_ident())
            if not self._beginning:
                self._begun.notify_all()

    def let_others_begin(self) -> None:
        """Wait a moment while calls are about to be made: a free slot costs time, and what follows a call has time."""
        with self._begun:
            self._begun.wait_for(lambda: not self._beginning, BEGIN_S)

    def _begin(self) -> Call:
        while True:
            if self._stopped is not None:
                raise RunStopped(str(self._stopped)) from self._stopped
            pause_s = self._not_before - time.monotonic()
            free = self._in_flight < self._at_once and self._may_start()
            if free and pause_s <= 0:
                break
            self._change.wait(pause_s if free else None)
        if self._starts is not None:
            until, left = self._starts.popleft()
            if left > 1:
                self._starts.appendleft((until, left - 1))
        self._in_flight += 1
        if self._in_flight < self._at_once:
            self._change.notify()  # who was woken while there was a pause may have woken nobody else
        return Call(self._learnt.spell)

    @property
    def _at_once(self) -> int:
        return min(self._allowed, self._learnt.width)

    def _may_start(self) -> bool:
        if self._starts is None:
            return True
        while self._starts and self._starts[0][0] <= time.monotonic():
            self._starts.popleft()
        return bool(self._starts)

    def refused(self, call: Call, pause_s: float) -> None:
        """The provider asks for patience: no call starts for so long, and after that fewer are in flight."""
        with self._change:
            self._learnt.refused(call.spell, self._in_flight)
        self.pause(pause_s)

    def answered(self) -> None:
        """The provider took a call, whose slot is still held: where it takes all there are, more may follow."""
        with self._change:
            before = self._learnt.width
            self._learnt.answered(self._in_flight)
            if self._learnt.width > before:
                self._change.notify_all()

    def allow(self, calls: int) -> None:
        """Let so many be in flight from now on; those that are too many now end in their own time."""
        with self._change:
            self._allowed = min(self.limit, calls)
            self._change.notify_all()

    def grant(self, starts: int, seconds: float) -> None:
        """Let so many more calls start within so many seconds. From the first grant on each start needs one."""
        with self._change:
            if self._starts is None:
                self._starts = deque()
            if starts > 0:
                self._starts.append((time.monotonic() + seconds, starts))
            self._change.notify_all()

    def grant_freely(self) -> None:
        """Let calls start without a grant again."""
        with self._change:
            self._starts = None
            self._change.notify_all()

    def pause(self, seconds: float) -> None:
        """Let no call start for so long: the provider or a person has asked for it."""
        with self._change:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def stop(self, reason: BaseException) -> None:
        """Let no call start any more; the first reason given is the one that is told."""
        with self._change:
            self._stopped = self._stopped or reason
            self._change.notify_all()

    def interrupt(self, reason: str, grace_s: float) -> None:
        """Somebody ends the run: no call starts any more, and those in flight have so many seconds to come home."""
        self.stop(RunStopped(reason))
        if not self._interrupted:
            self._interrupted = True
            deadline = threading.Timer(grace_s, self.left.set)
            deadline.daemon = True
            deadline.start()

    @property
    def in_flight(self) -> int:
        """How many calls are in flight now."""
        return self._in_flight

    @property
    def wanted(self) -> int:
        """How many calls would be in flight now if nothing held them back, up to the limit."""
        with self._change:
            return 0 if self._stopped is not None else min(self.limit, self._in_flight + self._waiting)

    @property
    def starts_left(self) -> int:
        """How many calls may start yet by what was granted."""
        with self._change:
            return sum(left for _, left in self._starts) if self._may_start() and self._starts else 0

    @property
    def paused(self) -> bool:
        """Whether no call may start for the moment."""
        return time.monotonic() < self._not_before

    @property
    def interrupted(self) -> bool:
        """Whether somebody has ended the run."""
        return self._interrupted

    @property
    def stopped(self) -> BaseException | None:
        """Why the run is ending, if it is."""
        return self._stopped
