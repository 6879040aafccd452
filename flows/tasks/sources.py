"""Bringing a run its CSV: fetched once, first thing, and kept so that the same run can read it again."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

from blocks.errors import DeliveryError, DeliveryForbidden
from blocks.s3 import NoSuchObject, S3Store
from blocks.s3_account import S3Account
from flows.batch.fetching import Bounds, CsvNotFetched, too_large
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.batch.sources import CsvSource, ReadObject, fetch_source
from flows.tasks.stores import load_store

# What a command that calls the flow has brought for its plan: the flow must not get another version of the same file.
_carried: ContextVar[CsvSource | None] = ContextVar("carried", default=None)


def bring_csv(batch: BatchSettings, run: BatchRun) -> None:
    """Give the run its CSV: as it was when this run first began, or as it is now. Raises: NotStarted."""
    known = _carried.get() or CsvSource.kept(batch, run.output.root, run.id)
    run.csv = known or fetch_source(batch, object_reader(batch))


def keep_csv(run: BatchRun) -> None:
    """Keep what was fetched, for this run to find should it be suspended or tried again. Raises: NotStarted."""
    if run.csv:
        run.csv.keep(run.output.root, run.id)


@contextmanager
def carrying_csv(run: BatchRun) -> Iterator[None]:
    """Have the flow that is called in the body read what this run has brought."""
    token = _carried.set(run.csv)
    try:
        yield
    finally:
        _carried.reset(token)


def object_reader(batch: BatchSettings) -> ReadObject:
    """Reads a CSV out of a bucket: with the credentials of the batch's store if it is there, else the machine's own."""

    def read(bucket: str, key: str, bounds: Bounds) -> bytes:
        store = S3Store(S3Account(bucket))
        own = load_store(batch.delivery.store) if batch.delivery.store else None
        if own and own.bucket == bucket:
            store = S3Store(replace(own.account, folder=""))
        where = store.location(key)
        try:
            content = store.read(key, bounds.largest_bytes, bounds.whole_s)
        except NoSuchObject as error:
            raise CsvNotFetched(
                f"There is nothing at {where}.", "Check the name; upper and lower case differ."
            ) from error
        except TimeoutError as error:
            told = f"{where} was not here within {bounds.whole_s:g} seconds."
            raise CsvNotFetched(told, "Try again later.") from error
        except DeliveryForbidden as error:
            raise CsvNotFetched(
                f"{where} can't be read with the credentials that there are.",
                "It needs the right s3:GetObject, for the block that Store names if that is of this bucket, and "
                "otherwise for the worker's own AWS credentials.",
            ) from error
        except DeliveryError as error:
            raise CsvNotFetched(str(error), "") from error
        if len(content) > bounds.largest_bytes:
            raise too_large(where, bounds.largest_bytes)
        return content

    return read
