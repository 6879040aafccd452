"""What became of handing images on: kept in the ledger, so that a rerun goes on where it stopped.

A destination is a store (S3Store.destination, such as "s3://bucket/folder") or a CMS (its name, such as
"cms-site/shop"). Each method is one transaction, for a whole block of images, and may raise LedgerUnavailable.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, not_, select, update

from blocks.errors import DeliveryError
from flows.batch.ledger_database import Database, insert_into
from flows.batch.ledger_images import Key, chunks, this, this_image
from flows.batch.ledger_tables import Delivered, deliveries


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one image stands with one destination.

    `url` is the object's public address (a store) or the address that the CMS shows. `previous` is what the CMS had
    before, any JSON value; `run` is the run that put ours there.
    """

    key: Key
    destination: str
    state: Delivered
    object_key: str = ""
    url: str = ""
    previous: Any = None
    run: str = ""
    error_kind: str = ""
    error: str = ""
    at: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether the image is where it was to go."""
        return self.state in {Delivered.STORED, Delivered.PUBLISHED}

    def is_due(self, url: str) -> bool:
        """Whether a CMS is yet to show this address: it doesn't, and nobody has said that it shall not."""
        if self.state is Delivered.REFUSED:
            return False
        return self.state is not Delivered.PUBLISHED or self.url != url


_SKU, _TEMPLATE, _FINGERPRINT = this_image(deliveries)
_ROW = (_SKU, _TEMPLATE, deliveries.c.destination == bindparam("this_destination"))
_THIS = (*_ROW, _FINGERPRINT)
# in one order and no others, or two runs that have images of one row would wait for each other
_OTHERS = (*_ROW, not_(_FINGERPRINT), deliveries.c.fingerprint.in_(bindparam("locked", expanding=True)))
_LOCK = select(deliveries).where(*_ROW).order_by(deliveries.c.fingerprint).with_for_update()
_CHANGE = update(deliveries).where(*_THIS)
_REPLACE = (
    update(deliveries).where(*_OTHERS, deliveries.c.state == Delivered.PUBLISHED).values(state=Delivered.REPLACED)
)
_REPUBLISH = (
    update(deliveries)
    .where(*_OTHERS, deliveries.c.state == Delivered.REPLACED, deliveries.c.url == bindparam("shown"))
    .values(state=Delivered.PUBLISHED)
)
_BRIDGE = (
    update(deliveries)
    .where(*_OTHERS, deliveries.c.previous == bindparam("shown_before"))
    .values(previous=bindparam("shown_instead"))
)
_NOTHING = {"object_key": "", "url": "", "previous": None, "run": ""}
_NO_ERROR = {"error_kind": "", "error": ""}
_TOLD = ("state", *_NOTHING, *_NO_ERROR, "at")


class Deliveries:
    """The ledger's table of deliveries: `ledger.deliveries`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def standing(self, keys: Iterable[Key], destination: str) -> dict[Key, Delivery]:
        """How these images stand with a destination; those that it was never tried with are left out."""
        wanted = set(keys)
        found: dict[Key, Delivery] = {}
        with self._database.reading() as connection:
            for chunk in chunks(sorted({fingerprint for _, _, fingerprint in wanted})):
                here = (deliveries.c.destination == destination, deliveries.c.fingerprint.in_(chunk))
                for row in connection.execute(select(deliveries).where(*here)):
                    delivery = _delivery(row)
                    if delivery.key in wanted:
                        found[delivery.key] = delivery
        return found

    def stored(self, destination: str, objects: Mapping[Key, tuple[str, str]]) -> None:
        """These images are in a store: each one's (object key, public address; "" where it has none)."""
        self._put(
            destination,
            {
                key: {"state": Delivered.STORED, "object_key": object_key, "url": url}
                for key, (object_key, url) in objects.items()
            },
        )

    def publishing(self, destination: str, run: str, values: Mapping[Key, tuple[str, Any]]) -> None:
        """A CMS is about to be told: each image's (new address, what the CMS has now).

        Noted before the request goes out, so that what was there is known whatever happens then. From here on no other
        image of their rows counts as published: the request may arrive without an answer. One that was there before is
        the newest from now on, and what replaced it then goes back to what was there before both.
        """

        def work(connection: Connection) -> None:
            for key in sorted(values):
                url, previous = values[key]
                this_one = {**this(key), "this_destination": destination}
                before, others = _locked(connection, this_one)
                if before is not None and before.url:  # what came after it would else go back to it, and no further
                    bridged = {"shown_before": json.dumps(before.url), "shown_instead": json.dumps(before.previous)}
                    connection.execute(_BRIDGE, {**others, **bridged})
                connection.execute(_REPLACE, others)
                told = {"state": Delivered.PUBLISHING, "url": url, "previous": json.dumps(previous), "run": run}
                _note(connection, destination, {key: told})

        self._write(work, values)

    def published(self, destination: str, keys: Iterable[Key]) -> None:
        """A CMS shows the addresses that `publishing` has noted, and so no other image of their rows any more."""
        self._change(destination, keys, Delivered.PUBLISHED)

    def withdrawn(self, destination: str, keys: Iterable[Key]) -> None:
        """A CMS shows again what it did before: unpublished. Where that is an image of ours, it is published again."""
        self._change(destination, keys, Delivered.WITHDRAWN)

    def failed(self, destination: str, errors: Mapping[Key, DeliveryError]) -> None:
        """These images could not be delivered, each for its own reason; a later run tries again."""
        self._put(
            destination,
            {
                key: {"state": Delivered.FAILED, "error_kind": error.kind, "error": str(error)}
                for key, error in errors.items()
            },
            keeps=_NOTHING,
        )

    def refused(self, destination: str, reasons: Mapping[Key, str]) -> None:
        """Somebody has looked at these images and does not want them there; no run tries again."""
        self._put(
            destination,
            {
                key: {"state": Delivered.REFUSED, "error_kind": "LeftOut", "error": reason}
                for key, reason in reasons.items()
            },
            keeps=_NOTHING,
        )

    def published_by(self, run: str) -> Sequence[Delivery]:
        """What a run has published, in every CMS, the newest first; what is withdrawn again is left out.

        One that is only `publishing`, or has failed, is in it too: its request may have arrived all the same. So is one
        that was replaced: taking back what replaced it shows it again.
        """
        ours = (deliveries.c.run == run, deliveries.c.state != Delivered.WITHDRAWN)
        with self._database.reading() as connection:
            rows = connection.execute(select(deliveries).where(*ours).order_by(deliveries.c.at.desc()))
            return [_delivery(row) for row in rows]

    def _put(self, destination: str, values: Mapping[Key, Mapping[str, Any]], keeps: Collection[str] = ()) -> None:
        self._write(lambda connection: _note(connection, destination, values, keeps), values)

    def _change(self, destination: str, keys: Iterable[Key], state: Delivered) -> None:
        mine = sorted(keys)

        def work(connection: Connection) -> None:
            for key in mine:
                this_one = {**this(key), "this_destination": destination}
                before, others = _locked(connection, this_one)
                if state is Delivered.PUBLISHED:
                    connection.execute(_REPLACE, others)
                elif before is not None and isinstance(before.previous, str):
                    connection.execute(_REPUBLISH, {**others, "shown": before.previous})
                connection.execute(_CHANGE, {**this_one, "state": state, **_NO_ERROR, "at": time.time()})

        self._write(work, mine)

    def _write(self, work: Callable[[Connection], None], what: Any) -> None:
        if what:
            self._database.write(work)


def _locked(connection: Connection, this_one: Mapping[str, object]) -> tuple[Delivery | None, dict[str, object]]:
    """How an image stands, and the parameters of the others of its row, which no other run can change meanwhile."""
    known = {row.fingerprint: _delivery(row) for row in connection.execute(_LOCK, this_one)}
    return known.get(this_one["this_fingerprint"]), {**this_one, "locked": list(known)}


def _note(
    connection: Connection, destination: str, values: Mapping[Key, Mapping[str, Any]], keeps: Collection[str] = ()
) -> None:
    """Note these values, and none of what was known before but what `keeps` names."""
    new = insert_into(deliveries, connection)
    image = list(deliveries.primary_key)
    changed = {name: new.excluded[name] for name in _TOLD if name not in keeps}
    # in one order, or two runs that have the same images would wait for each other
    rows = [_row(key, destination, values[key]) for key in sorted(values)]
    connection.execute(new.on_conflict_do_update(index_elements=image, set_=changed), rows)


def _row(key: Key, destination: str, values: Mapping[str, Any]) -> dict[str, Any]:
    sku, template, fingerprint = key
    image = {"sku": sku, "template": template, "fingerprint": fingerprint, "destination": destination}
    return {**image, **_NOTHING, **_NO_ERROR, **values, "at": time.time()}


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        key=(row.sku, row.template, row.fingerprint),
        destination=row.destination,
        state=Delivered(row.state),
        object_key=row.object_key,
        url=row.url,
        previous=None if row.previous is None else json.loads(row.previous),
        run=row.run,
        error_kind=row.error_kind,
        error=row.error,
        at=row.at,
    )
