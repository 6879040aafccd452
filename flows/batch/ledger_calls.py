"""The calls to a provider: written down before each is made, and closed by what came of it."""

import json
import time
import uuid
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Connection, func, insert, select, update
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
    is_image,
    standing_of,
    write_place,
)
from flows.batch.ledger_tables import Charged, State, attempts, images
from flows.batch.owners import Owner, is_alive
from flows.batch.verify import VerifiedImage


def new_attempt_id() -> str:
    """A name for one call that no other has."""
    return str(uuid.uuid4())


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
            self._ensure(connection, job)
            row = connection.execute(select(*STANDING).where(*is_image(images, job.key)).with_for_update()).one()
            standing = standing_of(row)
            mine = standing.owner == owner.id and standing.state is State.RESERVED
            if not mine and standing.state not in {State.PENDING, State.FAILED, *again}:
                return standing
            attempt = Attempt(folder.name, job, folder)
            connection.execute(
                update(images)
                .where(*is_image(images, job.key))
                .values(
                    state=State.SUBMITTED,
                    owner=owner.id,
                    attempt=attempt.id,
                    attempts=images.c.attempts + 1,
                    updated_at=time.time(),
                )
            )
            connection.execute(
                insert(attempts).values(
                    attempt=attempt.id,
                    sku=job.sku,
                    template=job.template,
                    fingerprint=job.fingerprint,
                    run=owner.run,
                    host=owner.host,
                    folder=str(folder),
                    started_at=time.time(),
                    outcome=State.SUBMITTED,
                    charged=Charged.MAYBE,
                    price_usd=list_price.usd,
                    price_is_estimated=True,
                )
            )
            return attempt

        return self._database.write(work)

    def note_child(self, attempt: str, child: ChildProcess) -> None:
        """Remember the process that makes a call, so that it can be found should we die."""

        def work(connection: Connection) -> None:
            connection.execute(
                update(attempts).where(attempts.c.attempt == attempt).values(pid=child.pid, pid_started=child.started)
            )

        self._database.write(work)

    def end(
        self, attempt: Attempt, state: State, charged: Charged, cost: Cost, error: ImageGenerationError | None = None
    ) -> None:
        """Close a call that brought no image. `state` RESERVED keeps the row for the next call of the same owner."""

        def work(connection: Connection) -> None:
            self._close(connection, attempt, error.kind if error else state.value, charged, cost)
            connection.execute(
                update(images)
                .where(*is_image(images, attempt.job.key), images.c.attempt == attempt.id)
                .values(
                    state=state,
                    owner=images.c.owner if state is State.RESERVED else "",
                    error_kind=error.kind if error else "",
                    error=str(error) if error else "",
                    request_id=error.request_id if error else "",
                    updated_at=time.time(),
                )
            )

        self._database.write(work)

    def bought(
        self, attempt: Attempt, image: GeneratedImage, verified: VerifiedImage, cost: Cost, place: Place
    ) -> None:
        """A verified image is on disk: the call is paid and the image is ours."""
        now = time.time()

        def work(connection: Connection) -> None:
            started = self._close(connection, attempt, State.BOUGHT.value, Charged.YES, cost)
            connection.execute(
                update(images)
                .where(*is_image(images, attempt.job.key))
                .values(
                    state=State.BOUGHT,
                    owner="",
                    request_id=image.request_id,
                    url=image.url,
                    seconds=now - started,
                    **facts_of(verified),
                    error_kind="",
                    error="",
                    bought_at=now,
                    updated_at=now,
                )
            )
            write_place(connection, attempt.job.key, place)

        self._database.write(work)

    def adopt(self, standing: Standing, owner: Owner) -> Orphan | Standing | None:
        """Take over a row whose holder died, or that this owner itself left behind when something broke.

        Gives the call to look up; None where no call was under way, so that the row can be taken anew; and the standing
        as it is now where the holder lives.
        """

        def work(connection: Connection) -> Orphan | Standing | None:
            row = connection.execute(select(*STANDING).where(*is_image(images, standing.key)).with_for_update()).one()
            now = standing_of(row)
            if not now.state.in_flight or (now.owner != owner.id and is_alive(connection, now.owner)):
                return now
            reserved_only = now.state is State.RESERVED
            values = {"state": State.FAILED, "owner": ""} if reserved_only else {"owner": owner.id}
            connection.execute(update(images).where(*is_image(images, standing.key)).values(**values))
            if reserved_only:
                return None
            call = connection.execute(select(attempts).where(attempts.c.attempt == now.attempt)).one()
            child = ChildProcess(call.pid, call.pid_started) if call.pid else None
            return Orphan(call.attempt, call.host, Path(call.folder), child)

        return self._database.write(work)

    def _ensure(self, connection: Connection, job: Job) -> None:
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        connection.execute(
            dialect.insert(images)
            .values(
                sku=job.sku,
                template=job.template,
                fingerprint=job.fingerprint,
                redo_of=job.redo_of,
                state=State.PENDING,
                generator=job.generator,
                account=job.account,
                model=job.model,
                mode=job.mode.value,
                prompt=job.prompt,
                params=json.dumps(dict(job.params), ensure_ascii=False, sort_keys=True),
                variant=job.variant,
                updated_at=time.time(),
            )
            .on_conflict_do_nothing()
        )

    def _close(self, connection: Connection, attempt: Attempt, outcome: str, charged: Charged, cost: Cost) -> float:
        """End a call and add its price to the image's; gives when the call began, in seconds since the epoch."""
        price = Decimal(0) if charged is Charged.NO else cost.usd
        connection.execute(
            update(attempts)
            .where(attempts.c.attempt == attempt.id)
            .values(
                ended_at=time.time(),
                outcome=outcome,
                charged=charged,
                price_usd=price,
                price_is_estimated=cost.is_estimated,
                credits_used=cost.credits_used,
            )
        )
        mine = attempts.c.attempt == attempt.id
        started = connection.scalar(select(attempts.c.started_at).where(mine))
        if charged is not Charged.NO:
            connection.execute(
                update(images)
                .where(*is_image(images, attempt.job.key))
                .values(
                    paid_calls=images.c.paid_calls + 1,
                    price_usd=None if cost.usd is None else func.coalesce(images.c.price_usd, Decimal(0)) + cost.usd,
                    price_is_estimated=cost.is_estimated,
                    credits_used=images.c.credits_used
                    if cost.credits_used is None
                    else func.coalesce(images.c.credits_used, Decimal(0)) + cost.credits_used,
                )
            )
        return float(started or time.time())
