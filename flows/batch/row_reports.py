"""A row's fate, put together from its own row, its image and its place in the ledger."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, and_, case, exists, literal, select

from flows.batch.ledger_tables import State, images, owners, places, rows
from flows.batch.owners import is_alive
from flows.batch.rows import RowReport, Status

UNSETTLED = "A call was under way when its run ended. The next run finds out what became of it; that costs nothing."

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
        .select_from(rows.outerjoin(images, same_image(rows)).outerjoin(places, here))
        .where(rows.c.output == output)
    )
    return found.where(rows.c.run == run) if run else found.where(~_superseded())


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
    return case(
        (rows.c.problem != "", literal(Status.INVALID.value)),
        (images.c.state.is_(None), literal(Status.PENDING.value)),
        (and_(images.c.state == State.SUBMITTED, images.c.owner.not_in(living)), literal(Status.UNKNOWN.value)),
        (held, literal(Status.PENDING.value)),
        (and_(images.c.state == State.BOUGHT, places.c.path != ""), literal(Status.STORED.value)),
        else_=images.c.state,
    )


def report_of(row: Row[Any], columns: Sequence[str]) -> RowReport:
    """One of REPORTED's rows; `columns` are those of its file."""
    status = Status(row.status)
    cells = dict(zip(columns, json.loads(row.cells), strict=True))
    planned = RowReport(
        run=row.run,
        line=row.line,
        sku=row.sku,
        template=row.template,
        status=status,
        model=row.model,
        generator=row.generator,
        fingerprint=row.fingerprint,
        prompt=row.prompt,
        error_kind="Invalid" if row.problem else "",
        error=row.problem,
        cells=cells,
    )
    if row.state is None:
        return planned
    unsettled = status is Status.UNKNOWN and row.state == State.SUBMITTED
    return replace(
        planned,
        path=row.path if status.has_image and row.path else "",
        original=row.original if status.has_image and row.original else "",
        thumbnail=row.thumbnail if status.has_image and row.thumbnail else "",
        url=row.url,
        attempts=row.attempts,
        paid_calls=row.paid_calls,
        credits_used=row.credits_used,
        price_usd=row.price_usd,
        price_is_estimated=row.price_is_estimated,
        request_id=row.request_id,
        seconds=row.seconds,
        width=row.width,
        height=row.height,
        error_kind="OutcomeUnknown" if unsettled else row.error_kind,
        error=UNSETTLED if unsettled else row.error,
    )
