"""How one image stands in the ledger: the rows of its tables as Python values, and back."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Row, Table, bindparam, delete, insert

from blocks.image import ChildProcess
from flows.batch.jobs import Job
from flows.batch.ledger_tables import State, images, places
from flows.batch.verify import VerifiedImage

Key = tuple[str, str, str]
Item = TypeVar("Item")
CHUNK = 400


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call costs. `usd` is None where nobody knows; `is_estimated` where it is only the list price.

    `reserve_usd`: what to set aside for it before it is made, where that is more than the list price.
    """

    usd: Decimal | None
    is_estimated: bool = True
    credits_used: Decimal | None = None
    reserve_usd: Decimal | None = None

    @property
    def reserved_usd(self) -> Decimal | None:
        """What is set aside for it."""
        return self.usd if self.reserve_usd is None else self.reserve_usd


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to a provider, written down before it is made. `folder` is where its answer and its image arrive.

    `paid_before`: an earlier call for this image was paid and brought nothing, and nobody has since allowed another.
    """

    id: str
    job: Job
    folder: Path
    paid_before: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """How one image stands in the ledger."""

    key: Key
    state: State
    owner: str
    attempt: str
    url: str
    sha256: str
    extension: str
    attempts: int
    paid_calls: int
    error_kind: str
    error: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image's files are in one output folder, as relative paths. `path` is empty until it is finished."""

    output: str
    original: str
    path: str
    finish: str
    thumbnail: str


@dataclass(frozen=True, slots=True)
class Orphan:
    """A call whose run died: where it wrote, and the process that made it."""

    attempt: str
    run: str
    host: str
    folder: Path
    child: ChildProcess | None


@dataclass(frozen=True, slots=True)
class RedoCall:
    """One call for an image that is made again on purpose, in place of `base`. `state` is the image's, as it is now.

    `brought`: whether this very call has brought it; `run_is_over`: whether its run came to its end by itself.
    """

    key: Key
    base: Key
    variant: str
    prompt: str
    state: State
    run: str
    run_is_over: bool
    brought: bool


STANDING = (
    images.c.sku,
    images.c.template,
    images.c.fingerprint,
    images.c.state,
    images.c.owner,
    images.c.attempt,
    images.c.url,
    images.c.sha256,
    images.c.extension,
    images.c.attempts,
    images.c.paid_calls,
    images.c.error_kind,
    images.c.error,
)


def key_of(table: Table) -> tuple[Column[Any], Column[Any], Column[Any]]:
    """The three columns of a ledger key."""
    return (table.c.sku, table.c.template, table.c.fingerprint)


def this_image(table: Table) -> tuple[ColumnElement[bool], ...]:
    """The condition that a row is the image that `this` names, for a statement that is made once."""
    return tuple(column == bindparam(f"this_{column.name}") for column in key_of(table))


def this(key: Key) -> dict[str, object]:
    """The parameters of `this_image`."""
    sku, template, fingerprint = key
    return {"this_sku": sku, "this_template": template, "this_fingerprint": fingerprint}


def is_image(table: Table, key: Key) -> tuple[ColumnElement[bool], ColumnElement[bool], ColumnElement[bool]]:
    """The condition that a row is this image's."""
    sku, template, fingerprint = key
    return (table.c.sku == sku, table.c.template == template, table.c.fingerprint == fingerprint)


def standing_of(row: Any) -> Standing:
    """A row of STANDING's columns."""
    return Standing(
        key=(row.sku, row.template, row.fingerprint),
        state=State(row.state),
        owner=row.owner,
        attempt=row.attempt,
        url=row.url,
        sha256=row.sha256,
        extension=row.extension,
        attempts=row.attempts,
        paid_calls=row.paid_calls,
        error_kind=row.error_kind,
        error=row.error,
    )


def place_of(row: Row[Any]) -> Place:
    """A row of the table of places."""
    return Place(row.output, row.original, row.path, row.finish, row.thumbnail)


def facts_of(verified: VerifiedImage) -> dict[str, Any]:
    """What the ledger keeps of an image's bytes."""
    return {
        "sha256": verified.sha256,
        "extension": verified.extension,
        "width": verified.width,
        "height": verified.height,
    }


_DROP_PLACE = delete(places).where(*this_image(places), places.c.output == bindparam("this_output"))
_NEW_PLACE = insert(places)


def write_place(connection: Connection, key: Key, place: Place) -> None:
    """Put down where an image is in one output, in place of what was known of it there."""
    connection.execute(_DROP_PLACE, {**this(key), "this_output": place.output})
    sku, template, fingerprint = key
    values = {
        "sku": sku,
        "template": template,
        "fingerprint": fingerprint,
        "output": place.output,
        "original": place.original,
        "path": place.path,
        "finish": place.finish,
        "thumbnail": place.thumbnail,
    }
    connection.execute(_NEW_PLACE, values)


def chunks(items: Iterable[Item]) -> Iterator[Sequence[Item]]:
    """As many at a time as a database takes as parameters of one statement."""
    several = iter(items)
    while chunk := list(islice(several, CHUNK)):
        yield chunk
