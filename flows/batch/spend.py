"""What was bought and what it cost, from the ledger's calls: by day, model, template or run."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, func, or_, select

from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import Charged, State, attempts, images, runs
from flows.batch.prices import dollars

SHORTEST_ID = 8


class By(StrEnum):
    """What spending is told apart by. Days are UTC, as a daily cap counts them."""

    DAY = "day"
    MODEL = "model"
    TEMPLATE = "template"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Spending:
    """One line. Amounts in US dollars.

    `estimate_usd` is what the price book said of the calls before they were made; `spent_usd`, what they have cost, of
    which `settled_usd` is by the provider's own credits and the rest by list price; `in_doubt_usd`, what calls may have
    cost of which nobody knows whether they were charged: under way, or without an answer. `unpriced_calls` are in no
    amount. Calls that cost nothing, and all of a free generator, are left out. `told` is when a run began, and its CSV.
    """

    what: str
    images: int
    paid_calls: int
    estimate_usd: Decimal
    spent_usd: Decimal
    settled_usd: Decimal
    calls_in_doubt: int
    in_doubt_usd: Decimal
    unpriced_calls: int
    told: str = ""


def read_spending(ledger: Ledger, by: By) -> list[Spending]:
    """What was spent, a line for each day, model, template or run; the oldest first, or else by name."""
    paid, doubt = attempts.c.charged == Charged.YES, attempts.c.charged == Charged.MAYBE
    with ledger.reading() as connection:
        wanted = (
            select(
                _group(by, connection.dialect.name).label("what"),
                _count(attempts.c.outcome == State.BOUGHT).label("images"),
                _count(paid).label("paid_calls"),
                func.sum(attempts.c.estimate_usd).label("estimate_usd"),
                _sum(paid).label("spent_usd"),
                _sum(and_(paid, attempts.c.price_is_estimated.is_(False))).label("settled_usd"),
                _count(doubt).label("calls_in_doubt"),
                _sum(doubt).label("in_doubt_usd"),
                _count(attempts.c.price_usd.is_(None)).label("unpriced_calls"),
            )
            .select_from(attempts.outerjoin(images, _same_image()))
            .where(
                attempts.c.charged != Charged.NO,
                or_(attempts.c.estimate_usd.is_(None), attempts.c.estimate_usd != 0, attempts.c.price_usd != 0),
            )
            .group_by("what")
            .order_by(func.min(attempts.c.started_at) if by is By.RUN else "what")
        )
        found = connection.execute(wanted).all()
        named = {run.run: run for run in connection.execute(select(runs))} if by is By.RUN else {}
    return [_spending(row, _run_told(named[row.what]) if row.what in named else "") for row in found]


@dataclass(frozen=True, slots=True)
class RunCost:
    """What one run has paid for the images of one model and template. `in_doubt_usd` is the part of `usd` that may have
    been paid or not.
    """

    model: str
    template: str
    images: int
    paid_calls: int
    usd: Decimal
    in_doubt_usd: Decimal


def run_costs(ledger: Ledger, run: str) -> list[RunCost]:
    """What a run has bought, a line for each model and template; free images are in it."""
    doubt = attempts.c.charged == Charged.MAYBE
    wanted = (
        select(
            func.coalesce(images.c.model, "").label("model"),
            attempts.c.template,
            _count(attempts.c.outcome == State.BOUGHT).label("images"),
            func.count().label("paid_calls"),
            func.sum(attempts.c.price_usd).label("usd"),
            _sum(doubt).label("in_doubt_usd"),
        )
        .select_from(attempts.outerjoin(images, _same_image()))
        .where(attempts.c.run == run, attempts.c.charged != Charged.NO)
        .group_by("model", attempts.c.template)
        .order_by("model", attempts.c.template)
    )
    with ledger.reading() as connection:
        return [
            RunCost(
                row.model,
                row.template,
                row.images,
                row.paid_calls,
                row.usd or Decimal(0),
                row.in_doubt_usd or Decimal(0),
            )
            for row in connection.execute(wanted)
        ]


def total_of(lines: Sequence[Spending]) -> Spending:
    """All lines added up."""
    return Spending(
        what="total",
        images=sum(line.images for line in lines),
        paid_calls=sum(line.paid_calls for line in lines),
        estimate_usd=sum((line.estimate_usd for line in lines), Decimal(0)),
        spent_usd=sum((line.spent_usd for line in lines), Decimal(0)),
        settled_usd=sum((line.settled_usd for line in lines), Decimal(0)),
        calls_in_doubt=sum(line.calls_in_doubt for line in lines),
        in_doubt_usd=sum((line.in_doubt_usd for line in lines), Decimal(0)),
        unpriced_calls=sum(line.unpriced_calls for line in lines),
    )


def spending_lines(lines: Sequence[Spending], by: By) -> Iterator[str]:
    """The table that `rowshot spend` prints."""
    if not lines:
        yield "Nothing was bought yet."
        return
    head = [f"{by} (UTC)" if by is By.DAY else by.value, "images", "paid calls", "estimated", "spent", "of it settled"]
    shown = _beginnings({line.what for line in lines}) if by is By.RUN else {}
    doubt, unpriced = any(line.calls_in_doubt for line in lines), any(line.unpriced_calls for line in lines)
    cells = [[*head, *(["in doubt"] if doubt else []), *(["price not known"] if unpriced else [])]]
    for line in [*lines, *([total_of(lines)] if len(lines) > 1 else [])]:
        amounts = [dollars(usd) for usd in (line.estimate_usd, line.spent_usd, line.settled_usd)]
        in_doubt = f"{dollars(line.in_doubt_usd)} ({line.calls_in_doubt:,})" if line.calls_in_doubt else ""
        what = f"{shown.get(line.what, line.what)}  {line.told}".rstrip()
        row = [what, f"{line.images:,}", f"{line.paid_calls:,}", *amounts]
        cells.append([*row, *([in_doubt] if doubt else []), *([f"{line.unpriced_calls:,}"] if unpriced else [])])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([row[0].ljust(widths[0]), *rest]).rstrip()


def spending_json(lines: Sequence[Spending], by: By) -> dict[str, Any]:
    """The same as data: amounts are US dollars as text."""
    return {"by": by.value, "rows": [_json(line) for line in lines], "total": _json(total_of(lines))}


def _spending(row: Row[Any], told: str) -> Spending:
    return Spending(
        what=row.what,
        images=row.images,
        paid_calls=row.paid_calls,
        estimate_usd=row.estimate_usd or Decimal(0),
        spent_usd=row.spent_usd or Decimal(0),
        settled_usd=row.settled_usd or Decimal(0),
        calls_in_doubt=row.calls_in_doubt,
        in_doubt_usd=row.in_doubt_usd or Decimal(0),
        unpriced_calls=row.unpriced_calls,
        told=told,
    )


def _json(line: Spending) -> dict[str, Any]:
    return {name: f"{value:f}" if isinstance(value, Decimal) else value for name, value in asdict(line).items()}


def _beginnings(ids: Collection[str]) -> dict[str, str]:
    """As much of each id as tells it from the others: those of runs that began within a minute may begin alike."""
    longest = max(map(len, ids))
    length = next((n for n in range(SHORTEST_ID, longest) if len({one[:n] for one in ids}) == len(ids)), longest)
    return {one: one[:length] for one in ids}


def _run_told(run: Row[Any]) -> str:
    began = datetime.fromtimestamp(run.started_at).astimezone()
    return f"{began:%Y-%m-%d %H:%M} {run.csv or 'redo'}"


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((condition, 1), else_=None))


def _sum(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((condition, attempts.c.price_usd), else_=None))


def _same_image() -> ColumnElement[bool]:
    return and_(
        images.c.sku == attempts.c.sku,
        images.c.template == attempts.c.template,
        images.c.fingerprint == attempts.c.fingerprint,
    )


def _group(by: By, dialect: str) -> ColumnElement[str]:
    match by:
        case By.DAY if dialect == "sqlite":
            return func.strftime("%Y-%m-%d", attempts.c.started_at, "unixepoch")
        case By.DAY:
            return func.to_char(func.timezone("UTC", func.to_timestamp(attempts.c.started_at)), "YYYY-MM-DD")
        case By.MODEL:
            return func.coalesce(images.c.generator + " " + images.c.model, "")
        case By.TEMPLATE:
            return attempts.c.template
        case By.RUN:
            return attempts.c.run
