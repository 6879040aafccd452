"""The calls to a provider: written down before each is made, and closed by what came of it."""

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from sqlalchemy import ColumnDefault, Connection, bindparam, insert, select, text, update

from blocks.errors import ImageGenerationError, NoImage
from blocks.image import ChildProcess, GeneratedImage
from flows.batch.budgets import CapReached, reserve, settle
from flows.batch.caps import NO_CAPS, Caps
from flows.batch.jobs import Job
from flows.batch.ledger_database import Database
from flows.batch.ledger_images import (
    STANDING,
    Attempt,
    Cost,
    Key,
    Orphan,
    Place,
    Standing,
    chunks,
    facts_of,
    key_of,
    standing_of,
    this,
    this_image,
    write_place,
)
from flows.batch.ledger_tables import Charged, State, attempts, exact, images
from flows.batch.owners import Owner, is_alive
from flows.batch.verify import VerifiedImage


def new_attempt_id() -> str:
    """A name for one call that no other has."""
    return str(uuid.uuid4())


_THIS_CALL = attempts.c.attempt == bindparam("this_attempt")
# Made once: with many rows a second, building the same statements anew would be most of the ledger's cost.
_SEE = select(*STANDING).where(*this_image(images)).with_for_update()
_SET_IMAGE = update(images).where(*this_image(images))
_SET_IMAGE_OF_CALL = _SET_IMAGE.where(images.c.attempt == bindparam("this_attempt"))
_SET_CALL = update(attempts).where(_THIS_CALL)
_NEW_CALL = insert(attempts)
_SEE_CALL = select(attempts).where(_THIS_CALL)
_SEE_CALL_BEGIN = (
    select(attempts.c.run, attempts.c.started_at, attempts.c.price_usd).where(_THIS_CALL).with_for_update()
)
_SEE_MONEY = select(images.c.paid_calls, images.c.price_usd, images.c.price_is_estimated, images.c.credits_used).where(
    *this_image(images)
)
# As text, which both databases read: SQLAlchemy compiles its own ON CONFLICT anew each time it is executed.
_OF_NEW = [column.name for column in images.c if not column.nullable]
_NEW_IMAGE = text(
    f"INSERT INTO images ({', '.join(_OF_NEW)}) VALUES ({', '.join(f':{name}' for name in _OF_NEW)}) "  # noqa: S608 - our own columns' names
    "ON CONFLICT DO NOTHING RETURNING sku"
)
_AS_NEW = {column.name: column.default.arg for column in images.c if isinstance(column.default, ColumnDefault)}


class Calls:
    """Who may call for what. Every method is one transaction, and may raise LedgerUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(
        self, job: Job, owner: Owner, folder: Path, list_price: Cost, again: frozenset[State], caps: Caps = NO_CAPS
    ) -> Attempt | Standing:
        """Write down that a call for this job is about to be made; the only way to be allowed to make it.

        `again` are the states out of which a row may be bought anew, besides pending and failed. Gives the image's
        standing where it may not: it is bought, held by somebody, or in a state that needs the user's word.
        Raises: CapReached where its price, which is reserved with this, doesn't fit under a cap any more.
        """

        def work(connection: Connection) -> Attempt | Standing | CapReached | None:
            seen = connection.execute(_SEE, this(job.key)).one_or_none()
            standing = standing_of(seen) if seen else None
            mine = standing is not None and standing.owner == owner.id and standing.state is State.RESERVED
            if standing and not mine and standing.state not in {State.PENDING, State.FAILED, *again}:
                return standing
            in_vain = standing is not None and standing.paid_calls > 0 and standing.state not in again
            attempt = Attempt(folder.name, job, folder, paid_before=in_vain)
            now = time.time()
            refused = reserve(connection, owner.run, now, list_price.reserved_usd, caps)
            if refused:
                if mine:
                    connection.execute(_SET_IMAGE, {**this(job.key), "state": State.PENDING, "owner": ""})
                return refused
            taken = {"state": State.SUBMITTED, "owner": owner.id, "attempt": attempt.id, "updated_at": now}
            if standing:
                connection.execute(_SET_IMAGE, {**this(job.key), **taken, "attempts": standing.attempts + 1})
            elif not _put_new(connection, job, {**taken, "attempts": 1}):  # somebody else was first
                settle(connection, owner.run, now, -(list_price.reserved_usd or Decimal(0)))
                return None
            call = {
                "attempt": attempt.id,
                "sku": job.sku,
                "template": job.template,
                "fingerprint": job.fingerprint,
                "run": owner.run,
                "host": owner.host,
                "folder": str(folder),
                "started_at": now,
                "outcome": State.SUBMITTED,
                "charged": Charged.MAYBE,
                "estimate_usd": list_price.usd,
                "price_usd": list_price.reserved_usd,
                "price_is_estimated": True,
            }
            connection.execute(_NEW_CALL, call)
            return attempt

        while (taken := self._database.write(work, urgent=True)) is None:
            pass  # it is there now, and is seen as it stands
        if isinstance(taken, CapReached):
            raise taken
        return taken

    def note_child(self, attempt: str, child: ChildProcess) -> None:
        """Remember the process that makes a call, so that it can be found should we die."""
        noted = {"this_attempt": attempt, "pid": child.pid, "pid_started": child.started}
        self._database.write(lambda connection: connection.execute(_SET_CALL, noted))

    def end(
        self, attempt: Attempt, state: State, charged: Charged, cost: Cost, error: ImageGenerationError | None = None
    ) -> None:
        """Close a call that brought no image. `state` RESERVED keeps the row for the next call of the same owner."""

        def work(connection: Connection) -> None:
            call = _close(connection, attempt, error.kind if error else state.value, charged, cost)
            ended = {
                "state": state,
                "error_kind": error.kind if error else "",
                "error": str(error) if error else "",
                "request_id": error.request_id if error else "",
                "updated_at": time.time(),
            }
            if state is not State.RESERVED:
                ended["owner"] = ""
            if isinstance(error, NoImage) and error.url:
                ended["url"] = error.url  # where the image may be had after all
            ours = {**this(attempt.job.key), "this_attempt": attempt.id}
            connection.execute(_SET_IMAGE_OF_CALL, {**ours, **ended, **call.money})
            settle(connection, call.run, call.began, call.more_usd)

        self._database.write(work)

    def bought(
        self, attempt: Attempt, image: GeneratedImage, verified: VerifiedImage, cost: Cost, place: Place
    ) -> None:
        """A verified image is in its place: once that is safe on disk, the call is paid and the image is ours."""
        now = time.time()

        def work(connection: Connection) -> None:
            call = _close(connection, attempt, State.BOUGHT.value, Charged.YES, cost)
            ours = {
                "state": State.BOUGHT,
                "owner": "",
                "request_id": image.request_id,
                "url": image.url,
                "seconds": now - call.began,
                "error_kind": "",
                "error": "",
                "bought_at": now,
                "updated_at": now,
            }
            connection.execute(_SET_IMAGE, {**this(attempt.job.key), **ours, **facts_of(verified), **call.money})
            write_place(connection, attempt.job.key, place)
            settle(connection, call.run, call.began, call.more_usd)

        self._database.write(work, [Path(place.output) / place.original])

    def settled(self, calls: Iterable[str]) -> dict[str, bool]:
        """Whether nothing in these calls' folders is of worth any more; those the ledger doesn't have are left out.

        So it is with a call whose image is kept, and with one that cost nothing.
        """
        found: dict[str, bool] = {}
        with self._database.reading() as connection:
            for chunk in chunks(calls):
                for row in connection.execute(select(attempts).where(attempts.c.attempt.in_(chunk))):
                    found[row.attempt] = row.outcome == State.BOUGHT or row.charged == Charged.NO
        return found

    def made_by(self, run: str, keys: Iterable[Key]) -> set[Key]:
        """Those of these images that a run has made a call for."""
        mine = select(*key_of(attempts)).where(attempts.c.run == run)
        with self._database.reading() as connection:
            called = {(row.sku, row.template, row.fingerprint) for row in connection.execute(mine)}
        return called.intersection(keys)

    def adopt(self, standing: Standing, owner: Owner) -> Orphan | Standing | None:
        """Take over a row whose holder died, or that this owner itself left behind when something broke.

        Gives the call to look up; None where no call was under way, so that the row can be taken anew; and the standing
        as it is now where the holder lives.
        """

        def work(connection: Connection) -> Orphan | Standing | None:
            now = standing_of(connection.execute(_SEE, this(standing.key)).one())
            if not now.state.in_flight or (now.owner != owner.id and is_alive(connection, now.owner)):
                return now
            if now.state is State.RESERVED:
                connection.execute(_SET_IMAGE, {**this(standing.key), "state": State.FAILED, "owner": ""})
                return None
            connection.execute(_SET_IMAGE, {**this(standing.key), "owner": owner.id})
            call = connection.execute(_SEE_CALL, {"this_attempt": now.attempt}).one()
            child = ChildProcess(call.pid, call.pid_started) if call.pid else None
            return Orphan(call.attempt, call.run, call.host, Path(call.folder), child)

        return self._database.write(work)


def _put_new(connection: Connection, job: Job, taken: dict[str, object]) -> bool:
    """Note an image for the first time; False where it is there."""
    planned = {
        "sku": job.sku,
        "template": job.template,
        "fingerprint": job.fingerprint,
        "redo_of": job.redo_of,
        "generator": job.generator,
        "account": job.account,
        "model": job.model,
        "mode": job.mode.value,
        "prompt": job.prompt,
        "params": json.dumps(dict(job.params), ensure_ascii=False, sort_keys=True),
        "variant": job.variant,
    }
    return connection.execute(_NEW_IMAGE, {**_AS_NEW, **planned, **taken}).one_or_none() is not None


@dataclass(frozen=True, slots=True)
class _Closed:
    """A call that has ended: its run, when it began, what it cost beyond what was reserved, and what its image did."""

    run: str
    began: float
    more_usd: Decimal
    money: dict[str, object]


def _close(connection: Connection, attempt: Attempt, outcome: str, charged: Charged, cost: Cost) -> _Closed:
    """End a call. What it has cost is still to be settled, at the end of the transaction."""
    call = connection.execute(_SEE_CALL_BEGIN, {"this_attempt": attempt.id}).one()
    usd = Decimal(0) if charged is Charged.NO else exact(cost.usd)
    if charged is Charged.MAYBE and usd is not None and call.price_usd is not None:
        usd = max(usd, call.price_usd)  # what is in doubt stays counted, whole
    ended = {
        "this_attempt": attempt.id,
        "ended_at": time.time(),
        "outcome": outcome,
        "charged": charged,
        "price_usd": usd,
        "price_is_estimated": cost.is_estimated,
        "credits_used": cost.credits_used,
    }
    connection.execute(_SET_CALL, ended)
    more_usd = (usd or Decimal(0)) - (call.price_usd or Decimal(0))
    if charged is Charged.NO:
        return _Closed(call.run, call.started_at, more_usd, {})
    sums = connection.execute(_SEE_MONEY, this(attempt.job.key)).one()
    first = sums.paid_calls == 0
    money = {
        "paid_calls": sums.paid_calls + 1,
        "price_usd": usd if first else _sum(sums.price_usd, usd),
        "price_is_estimated": cost.is_estimated or bool(sums.price_is_estimated),
        "credits_used": cost.credits_used if first else _sum(sums.credits_used, cost.credits_used),
    }
    return _Closed(call.run, call.started_at, more_usd, money)


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    """Their sum; unknown where one of them is."""
    return None if one is None or other is None else one + other
