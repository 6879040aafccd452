"""What was bought, what is being bought, and by whom: asked before every call, written before and right after it."""

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from sqlalchemy import Connection, and_, select, tuple_, update

from blocks.image import Mode
from flows.batch.batch_rows import BatchRows
from flows.batch.budgets import Budgets
from flows.batch.deliveries import Deliveries
from flows.batch.files import sync
from flows.batch.finish import Finish
from flows.batch.jobs import Job
from flows.batch.ledger_calls import Calls
from flows.batch.ledger_database import Database, connect, ledger_url
from flows.batch.ledger_images import (
    STANDING,
    Key,
    Place,
    RedoCall,
    Standing,
    chunks,
    facts_of,
    is_image,
    key_of,
    place_of,
    standing_of,
    write_place,
)
from flows.batch.ledger_tables import State, attempts, images, owners, places, runs
from flows.batch.owners import Owner, is_alive, owning
from flows.batch.row_queries import living_owners
from flows.batch.shards import Shards
from flows.batch.verify import VerifiedImage


class Ledger:
    """The images of all runs. Every method is one transaction, and may raise LedgerUnavailable.

    `calls` are those to the providers; `rows` is what it knows of runs and of the rows of their files; `budgets` are
    the counters that caps are held against; `deliveries` are what became of handing images on; `shards` are the parts
    of large runs.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.calls = Calls(database)
        self.rows = BatchRows(database)
        self.budgets = Budgets(database)
        self.deliveries = Deliveries(database)
        self.shards = Shards(database)

    @classmethod
    def open(cls, url: str = "") -> "Ledger":
        """The ledger at this URL; where none is given ROWSHOT_LEDGER's, else the user's own. Raises: NotStarted."""
        return cls(Database(connect(ledger_url(url))))

    def reading(self) -> AbstractContextManager[Connection]:
        """One moment of the ledger, for a report of its own."""
        return self._database.reading()

    def owning(self, run: str) -> AbstractContextManager[Owner]:
        """Be a holder of rows, for one run, while the body runs."""
        return owning(self._database, run)

    def is_held(self, run: str) -> bool:
        """Whether a live process is buying for this run."""
        with self._database.reading() as connection:
            holders = connection.execute(select(owners.c.owner).where(owners.c.run == run)).scalars().all()
            return any(is_alive(connection, holder) for holder in holders)

    def is_idle(self) -> bool:
        """Whether no live process works with this ledger, as far as it knows."""
        with self._database.reading() as connection:
            return not living_owners(connection)

    def standings(self, keys: Iterable[Key]) -> dict[Key, Standing]:
        """How these images stand; those the ledger doesn't have are left out."""
        found: dict[Key, Standing] = {}
        wanted = set(keys)
        with self._database.reading() as connection:
            for chunk in chunks({fingerprint for _, _, fingerprint in wanted}):
                for row in connection.execute(select(*STANDING).where(images.c.fingerprint.in_(chunk))):
                    standing = standing_of(row)
                    if standing.key in wanted:
                        found[standing.key] = standing
        return found

    def places(self, keys: Iterable[Key], output: str) -> dict[Key, Place]:
        """Where these images are in one output folder."""
        everywhere = self.places_anywhere(keys).items()
        return {key: place for key, found in everywhere for place in found if place.output == output}

    def places_anywhere(self, keys: Iterable[Key]) -> dict[Key, list[Place]]:
        """Where these images are, or were, in every output folder that has had them."""
        wanted = set(keys)
        found: dict[Key, list[Place]] = {}
        with self._database.reading() as connection:
            for chunk in chunks({sku for sku, _, _ in wanted}):  # the index begins with the sku: keys would scan it all
                for row in connection.execute(select(places).where(places.c.sku.in_(chunk))):
                    key = (row.sku, row.template, row.fingerprint)
                    if key in wanted:
                        found.setdefault(key, []).append(place_of(row))
        return found

    def request_ids(self, keys: Iterable[Key]) -> dict[Key, str]:
        """The provider's handle for each of these images; empty where it gave none."""
        wanted = set(keys)
        found: dict[Key, str] = {}
        with self._database.reading() as connection:
            for chunk in chunks({fingerprint for _, _, fingerprint in wanted}):
                asked = select(*key_of(images), images.c.request_id).where(images.c.fingerprint.in_(chunk))
                for row in connection.execute(asked):
                    found[row.sku, row.template, row.fingerprint] = row.request_id
        return {key: found[key] for key in wanted if key in found}

    def redos(self) -> dict[Key, tuple[str, str, str]]:
        """(sku, template, fingerprint of the row) to (fingerprint, prompt, variant) of its newest bought redo,
        be its file here or lost by now.
        """
        wanted = (
            select(images).where(images.c.redo_of != "", images.c.bought_at.is_not(None)).order_by(images.c.bought_at)
        )
        with self._database.reading() as connection:
            return {
                (row.sku, row.template, row.redo_of): (row.fingerprint, row.prompt, row.variant)
                for row in connection.execute(wanted)
            }

    def redo_calls(self, bases: Iterable[Key]) -> list[RedoCall]:
        """The calls for every image that was made again on purpose in place of these, or was to be, in turn."""
        image = (*key_of(images), images.c.redo_of, images.c.variant, images.c.prompt, images.c.state)
        call = (attempts.c.run, attempts.c.started_at, attempts.c.outcome)
        same = (of == called for of, called in zip(key_of(images), key_of(attempts), strict=True))
        wanted = (
            select(*image, *call, runs.c.outcome.label("end"))
            .join(attempts, and_(*same))
            .join(runs, runs.c.run == attempts.c.run, isouter=True)
        )
        with self._database.reading() as connection:
            found = [
                row
                for chunk in chunks(bases)
                for row in connection.execute(
                    wanted.where(tuple_(images.c.sku, images.c.template, images.c.redo_of).in_(chunk))
                )
            ]
        return [
            RedoCall(
                key=(row.sku, row.template, row.fingerprint),
                base=(row.sku, row.template, row.redo_of),
                variant=row.variant,
                prompt=row.prompt,
                state=State(row.state),
                run=row.run,
                run_is_over=row.end in {None, "ended"},
                brought=row.outcome == State.BOUGHT,
            )
            for row in sorted(found, key=lambda row: row.started_at)
        ]

    def jobs(self, keys: Sequence[Key]) -> list[Job]:
        """The jobs of these images as they were asked for; their finish is the template's to say."""
        with self._database.reading() as connection:
            return [
                Job(
                    line=0,
                    sku=row.sku,
                    template=row.template,
                    fingerprint=row.fingerprint,
                    generator=row.generator,
                    account=row.account,
                    model=row.model,
                    mode=Mode(row.mode),
                    prompt=row.prompt,
                    params=json.loads(row.params),
                    finish=Finish(),
                    variant=row.variant,
                    redo_of=row.redo_of,
                )
                for key in keys
                for row in connection.execute(select(images).where(*is_image(images, key)))
            ]

    def put_place(self, key: Key, place: Place) -> None:
        """Note where a bought image's files are in an output folder."""
        with self._database.writing() as connection:
            write_place(connection, key, place)

    def restored(self, key: Key, verified: VerifiedImage, place: Place) -> None:
        """A bought image's file was found again, or fetched."""
        sync([Path(place.output) / place.original])
        with self._database.writing() as connection:
            write_place(connection, key, place)
            connection.execute(
                update(images)
                .where(*is_image(images, key))
                .values(state=State.BOUGHT, error_kind="", error="", updated_at=time.time(), **facts_of(verified))
            )

    def lose(self, key: Key, error: str) -> None:
        """A bought image whose files are nowhere to be found."""
        with self._database.writing() as connection:
            connection.execute(
                update(images)
                .where(*is_image(images, key), images.c.state == State.BOUGHT)
                .values(state=State.LOST, error_kind="Lost", error=error, updated_at=time.time())
            )
