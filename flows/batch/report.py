"""The files a batch leaves for people and shops: manifest.csv, results.csv, failures.csv and the contact sheet."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path

from flows.batch.contact_sheet import write_contact_sheet
from flows.batch.files import replacing
from flows.batch.rows import RowReport, Status

MANIFEST_COLUMNS = (
    "line", "sku", "template", "status", "path", "url", "model", "generator", "fingerprint", "prompt", "attempts",
    "credits_used", "price_usd", "request_id", "seconds", "error_kind", "error",
)  # fmt: skip
IMAGE_COLUMNS = ("image_status", "image_path", "image_url")
ERROR_COLUMN = "rowshot_error"

# A sheet program takes a cell that begins so for a formula.
_FORMULA_STARTS = tuple("=+-@\t\r\n")


@dataclass(frozen=True)
class Report:
    """One run of one CSV, or the newest state of an output folder.

    `title` is the CSV's name, `spent_usd` what this run has paid, `columns` the input's own, in their order. `rows` are
    in the order of the input's lines; a duplicated line has a row of its own with the same sku and template.
    """

    title: str
    generator: str
    started: datetime
    ended: datetime
    spent_usd: Decimal
    rows: Sequence[RowReport]
    columns: tuple[str, ...]
    everything: Sequence[RowReport] | None = None

    @cached_property
    def counts(self) -> dict[Status, int]:
        """How many of the input's rows are in each state, in the states' own order; those with none are left out."""
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in Status if found[status]}

    @cached_property
    def distinct_rows(self) -> tuple[RowReport, ...]:
        """The first row of every sku and template. A row without a sku stands for itself."""
        first: dict[tuple[str, str, int], RowReport] = {}
        for row in self.rows:
            first.setdefault((row.sku, row.template, 0 if row.sku else row.line), row)
        return tuple(first.values())

    @cached_property
    def price_usd(self) -> Decimal:
        """What all the images here have cost, in this run and before it; rows of unknown price count as nothing."""
        return sum((row.price_usd for row in self.distinct_rows if row.price_usd is not None), Decimal(0))

    @cached_property
    def price_is_estimated(self) -> bool:
        """Whether a list price is part of `price_usd`."""
        return any(row.price_is_estimated for row in self.distinct_rows if row.price_usd is not None)


def write_report(folder: Path, report: Report, base: str = "") -> None:
    """Write manifest.csv, results.csv, failures.csv (only while rows have failed) and index.html into `folder`.

    Paths in the CSV files are relative to the output folder; `base` leads from `folder` to it ("../../") for the
    contact sheet's links. Each file is replaced whole: a reader sees the old one or the new one. Raises OSError if one
    can't be written; the others then are as they were or whole.
    """
    whole = report if report.everything is None else replace(report, rows=report.everything)
    _write_csv(folder / "manifest.csv", MANIFEST_COLUMNS, map(_manifest_cells, whole.distinct_rows))
    # Somebody may feed one of our own files back in: what it says of an earlier run is not the input's.
    own = tuple(column for column in report.columns if column not in {*IMAGE_COLUMNS, ERROR_COLUMN})
    _write_csv(folder / "results.csv", (*own, *IMAGE_COLUMNS), _result_rows(report.rows, own))
    _write_failures(folder / "failures.csv", report)
    write_contact_sheet(folder / "index.html", whole, base)


def _write_failures(path: Path, report: Report) -> None:
    failed = [row for row in report.rows if row.is_failure]
    if not failed:
        path.unlink(missing_ok=True)
        return
    own = tuple(column for column in report.columns if column != ERROR_COLUMN)
    cells = ((*_own_cells(row, own), _foreign(row.error or row.error_kind or row.status)) for row in failed)
    _write_csv(path, (*own, ERROR_COLUMN), cells)


def _result_rows(rows: Iterable[RowReport], own: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        yield (*_own_cells(row, own), row.status.value, row.path, _foreign(row.url))


def _own_cells(row: RowReport, own: tuple[str, ...]) -> Iterator[str]:
    """The input's cells as they are: they are the user's own, and a shop must find its rows again."""
    return (row.cells.get(column, "") for column in own)


def _manifest_cells(row: RowReport) -> tuple[str | int, ...]:
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


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[str | int]]) -> None:
    # The byte order mark is what tells Excel on Windows that this is UTF-8. A provider's message may hold half a
    # surrogate pair, which has no UTF-8: better spelt out than the whole file lost.
    with (
        replacing(path) as beside,
        beside.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(columns)
        writer.writerows(rows)
