"""A large batch in parts: shards of so many rows, kept in the ledger for whoever is to buy them."""

import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from blocks.image import Mode
from flows.batch.finish import Finish, Fit
from flows.batch.jobs import Job
from flows.batch.ledger_database import Database
from flows.batch.ledger_tables import shards
from flows.batch.owners import is_alive


class ShardState(StrEnum):
    """How a shard stands. Only a shard's own flow run ends it: one that died leaves it `under-way`."""

    WAITING = "waiting"
    UNDER_WAY = "under-way"
    ENDED = "ended"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    DROPPED = "dropped"

    @property
    def is_over(self) -> bool:
        """Whether nobody works on it any more, or will."""
        return self not in _NOT_OVER


_NOT_OVER = (ShardState.WAITING, ShardState.UNDER_WAY)


@dataclass(frozen=True, slots=True)
class Shard:
    """One part of a run. `tries` counts its flow runs; `reason` says why it was stopped, if it was.

    `is_held`: whether the process that has taken it lives, as far as the ledger knows.
    """

    run: str
    number: int
    rows: int
    tries: int
    state: ShardState
    reason: str
    is_held: bool


def cut(jobs: Sequence[Job], rows: int) -> Iterator[Sequence[Job]]:
    """The jobs in parts of so many, in their order; 0 rows: all in one."""
    size = rows or max(len(jobs), 1)
    for first in range(0, len(jobs), size):
        yield jobs[first : first + size]


class Shards:
    """What the ledger knows of the shards of runs. Every method is one transaction, and may raise LedgerUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, run: str, parts: Iterable[Sequence[Job]]) -> list[int]:
        """Add shards to a run; gives their numbers, which go on from those that it had before, be they done or not."""
        numbers = []
        with self._database.writing() as connection:
            last = connection.scalar(select(func.max(shards.c.number)).where(shards.c.run == run)) or 0
            for number, jobs in enumerate(parts, start=last + 1):
                values = {"run": run, "number": number, "rows": len(jobs), "jobs": _packed(jobs)}
                connection.execute(insert(shards).values(**values, state=ShardState.WAITING, at=time.time()))
                numbers.append(number)
        return numbers

    def of_run(self, run: str, numbers: Iterable[int] | None = None) -> list[Shard]:
        """The shards of a run, in their order; only those of these numbers where some are given."""
        wanted = select(*_ALL_BUT_JOBS).where(shards.c.run == run).order_by(shards.c.number)
        if numbers is not None:
            wanted = wanted.where(shards.c.number.in_(list(numbers)))
        with self._database.reading() as connection:
            return [
                _shard(row, is_held=bool(row.owner) and is_alive(connection, row.owner))
                for row in connection.execute(wanted)
            ]

    def jobs(self, run: str, number: int) -> list[Job] | None:
        """What a shard is to buy; None where the ledger has no such shard."""
        this = (shards.c.run == run, shards.c.number == number)
        with self._database.reading() as connection:
            packed = connection.scalar(select(shards.c.jobs).where(*this))
        return None if packed is None else _unpacked(packed)

    def next_try(self, run: str, number: int) -> int:
        """Count one more flow run of a shard, before it is asked for; gives which one it is, from 1."""
        self._set(run, number, tries=shards.c.tries + 1, owner="", state=ShardState.WAITING)
        (shard,) = self.of_run(run, [number])
        return shard.tries

    def take(self, run: str, number: int, owner: str) -> None:
        """Note who works on a shard now."""
        self._set(run, number, owner=owner, state=ShardState.UNDER_WAY, reason="")

    def end(self, run: str, number: int, state: ShardState, reason: str = "") -> None:
        """Note how a shard ended. What it was to buy stays until `forget_jobs`."""
        self._set(run, number, state=state, reason=reason)

    def forget_jobs(self, run: str) -> None:
        """Let go what the shards of a run were to buy: they are done with, and their rows are in the reports."""
        with self._database.writing() as connection:
            mine = (shards.c.run == run, shards.c.state.not_in(_NOT_OVER))
            connection.execute(update(shards).where(*mine).values(jobs=_packed([])))

    def _set(self, run: str, number: int, **values: Any) -> None:
        with self._database.writing() as connection:
            this = (shards.c.run == run, shards.c.number == number)
            connection.execute(update(shards).where(*this).values(**values, at=time.time()))


_ALL_BUT_JOBS = tuple(column for column in shards.c if column.name != "jobs")


def _shard(row: Row[Any], *, is_held: bool) -> Shard:
    return Shard(row.run, row.number, row.rows, row.tries, ShardState(row.state), row.reason, is_held)


def _packed(jobs: Sequence[Job]) -> bytes:
    """Jobs as compressed JSON: prompts of one template are much alike, and shrink to a tenth."""
    return zlib.compress(json.dumps([_plain(job) for job in jobs], separators=(",", ":")).encode())


def _unpacked(packed: bytes) -> list[Job]:
    return [_job(plain) for plain in json.loads(zlib.decompress(packed))]


def _plain(job: Job) -> dict[str, Any]:
    finish = job.finish
    return {
        "line": job.line,
        "sku": job.sku,
        "template": job.template,
        "fingerprint": job.fingerprint,
        "generator": job.generator,
        "account": job.account,
        "model": job.model,
        "mode": job.mode.value,
        "prompt": job.prompt,
        "params": dict(job.params),
        "finish": [finish.width, finish.height, finish.fit.value, finish.format],
        "variant": job.variant,
        "redo_of": job.redo_of,
    }


def _job(plain: Mapping[str, Any]) -> Job:
    width, height, fit, kind = plain["finish"]
    values = {**plain, "mode": Mode(plain["mode"]), "finish": Finish(width, height, Fit(fit), kind)}
    return Job(**values)
