"""The calls to a provider: written down before each is made, and closed by what came of it."""

import json
import time
import uuid
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from blocks.errors import ImageGenerationError
from blocks.image import ChildProcess, GeneratedImage
from flows.batch.jobs import Job
from flows.batch.ledger_database import Database
from flows.batch.ledger_images import (
    STANDING,
    Attempt,
    Cost,
    Orphan,
    Place,
    Standing,
    facts_of,
    standing_of,
    this,
    this_image,
    write_place,
)
from flows.batch.ledger_tables import Charged, State, attempts, images
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
_SEE_CALL_BEGIN = select(attempts.c.started_at).where(_THIS_CALL)
_SEE_MONEY = select(images.c.paid_calls, images.c.price_usd, images.c.price_is_estimated, images.c.credits_used).where(
    *this_image(images)
)
_NEW_IMAGE = {
    "sqlite": sqlite.insert(images).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(images).on_conflict_do_nothing(),
}


class Calls:
    """Who may call for what. Every method is one transaction, and may raise LedgerUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(
        self, job: Job, owner: Owner, folder: Path, list_price: Cost, again: frozenset[State]
    ) -> Attempt | Standing:
        """Write down that a call for this job is about to be made; the only way to be allowed to make it.

        `again` are the states out of which a row may be bought anew, besides pending and failed. Gives the image's
        standing where it may not: it is bought, held by somebody, or in a state that needs the user's word.
        """

        def work(connection: Connection) -> Attempt | Standing:
            _ensure(connection, job)
            standing = standing_of(connection.execute(_SEE, this(job.key)).one())
            mine = standing.owner == owner.id and standing.state is State.RESERVED
            if not mine and standing.state not in {State.PENDING, State.FAILED, *again}:
                return standing
            attempt = Attempt(folder.name, job, folder)
            now = time.time()
            taken = {"state": State.SUBMITTED, "owner": owner.id, "attempt": attempt.id, "updated_at": now}
            connection.execute(_SET_IMAGE, {**this(job.key), **taken, "attempts": standing.attempts + 1})
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
                "price_usd": list_price.usd,
                "price_is_estimated": True,
            }
            connection.execute(_NEW_CALL, call)
            return attempt

        return self._database.write(work)

    def note_child(self, attempt: str, child: ChildProcess) -> None:
        """Remember the process that makes a call, so that it can be found should we die."""
        noted = {"this_attempt": attempt, "pid": child.pid, "pid_started": child.started}
        self._database.write(lambda connection: connection.execute(_SET_CALL, noted))

    def end(
        self, attempt: Attempt, state: State, charged: Charged, cost: Cost, error: ImageGenerationError | None = None
    ) -> None:
        """Close a call that brought no image. `state` RESERVED keeps the row for the next call of the same owner."""

        def work(connection: Connection) -> None:
            _, money = _close(connection, attempt, error.kind if error else state.value, charged, cost)
            ended = {
                "state": state,
                "error_kind": error.kind if error else "",
                "error": str(error) if error else "",
                "request_id": error.request_id if error else "",
                "updated_at": time.time(),
            }
            if state is not State.RESERVED:
                ended["owner"] = ""
            ours = {**this(attempt.job.key), "this_attempt": attempt.id}
            connection.execute(_SET_IMAGE_OF_CALL, {**ours, **ended, **money})

        self._database.write(work)

    def bought(
        self, attempt: Attempt, image: GeneratedImage, verified: VerifiedImage, cost: Cost, place: Place
    ) -> None:
        """A verified image is in its place: once that is safe on disk, the call is paid and the image is ours."""
        now = time.time()

        def work(connection: Connection) -> None:
            started, money = _close(connection, attempt, State.BOUGHT.value, Charged.YES, cost)
            ours = {
                "state": State.BOUGHT,
                "owner": "",
                "request_id": image.request_id,
                "url": image.url,
                "seconds": now - started,
                "error_kind": "",
                "error": "",
                "bought_at": now,
                "updated_at": now,
            }
            connection.execute(_SET_IMAGE, {**this(attempt.job.key), **ours, **facts_of(verified), **money})
            write_place(connection, attempt.job.key, place)

        self._database.write(work, [Path(place.output) / place.original])

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
            return Orphan(call.attempt, call.host, Path(call.folder), child)

        return self._database.write(work)


def _ensure(connection: Connection, job: Job) -> None:
    planned = {
        "sku": job.sku,
        "template": job.template,
        "fingerprint": job.fingerprint,
        "redo_of": job.redo_of,
        "state": State.PENDING,
        "generator": job.generator,
        "account": job.account,
        "model": job.model,
        "mode": job.mode.value,
        "prompt": job.prompt,
        "params": json.dumps(dict(job.params), ensure_ascii=False, sort_keys=True),
        "variant": job.variant,
        "updated_at": time.time(),
    }
    connection.execute(_NEW_IMAGE[connection.dialect.name], planned)


def _close(
    connection: Connection, attempt: Attempt, outcome: str, charged: Charged, cost: Cost
) -> tuple[float, dict[str, object]]:
    """End a call; gives when it began, in seconds since the epoch, and what the image has cost with it."""
    (began,) = connection.execute(_SEE_CALL_BEGIN, {"this_attempt": attempt.id}).one()
    ended = {
        "this_attempt": attempt.id,
        "ended_at": time.time(),
        "outcome": outcome,
        "charged": charged,
        "price_usd": Decimal(0) if charged is Charged.NO else cost.usd,
        "price_is_estimated": cost.is_estimated,
        "credits_used": cost.credits_used,
    }
    connection.execute(_SET_CALL, ended)
    if charged is Charged.NO:
        return began, {}
    sums = connection.execute(_SEE_MONEY, this(attempt.job.key)).one()
    first = sums.paid_calls == 0
    money = {
        "paid_calls": sums.paid_calls + 1,
        "price_usd": cost.usd if first else _sum(sums.price_usd, cost.usd),
        "price_is_estimated": cost.is_estimated or bool(sums.price_is_estimated),
        "credits_used": cost.credits_used if first else _sum(sums.credits_used, cost.credits_used),
    }
    return began, money


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    """Their sum; unknown where one of them is."""
    return None if one is None or other is None else one + other
