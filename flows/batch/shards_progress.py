"""How far the shards of a run are, which other processes buy."""

import time

from flows.batch.progress import rest_s
from flows.batch.run import BatchRun

COUNT_EVERY_S = 5.0


class RowsOfShards:
    """How far all shards are, counted in the ledger now and then: it takes the longer the more rows there are."""

    def __init__(self, run: BatchRun) -> None:
        self._run = run
        self._before = (run.ended, run.failed)
        self._at_first = self._count()
        self._next_at = 0.0

    def update(self) -> None:
        """Tell the run, if it is time."""
        began = time.monotonic()
        if began < self._next_at:
            return
        ended, failed = (now - before for now, before in zip(self._count(), self._at_first, strict=True))
        self._run.ended, self._run.failed = self._before[0] + max(ended, 0), self._before[1] + max(failed, 0)
        self._next_at = time.monotonic() + rest_s(time.monotonic() - began, COUNT_EVERY_S)

    def _count(self) -> tuple[int, int]:
        counts = self._run.ledger.rows.counts(self._run.output.name, self._run.id)
        failed = sum(count for status, count in counts.items() if status.is_failure)
        return sum(count for status, count in counts.items() if status.has_image) + failed, failed
