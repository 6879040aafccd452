import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.batch.report import MANIFEST_COLUMNS, Report, write_report
from flows.batch.row_report import RowReport, Status

STARTED = datetime(2026, 1, 12, 5, 3, tzinfo=UTC)
COLUMNS = ("sku", "name", "note")


def report_of(rows: Sequence[RowReport], columns: tuple[str, ...] = COLUMNS) -> Report:
    """A report of one run over `rows`."""
    return Report("products.csv", "anycap", STARTED, STARTED + timedelta(seconds=72), Decimal("0.04"), rows, columns)


def stored(line: int, sku: str, **cells: str) -> RowReport:
    """A row whose image is stored, with every field filled."""
    return RowReport(
        line=line,
        sku=sku,
        template="product",
        status=Status.STORED,
        path=f"images/product/{sku}.png",
        url=f"https://cdn.example.com/{sku}.png",
        model="nano-banana-2",
        generator="anycap",
        fingerprint="ab" * 32,
        prompt="이커머스 사진: 셔츠",
        attempts=1,
        paid_calls=1,
        credits_used=Decimal(1),
        price_usd=Decimal("0.039"),
        request_id="trc_1",
        seconds=2.0134,
        cells={"sku": sku, **cells},
    )


def failed(line: int, sku: str, error: str, status: Status = Status.FAILED, **cells: str) -> RowReport:
    """A row that got no image, and why."""
    return RowReport(line, sku, "product", status, error_kind="NoImage", error=error, cells={"sku": sku, **cells})


def read(path: Path) -> pd.DataFrame:
    """A CSV as pandas reads it, all cells as text."""
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def test_manifest_has_its_columns_and_plain_figures(tmp_path: Path) -> None:
    """manifest.csv has exactly the promised columns, and money as a plain decimal."""
    row = replace(stored(2, "00123"), price_usd=Decimal("1E-7"))
    write_report(tmp_path, report_of([row]))
    manifest = read(tmp_path / "manifest.csv")
    assert tuple(manifest.columns) == MANIFEST_COLUMNS
    assert manifest.iloc[0].to_dict() == {
        "line": "2",
        "sku": "00123",
        "template": "product",
        "status": "stored",
        "path": "images/product/00123.png",
        "url": "https://cdn.example.com/00123.png",
        "model": "nano-banana-2",
        "generator": "anycap",
        "fingerprint": "ab" * 32,
        "prompt": "이커머스 사진: 셔츠",
        "attempts": "1",
        "credits_used": "1",
        "price_usd": "0.0000001",
        "request_id": "trc_1",
        "seconds": "2.013",
        "error_kind": "",
        "error": "",
    }


def test_input_cells_round_trip(tmp_path: Path) -> None:
    """Quotes, line breaks, commas, Hangul, leading zeros, formulas and NA come back as they went in."""
    rows = [
        stored(2, "00123", name='24" 모니터, "블랙"', note="첫째 줄\n둘째 줄\r\n셋째"),
        stored(5, "NA", name="=1+1", note="  spaced  "),
        stored(6, "@ghost", name="-5", note=""),
    ]
    write_report(tmp_path, report_of(rows))
    results = read(tmp_path / "results.csv")
    assert [tuple(row) for row in results[list(COLUMNS)].itertuples(index=False)] == [
        tuple(row.cells[column] for column in COLUMNS) for row in rows
    ]


def test_results_name_each_rows_image(tmp_path: Path) -> None:
    """results.csv is the input plus each row's state, path and address."""
    write_report(tmp_path, report_of([stored(2, "A", name="셔츠"), failed(3, "B", "No image came.", name="가방")]))
    results = read(tmp_path / "results.csv")
    assert tuple(results.columns) == (*COLUMNS, "image_status", "image_path", "image_url")
    assert results["image_status"].tolist() == ["stored", "failed"]
    assert results["image_path"].tolist() == ["images/product/A.png", ""]
    assert results["image_url"].tolist() == ["https://cdn.example.com/A.png", ""]


def test_excel_sees_utf8(tmp_path: Path) -> None:
    """Every CSV begins with the byte order mark by which Excel on Windows knows UTF-8."""
    write_report(tmp_path, report_of([failed(2, "A", "No image came.", name="셔츠")]))
    files = sorted(tmp_path.glob("*.csv"))
    assert [file.name for file in files] == ["failures.csv", "manifest.csv", "results.csv"]
    assert all(file.read_bytes().startswith(b"\xef\xbb\xbf") for file in files)


def test_a_duplicate_line_is_one_image_and_two_results(tmp_path: Path) -> None:
    """A repeated row is one line of the manifest, the first, and keeps both its lines in results.csv."""
    row = stored(2, "A", name="셔츠")
    report = report_of([row, stored(3, "B"), replace(row, line=4)])
    write_report(tmp_path, report)
    assert read(tmp_path / "manifest.csv")["line"].tolist() == ["2", "3"]
    assert read(tmp_path / "results.csv")["sku"].tolist() == ["A", "B", "A"]
    assert report.price_usd == Decimal("0.078")


def test_rows_without_a_sku_are_not_taken_for_one(tmp_path: Path) -> None:
    """Two invalid rows that lack a sku are two lines of the manifest."""
    write_report(tmp_path, report_of([failed(line, "", "No sku.", Status.INVALID) for line in (2, 3)]))
    assert read(tmp_path / "manifest.csv")["line"].tolist() == ["2", "3"]


def test_an_invalid_row_does_not_hide_the_image_of_its_sku(tmp_path: Path) -> None:
    """A bought image and its price are in the manifest and the sums, though an invalid row of its sku stands above."""
    bad = failed(2, "A", "The cell is empty.", Status.INVALID)
    report = report_of([bad, stored(3, "A"), replace(bad, line=4), stored(5, "A")])
    write_report(tmp_path, report)
    assert read(tmp_path / "manifest.csv")["line"].tolist() == ["2", "3", "4"]
    assert report.price_usd == Decimal("0.039")


def test_counts_follow_the_rows() -> None:
    """The counts are of the input's rows, in the states' own order."""
    rows = [failed(2, "A", "x"), stored(3, "B"), failed(4, "C", "x", Status.LOST), stored(5, "D")]
    counts = report_of(rows).counts
    assert list(counts.items()) == [(Status.STORED, 2), (Status.FAILED, 1), (Status.LOST, 1)]


@pytest.mark.parametrize("status", [status for status in Status if status.is_failure])
def test_failures_are_written_with_their_reason(tmp_path: Path, status: Status) -> None:
    """Every kind of failed row is in failures.csv, with the input's own columns and the reason."""
    write_report(tmp_path, report_of([stored(2, "A"), failed(3, "B", "Try later.", status, name="가방, 대", note="n")]))
    failures = read(tmp_path / "failures.csv")
    assert tuple(failures.columns) == (*COLUMNS, "rowshot_error")
    assert failures.to_numpy().tolist() == [["B", "가방, 대", "n", "Try later."]]


@pytest.mark.parametrize("ragged", [(), ("A",), ("A", "x", "y"), ("A", "x", "y", "z", "q")])
def test_a_ragged_row_never_comes_to_fit(tmp_path: Path, ragged: tuple[str, ...]) -> None:
    """With its error behind it, it has still another number of cells than the header, whatever file it came from."""
    columns = (*COLUMNS, "rowshot_error")
    write_report(tmp_path, report_of([replace(failed(2, "A", "Mend it."), ragged=ragged)], columns))
    with (tmp_path / "failures.csv").open(encoding="utf-8-sig", newline="") as file:
        header, row = csv.reader(file)
    assert len(row) != len(header)
    assert row[: len(ragged) + 1] == [*ragged, "Mend it."]


def test_failures_vanish_with_the_last_failure(tmp_path: Path) -> None:
    """An older failures.csv is removed once no row fails."""
    write_report(tmp_path, report_of([failed(2, "A", "Try later.")]))
    assert (tmp_path / "failures.csv").exists()
    write_report(tmp_path, report_of([stored(2, "A")]))
    assert not (tmp_path / "failures.csv").exists()


def test_our_own_columns_are_replaced(tmp_path: Path) -> None:
    """A results.csv or failures.csv fed back in gets this run's columns, once."""
    old: dict[str, Any] = {
        "image_status": "failed",
        "image_path": "old.png",
        "image_url": "",
        "rowshot_error": "Old news.",
    }
    columns = ("sku", "image_status", "image_path", "name", "image_url", "rowshot_error")
    write_report(tmp_path, report_of([stored(2, "A", name="셔츠", **old), failed(3, "B", "New.", **old)], columns))
    results = read(tmp_path / "results.csv")
    assert tuple(results.columns) == ("sku", "name", "image_status", "image_path", "image_url")
    assert results["image_path"].tolist() == ["images/product/A.png", ""]
    failures = read(tmp_path / "failures.csv")
    assert list(failures.columns).count("rowshot_error") == 1
    assert failures["rowshot_error"].tolist() == ["New."]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_providers_text_is_no_formula(tmp_path: Path, start: str) -> None:
    """What a provider says can't become a formula in a sheet program."""
    text = f"{start}HYPERLINK(1)"
    row = replace(failed(2, "A", text), request_id=text, url=text, model=text)
    write_report(tmp_path, report_of([row]))
    for name, columns in (
        ("manifest.csv", ("error", "request_id", "url", "model")),
        ("failures.csv", ("rowshot_error",)),
        ("results.csv", ("image_url",)),
    ):
        with (tmp_path / name).open(encoding="utf-8-sig", newline="") as file:
            line = next(csv.DictReader(file))
        assert [line[column] for column in columns] == [f"'{text}"] * len(columns)


def test_half_a_surrogate_pair_does_not_cost_the_report(tmp_path: Path) -> None:
    """A message that has no UTF-8 form is spelt out, and every file is written."""
    write_report(tmp_path, report_of([failed(2, "A", "bad \ud800 text")]))
    assert read(tmp_path / "failures.csv")["rowshot_error"].tolist() == ["bad \\ud800 text"]
    assert "bad \\ud800 text" in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def cells_that_break_off() -> Callable[[], dict[str, str]]:
    """Cells whose second column can't be read, as when the disk ends half way."""

    class Cells(dict[str, str]):
        def get(self, key: str, default: str = "") -> str:  # type: ignore[override]
            if key == "note":
                raise OSError("No space left on device")
            return super().get(key, default)

    return Cells


def test_a_broken_write_leaves_the_old_file(tmp_path: Path, cells_that_break_off: Callable[[], dict[str, str]]) -> None:
    """A write that breaks off half way leaves the old file whole, and nothing half-made beside it."""
    write_report(tmp_path, report_of([stored(2, "A", name="셔츠")]))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    rows = [
        *(stored(line, f"N{line}") for line in range(2, 2_000)),
        replace(stored(2_000, "Z"), cells=cells_that_break_off()),
    ]
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path, report_of(rows))
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert after == before


def test_a_large_report_takes_seconds(tmp_path: Path) -> None:
    """A report of 20,000 rows, contact sheet included, is written in seconds: nothing in it grows with the square."""
    report = report_of([stored(line, f"SKU-{line}", name="오버핏 코튼 셔츠") for line in range(2, 20_002)])
    start = time.perf_counter()
    write_report(tmp_path, report)
    assert time.perf_counter() - start < 8
    assert len(read(tmp_path / "manifest.csv")) == 20_000
    assert (tmp_path / "index-4.html").exists()
