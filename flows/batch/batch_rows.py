"""Runs and the rows of an output as the ledger keeps them, and each row's fate put together for the reports."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)

from flows.batch.jobs import InputRow, Job
from flows.batch.ledger_database import Database, insert_into
from flows.batch.ledger_images import chunks
from flows.batch.ledger_tables import Charged, State, attempts, images, owners, rows, runs
from flows.batch.owners import is_alive
from flows.batch.row_queries import REPORTED, living_owners, report_of, rows_of, same_image, status_now
from flows.batch.row_report import RowReport, Status

REPORTED_TOGETHER = 500


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one CSV into one output; `csv` is empty for a redo. Times are seconds since the epoch.

    `store` and `cms` are where it hands images on to, as the ledger calls them.
    """

    id: str
    output: str
    csv: str
    columns: tuple[str, ...]
    generator: str
    started_at: float
    ended_at: float | None = None
    outcome: str = "running"
    reason: str = ""
    store: str = ""
    cms: str = ""


@dataclass(frozen=True, slots=True)
class Spent:
    """The money and the calls of a run. `in_doubt_usd` is the part of it that may have been paid or not."""

    usd: Decimal
    in_doubt_usd: Decimal
    bought: int
    has_unpriced: bool


@dataclass(frozen=True, slots=True)
class OutputRows:
    """Every row of an output, or of one run of it: read anew each time it is gone through, a few at a time.

    `of`: of an output's rows, only those that this run has brought.
    """

    ledger: "BatchRows"
    output: str
    run: str = ""
    of: str = ""

    def __iter__(self) -> Iterator[RowReport]:
        found = self.ledger.report(self.output, self.run)
        return (row for row in found if row.run == self.of) if self.of else found


class BatchRows:
    """What the ledger knows of runs and of an output's rows. Every method may raise LedgerUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, run: Run, given: Sequence[InputRow]) -> None:
        """Note that a run begins, and its CSV's rows as the newest of their sku and template in this output."""
        values = {
            "output": run.output,
            "csv": run.csv,
            "columns": json.dumps(run.columns, ensure_ascii=False),
            "generator": run.generator,
            "started_at": run.started_at,
            "ended_at": None,
            "outcome": run.outcome,
            "reason": "",
            "store": run.store,
            "cms": run.cms,
        }
        with self._database.writing() as connection:
            begun = insert_into(runs, connection).values(run=run.id, **values)
            # one flow run may be begun twice: retried from the UI, or executed twice
            connection.execute(begun.on_conflict_do_update(index_elements=[runs.c.run], set_=values))
            if given:
                self._drop_superseded(connection, run, given)
                for some in chunks(given):
                    connection.execute(insert(rows), [_row_values(run, row) for row in some])

    def end(self, run: str, outcome: str, reason: str = "") -> None:
        """Note how a run ended."""
        with self._database.writing() as connection:
            ended = {"ended_at": time.time(), "outcome": outcome, "reason": reason}
            connection.execute(update(runs).where(runs.c.run == run).values(**ended))

    def newest_run(self, output: str, *, of_csv: bool = False) -> Run | None:
        """The run of this output that began last (of a CSV, if asked); None where there was none."""
        wanted = select(runs).where(runs.c.output == output).order_by(runs.c.started_at.desc()).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(wanted.where(runs.c.csv != "") if of_csv else wanted).one_or_none()
        return _run(row) if row else None

    def previous(self, output: str) -> dict[tuple[str, str], tuple[str, str]]:
        """(sku, template) to (generator, fingerprint) of the image that this output's rows show, where there is one."""
        wanted = (
            select(rows.c.sku, rows.c.template, images.c.generator, rows.c.fingerprint)
            .join(images, same_image(rows))
            .where(rows.c.output == output, images.c.state == State.BOUGHT)
            .order_by(rows.c.id)
        )
        with self._database.reading() as connection:
            return {(sku, template): (by, of) for sku, template, by, of in connection.execute(wanted)}

    def show_image(self, output: str, job: Job) -> None:
        """Let the rows of a sku and template show another image of theirs, as after a redo."""
        mine = and_(rows.c.output == output, rows.c.sku == job.sku, rows.c.template == job.template)
        with self._database.writing() as connection:
            connection.execute(
                update(rows).where(mine).values(fingerprint=job.fingerprint, model=job.model, prompt=job.prompt)
            )

    def counts(self, output: str, run: str = "") -> dict[Status, int]:
        """How many rows of an output, or of one run of it, are in which state."""
        with self._database.reading() as connection:
            status = status_now(living_owners(connection))
            wanted = rows_of(output, run, status, func.count()).group_by(status)
            return {Status(state): count for state, count in connection.execute(wanted)}

    def invalid(self, output: str) -> int:
        """How many rows of an output could not be read as jobs."""
        wanted = select(func.count()).where(rows.c.output == output, rows.c.problem != "")
        with self._database.reading() as connection:
            return connection.scalar(wanted) or 0

    def spent(self, run: str) -> Spent:
        """What a run has cost so far."""
        maybe = case((attempts.c.charged == Charged.MAYBE, attempts.c.price_usd), else_=None)
        wanted = select(
            func.sum(attempts.c.price_usd),
            func.sum(maybe),
            func.count(case((attempts.c.outcome == State.BOUGHT, 1), else_=None)),
            func.count(case((attempts.c.price_usd.is_(None), 1), else_=None)),
        ).where(attempts.c.run == run, attempts.c.charged != Charged.NO)
        with self._database.reading() as connection:
            usd, in_doubt, bought, unpriced = connection.execute(wanted).one()
        return Spent(usd or Decimal(0), in_doubt or Decimal(0), bought, bool(unpriced))

    def report(self, output: str, run: str = "") -> Iterator[RowReport]:
        """Every row of an output, or of one run of it, newest state of each, in the files' order."""
        with self._database.reading() as connection:
            columns = {
                r.run: tuple(json.loads(r.columns))
                for r in connection.execute(select(runs).where(runs.c.output == output))
            }
            status = status_now(living_owners(connection))
            wanted = rows_of(output, run, *REPORTED, status.label("status")).order_by(rows.c.id)
            for row in connection.execute(wanted.execution_options(yield_per=REPORTED_TOGETHER)):
                yield report_of(row, columns.get(row.run, ()))

    def _drop_superseded(self, connection: Connection, run: Run, given: Sequence[InputRow]) -> None:
        """Forget older rows that this run's rows take the place of, but for those of runs that go on."""
        live = {r.run for r in connection.execute(select(owners)) if r.run != run.id and is_alive(connection, r.owner)}
        same_csv = {
            r.run
            for r in connection.execute(select(runs.c.run).where(runs.c.output == run.output, runs.c.csv == run.csv))
        }
        ours = {(row.sku, row.template) for row in given}
        ours |= {(row.sku, "") for row in given if row.job}  # nobody knows the template of a row that was malformed
        older = connection.execute(
            select(rows.c.id, rows.c.run, rows.c.sku, rows.c.template, rows.c.problem).where(
                rows.c.output == run.output
            )
        )
        gone = [
            {"old": row.id}
            for row in older
            if row.run == run.id  # it begins anew
            or (row.run not in live and ((row.sku, row.template) in ours or (row.problem and row.run in same_csv)))
        ]
        if gone:
            connection.execute(delete(rows).where(rows.c.id == _OLD), gone)


_OLD: ColumnElement[int] = bindparam("old")


def _row_values(run: Run, row: InputRow) -> dict[str, Any]:
    return {
        "output": run.output,
        "run": run.id,
        "line": row.line,
        "sku": row.sku,
        "template": row.template,
        "fingerprint": row.job.fingerprint if row.job else "",
        "generator": row.job.generator if row.job else "",
        "model": row.job.model if row.job else "",
        "prompt": row.job.prompt if row.job else "",
        "cells": json.dumps(row.cells, ensure_ascii=False),
        "problem": row.problem,
    }


def _run(row: Row[Any]) -> Run:
    return Run(
        id=row.run,
        output=row.output,
        csv=row.csv,
        columns=tuple(json.loads(row.columns)),
        generator=row.generator,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        reason=row.reason,
        store=row.store,
        cms=row.cms,
    )
