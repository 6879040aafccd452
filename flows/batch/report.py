"""The files a batch leaves for people and shops: manifest.csv, results.csv, failures.csv and the contact sheet."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path

from flows.batch.contact_sheet import write_contact_sheet
from flows.batch.files import replacing
from flows.batch.report_totals import Totals
from flows.batch.row_report import ERROR_COLUMN, RAGGED_BEFORE, RowReport, Status

MANIFEST_COLUMNS = (
    "line", "sku", "template", "status", "path", "url", "model", "generator", "fingerprint", "prompt", "attempts",
    "credits_used", "price_usd", "request_id", "seconds", "error_kind", "error",
)  # fmt: skip
IMAGE_COLUMNS = ("image_status", "image_path", "image_url")

# A sheet program takes a cell that begins so for a formula.
_FORMULA_STARTS = tuple("=+-@\t\r\n")


Cells = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    """A CSV to write. `cells` gives what it has of a row, told if it is the first of its sku and template, or None."""

    path: Path
    columns: Sequence[str]
    cells: Callable[[RowReport, bool], Cells | None]


@dataclass(frozen=True)
class Report:
    """One run of one CSV, or the newest state of an output folder.

    `title` is the CSV's name, `spent_usd` what this run has paid, `columns` the input's own, in their order. `rows` are
    in the order of the input's lines; a duplicated line has a row of its own with the same sku and template. They are
    gone through several times, and may come from the ledger each time.
    """

    title: str
    generator: str
    started: datetime
    ended: datetime
    spent_usd: Decimal
    rows: Iterable[RowReport]
    columns: tuple[str, ...]
    everything: Iterable[RowReport] | None = None

    @cached_property
    def totals(self) -> Totals:
        """The sums of its rows."""
        return Totals.of(self.rows)

    def passing(self) -> Iterator[tuple[RowReport, bool]]:
        """Its rows, each with whether it is the first of its sku and template; the sums are known once all passed."""
        totals = Totals()
        yield from totals.watching(self.rows)
        self.__dict__["totals"] = totals  # so is a cached property kept

    @property
    def counts(self) -> dict[Status, int]:
        """How many of the input's rows are in each state, in the states' own order; those with none are left out."""
        return self.totals.counts

    @property
    def price_usd(self) -> Decimal:
        """What all the images here have cost, in this run and before it; rows of unknown price count as nothing."""
        return self.totals.price_usd

    @property
    def price_is_estimated(self) -> bool:
        """Whether a list price is part of `price_usd`."""
        return self.totals.price_is_estimated

    @cached_property
    def whole(self) -> "Report":
        """The same of everything in the output: what manifest.csv and the contact sheet show."""
        return self if self.everything is None else replace(self, rows=self.everything, everything=None)


def write_report(folder: Path, report: Report, base: str = "") -> None:
    """Write manifest.csv, results.csv, failures.csv (only while rows have failed) and index.html into `folder`.

    Paths in the CSV files are relative to the output folder; `base` leads from `folder` to it ("../../") for the
    contact sheet's links. Each file is replaced whole: a reader sees the old one or the new one. Raises OSError if one
    can't be written; the others then are as they were or whole.
    """
    whole = report.whole
    manifest = _Table(
        folder / "manifest.csv", MANIFEST_COLUMNS, lambda row, is_first: _manifest_cells(row) if is_first else None
    )
    # Somebody may feed one of our own files back in: what it says of an earlier run is not the input's.
    own = tuple(column for column in report.columns if column not in {*IMAGE_COLUMNS, ERROR_COLUMN})
    results = _Table(folder / "results.csv", (*own, *IMAGE_COLUMNS), lambda row, _: _result_cells(row, own))
    if whole is report:
        _write_tables(report.passing(), manifest, results)
    else:
        _write_tables(whole.passing(), manifest)
        _write_tables(report.passing(), results)
    _write_failures(folder / "failures.csv", report)
    write_contact_sheet(folder / "index.html", whole, base)


def _write_failures(path: Path, report: Report) -> None:
    if not report.totals.failed:
        path.unlink(missing_ok=True)
        return
    own = tuple(column for column in report.columns if column != ERROR_COLUMN)

    def cells(row: RowReport, _: bool) -> Cells | None:
        if not row.is_failure:
            return None
        told = _foreign(row.error or row.error_kind or row.status)
        if row.ragged is not None:
            return _still_ragged(row.ragged, told, len(own) + 1)
        return (*_own_cells(row, own), told)

    _write_tables(((row, True) for row in report.rows), _Table(path, (*own, ERROR_COLUMN), cells))


def _still_ragged(ragged: tuple[str, ...], told: str, width: int) -> Cells:
    """All cells of a row that had too many or too few, then its error: none is lost, and fed back it is refused."""
    kept = ragged[:-1] if ragged and RAGGED_BEFORE.match(ragged[-1]) else ragged
    cells = (*kept, told)
    return cells if len(cells) != width else (*cells, "")


def _result_cells(row: RowReport, own: tuple[str, ...]) -> Cells:
    return (*_own_cells(row, own), row.status.value, row.path, _foreign(row.url))


def _own_cells(row: RowReport, own: tuple[str, ...]) -> Iterator[str]:
    """The input's cells as they are: they are the user's own, and a shop must find its rows again."""
    return (row.cells.get(column, "") for column in own)


def _manifest_cells(row: RowReport) -> Cells:
    return (
        row.line,
        row.sku,
        row.template,
        row.status.value,
        row.path,
        _foreign(row.url),
        _foreign(row.model),
        row.generator,
        row.fingerprint,
        row.prompt,
        row.attempts,
        _plain(row.credits_used),
        _plain(row.price_usd),
        _foreign(row.request_id),
        "" if row.seconds is None else f"{row.seconds:.3f}",
        row.error_kind,
        _foreign(row.error),
    )


def _foreign(text: str) -> str:
    """`text` that a provider wrote, made safe to open in a sheet program."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _plain(amount: Decimal | None) -> str:
    return "" if amount is None else f"{amount:f}"


def _write_tables(rows: Iterable[tuple[RowReport, bool]], *tables: _Table) -> None:
    """Write CSV files in one pass over the rows."""
    with ExitStack() as files:
        writing = [(files.enter_context(_csv(table)), table.cells) for table in tables]
        for row, is_first in rows:
            for write, cells in writing:
                if (found := cells(row, is_first)) is not None:
                    write(found)


@contextmanager
def _csv(table: _Table) -> Iterator[Callable[[Cells], object]]:
    # The byte order mark is what tells Excel on Windows that this is UTF-8. A provider's message may hold half a
    # surrogate pair, which has no UTF-8: better spelt out than the whole file lost.
    with (
        replacing(table.path) as beside,
        beside.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(table.columns)
        yield writer.writerow
