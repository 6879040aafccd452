"""A row's fate, put together from its own row, its image and its place in the ledger."""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    Table,
    and_,
    case,
    exists,
    literal,
    or_,
    select,
)

from flows.batch.ledger_tables import Delivered, State, deliveries, images, owners, places, rows, runs
from flows.batch.owners import is_alive
from flows.batch.row_report import RowReport, Status

UNSETTLED = "A call was under way when its run ended. The next run finds out what became of it; that costs nothing."

stored = deliveries.alias("stored")
shown = deliveries.alias("shown")

REPORTED = (
    rows.c.run,
    rows.c.line,
    rows.c.sku,
    rows.c.template,
    rows.c.fingerprint,
    rows.c.generator,
    rows.c.model,
    rows.c.prompt,
    rows.c.cells,
    rows.c.problem,
    images.c.state,
    images.c.attempts,
    images.c.paid_calls,
    images.c.credits_used,
    images.c.price_usd,
    images.c.price_is_estimated,
    images.c.request_id,
    images.c.url,
    images.c.seconds,
    images.c.width,
    images.c.height,
    images.c.error_kind,
    images.c.error,
    places.c.path,
    places.c.original,
    places.c.thumbnail,
    runs.c.store.label("store"),
    runs.c.cms.label("cms"),
    stored.c.state.label("store_state"),
    stored.c.url.label("store_url"),
    stored.c.error_kind.label("store_error_kind"),
    stored.c.error.label("store_error"),
    shown.c.error_kind.label("cms_error_kind"),
    shown.c.error.label("cms_error"),
)


def same_image(table: Table) -> ColumnElement[bool]:
    """The join of a table with the image that its key names."""
    return and_(
        table.c.fingerprint == images.c.fingerprint, table.c.sku == images.c.sku, table.c.template == images.c.template
    )


def rows_of(output: str, run: str, *wanted: Any) -> Select[Any]:
    """Columns of an output's rows, or of one run's, each with its image and its place there."""
    here = and_(
        places.c.output == output,
        places.c.fingerprint == images.c.fingerprint,
        places.c.sku == images.c.sku,
        places.c.template == images.c.template,
    )
    found = (
        select(*wanted)
        .select_from(
            rows.outerjoin(images, same_image(rows))
            .outerjoin(places, here)
            .outerjoin(runs, runs.c.run == rows.c.run)
            .outerjoin(stored, _delivered(stored, runs.c.store))
            .outerjoin(shown, _delivered(shown, runs.c.cms))
        )
        .where(rows.c.output == output)
    )
    return found.where(rows.c.run == run) if run else found.where(~_superseded())


def _delivered(table: FromClause, destination: ColumnElement[str]) -> ColumnElement[bool]:
    """The join of a row with what became of handing its image on to where its run was to."""
    same = (table.c.fingerprint == rows.c.fingerprint, table.c.sku == rows.c.sku, table.c.template == rows.c.template)
    return and_(*same, table.c.destination == destination)


def _superseded() -> ColumnElement[bool]:
    """Whether a run that began later has the same row, as when two go on at the same time."""
    newer = rows.alias("newer")
    same = (newer.c.output == rows.c.output, newer.c.sku == rows.c.sku, newer.c.template == rows.c.template)
    return exists().where(*same, newer.c.id > rows.c.id, newer.c.run != rows.c.run)


def living_owners(connection: Connection) -> list[str]:
    """Who holds rows and is alive."""
    holders = connection.execute(select(owners.c.owner)).scalars().all()
    return [owner for owner in holders if is_alive(connection, owner)]


def status_now(living: list[str]) -> ColumnElement[str]:
    """A row's state as reports tell it, from the states of the row, its image and its place."""
    held = images.c.state.in_([State.RESERVED, State.SUBMITTED])
    is_stored = or_(runs.c.store.is_(None), runs.c.store == "", stored.c.state == Delivered.STORED)
    is_published = and_(runs.c.cms != "", shown.c.state == Delivered.PUBLISHED, shown.c.url == stored.c.url)
    return case(
        (rows.c.problem != "", literal(Status.INVALID.value)),
        (images.c.state.is_(None), literal(Status.PENDING.value)),
        (and_(images.c.state == State.SUBMITTED, images.c.owner.not_in(living)), literal(Status.UNKNOWN.value)),
        (held, literal(Status.PENDING.value)),
        (and_(images.c.state == State.BOUGHT, is_stored, is_published), literal(Status.PUBLISHED.value)),
        (and_(images.c.state == State.BOUGHT, places.c.path != "", is_stored), literal(Status.STORED.value)),
        else_=images.c.state,
    )


def report_of(found: Row[Any], columns: Sequence[str]) -> RowReport:
    """One of REPORTED's rows; `columns` are those of its file."""
    row = dict(zip(found._fields, found, strict=True))  # asked for each by its name, a Row takes many times as long
    status = Status(row["status"])
    cells = json.loads(row["cells"])
    planned = {
        "run": row["run"],
        "line": row["line"],
        "sku": row["sku"],
        "template": row["template"],
        "status": status,
        "model": row["model"],
        "generator": row["generator"],
        "fingerprint": row["fingerprint"],
        "prompt": row["prompt"],
        "cells": dict(zip_longest(columns, cells[: len(columns)], fillvalue="")),
        "ragged": None if len(cells) == len(columns) else tuple(cells),
    }
    if row["state"] is None:
        return RowReport(**planned, error_kind="Invalid" if row["problem"] else "", error=row["problem"])
    unsettled = status is Status.UNKNOWN and row["state"] == State.SUBMITTED
    undelivered = (status is Status.BOUGHT and bool(row["store"])) or (status is Status.STORED and bool(row["cms"]))
    kind, error = row["error_kind"], row["error"]
    if undelivered:
        kind, error = _delivery_error(row, status)
    return RowReport(
        **planned,
        path=row["path"] if status.has_image and row["path"] else "",
        original=row["original"] if status.has_image and row["original"] else "",
        thumbnail=row["thumbnail"] if status.has_image and row["thumbnail"] else "",
        url=(row["store_url"] or "") if row["store"] else row["url"],
        attempts=row["attempts"],
        paid_calls=row["paid_calls"],
        credits_used=row["credits_used"],
        price_usd=row["price_usd"],
        price_is_estimated=row["price_is_estimated"],
        request_id=row["request_id"],
        seconds=row["seconds"],
        width=row["width"],
        height=row["height"],
        error_kind="OutcomeUnknown" if unsettled else kind,
        error=UNSETTLED if unsettled else error,
        undelivered=undelivered,
    )


def _delivery_error(row: Mapping[str, Any], status: Status) -> tuple[str, str]:
    """Why a row that has its image is not where it was to go; empty where that was not tried yet."""
    if status is Status.BOUGHT:
        return row["store_error_kind"] or "", row["store_error"] or ""
    return row["cms_error_kind"] or "", row["cms_error"] or ""
