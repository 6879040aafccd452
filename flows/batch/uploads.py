"""Putting finished images into a store, a block at a time. The ledger knows which are there."""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from blocks.errors import DeliveryError, DeliveryRefused, DeliveryStopped, DeliveryUnavailable
from flows.batch.addresses import Addresses
from flows.batch.deliveries import Deliveries, Delivery
from flows.batch.jobs import Job
from flows.batch.ledger_images import Key, Place
from flows.batch.ledger_tables import Delivered
from flows.batch.publishing import PublishRow
from flows.batch.stores import NotFetched

THUMBNAILS = "public, max-age=86400"


class ObjectStore(Protocol):
    """What uploading needs of a store. Its methods raise leaves of DeliveryError."""

    @property
    def destination(self) -> str:
        """What the ledger calls it."""

    def key(self, path: str) -> str:
        """The key of what lies at this path in the output folder."""

    def location(self, key: str) -> str:
        """An object's name, which is no web address."""

    def put_new(self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str]) -> None:
        """Write an object that never changes, unless it is there."""

    def put(self, key: str, data: bytes, content_type: str, cache_control: str = ...) -> None:
        """Write an object that is replaced now and then."""

    def get(self, key: str, destination: Path) -> Mapping[str, str]:
        """Bring an object to disk."""

    def signed_url(self, key: str) -> str:
        """An address that anybody may read the object at for some time."""

    def signed_until(self) -> datetime:
        """When an address that is signed now ends."""


class RunEnded(DeliveryError):
    """The run is ending, and this was not begun."""


class ObjectGone(DeliveryError):
    """The store has not kept what was put there."""


@dataclass(frozen=True, slots=True)
class StoreRow:
    """One finished image that is to be stored: its job, and its file's path in the output folder."""

    job: Job
    place: Place


@dataclass(frozen=True, slots=True)
class Shelf:
    """A store, as one run uses it: what goes there, from which output folder, and how its objects are addressed."""

    store: ObjectStore
    addresses: Addresses
    deliveries: Deliveries
    root: Path

    @property
    def destination(self) -> str:
        """What the ledger calls the store."""
        return self.store.destination

    def url(self, path: str) -> str:
        """What reports and a CMS call the object of a path: its public address, else its name s3://bucket/key."""
        key = self.store.key(path)
        return self.addresses.of(key) or self.store.location(key)

    def link(self, path: str) -> str:
        """What a browser may follow: the public address, else one that is signed for some time."""
        key = self.store.key(path)
        return self.addresses.of(key) or self.store.signed_url(key)

    def has(self, row: StoreRow, known: Delivery | None) -> bool:
        """Whether the store has this image as it is now, under the address that it would have now."""
        return (
            known is not None
            and known.state is Delivered.STORED
            and (known.object_key, known.url) == (self.store.key(row.place.path), self.url(row.place.path))
        )

    def copy_of(self, key: Key) -> Callable[[Path], str]:
        """Brings the stored image to a path and gives the sha256 that it had. Raises: NotFetched where there is none,
        DeliveryUnavailable or DeliveryStopped where nobody can tell, and LedgerUnavailable.

        Where the ledger has one and the store hasn't, that is noted, so that the image is stored again once it is here.
        """

        def bring(path: Path) -> str:
            known = self.deliveries.standing([key], self.destination).get(key)
            if known is None or not known.object_key:
                raise NotFetched("The store doesn't have it.")
            try:
                return self.store.get(known.object_key, path).get("sha256", "")
            except LookupError as error:
                gone = f"The store has no {known.object_key} any more."
                noted = ObjectGone(f"{gone} Run the same command again: it is stored again once its image is here.")
                self.deliveries.failed(self.destination, {key: noted})
                raise NotFetched(gone) from error
            except DeliveryRefused as error:
                raise NotFetched(str(error)) from error

        return bring


def upload_rows(
    rows: Sequence[StoreRow],
    shelf: Shelf,
    request_ids: Mapping[Key, str],
    left: threading.Event,
    stored: Callable[[Sequence[PublishRow]], None],
) -> None:
    """Store what isn't stored yet, and note it in one transaction; `stored` is then told of it.

    An image that can't be stored as it is is that row's failure. Raises: DeliveryUnavailable where rows are left that a
    later try may bring home; DeliveryStopped where none can be stored; LedgerUnavailable.
    """
    known = shelf.deliveries.standing([row.job.key for row in rows], shelf.destination)
    done: dict[Key, tuple[str, str]] = {}
    refused: dict[Key, DeliveryError] = {}
    told: DeliveryError | None = None
    for row in rows:
        key = row.job.key
        if shelf.has(row, known.get(key)):
            continue
        if left.is_set():
            told = RunEnded("The run ended before it was stored. The same command stores it.")
            break
        object_key = shelf.store.key(row.place.path)
        try:
            before = known.get(key)
            if before is None or before.state is not Delivered.STORED or before.object_key != object_key:
                _upload(row, shelf, request_ids.get(key, ""))
            done[key] = (object_key, shelf.url(row.place.path))
        except DeliveryRefused as error:
            refused[key] = error
        except (DeliveryUnavailable, DeliveryStopped) as error:
            told = error
            break
    shelf.deliveries.stored(shelf.destination, done)
    shelf.deliveries.failed(shelf.destination, refused)
    if done:
        stored([PublishRow(key, key[0], key[1], url) for key, (_, url) in done.items()])
    if told is not None:
        raise told


def _upload(row: StoreRow, shelf: Shelf, request_id: str) -> None:
    job, place, store = row.job, row.place, shelf.store
    try:
        data = (shelf.root / place.path).read_bytes()
        thumbnail = (shelf.root / place.thumbnail).read_bytes() if place.thumbnail else b""
    except OSError as error:
        raise DeliveryRefused(
            f"Its file can't be read: {error.strerror}. Run the same command again: it is brought back at no cost."
        ) from error
    kind = content_type(data)
    if not kind:
        raise DeliveryRefused(f"{place.path} is no image any more. Delete it; the next run brings it back.")
    metadata = {
        "fingerprint": job.fingerprint,
        "model": job.model,
        "request_id": request_id,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    store.put_new(store.key(place.path), data, kind, metadata)
    if thumbnail:
        store.put(store.key(place.thumbnail), thumbnail, content_type(thumbnail) or "image/webp", THUMBNAILS)


def content_type(data: bytes) -> str:
    """What these bytes are, whatever their file is called; empty where they are no image that we deliver."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:12] in {b"ftypavif", b"ftypavis"}:
        return "image/avif"
    starts = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
    return next((kind for start, kind in starts.items() if data.startswith(start)), "")
