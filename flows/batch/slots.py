"""How many calls may be in flight, and when the next may start."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class RunStopped(Exception):
    """The run is ending: this row was not begun and stays pending."""


class Slots:
    """At most `limit` calls at once; a pause or a stop holds for all of them.

    `left` is set when calls in flight are waited for no longer.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = threading.Event()
        self._free = limit
        self._change = threading.Condition()
        self._not_before = 0.0
        self._stopped: BaseException | None = None
        self._interrupted = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold a slot for one call. Raises: RunStopped once the run is ending."""
        with self._change:
            while True:
                if self._stopped is not None:
                    raise RunStopped(str(self._stopped)) from self._stopped
                pause_s = self._not_before - time.monotonic()
                if self._free > 0 and pause_s <= 0:
                    break
                self._change.wait(pause_s if self._free > 0 else None)
            self._free -= 1
        try:
            yield
        finally:
            with self._change:
                self._free += 1
                self._change.notify()

    def pause(self, seconds: float) -> None:
        """Let no call start for so long: the provider asked all of us to slow down."""
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
    def interrupted(self) -> bool:
        """Whether somebody has ended the run."""
        return self._interrupted

    @property
    def stopped(self) -> BaseException | None:
        """Why the run is ending, if it is."""
        return self._stopped
