from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from small_batch import price

from flows.batch.prices import COLUMNS, STALE_AFTER, Price, PriceBook
from flows.batch.problems import NotStarted

HEADER = ",".join(COLUMNS) + "\n"


def book(folder: Path, rows: str, header: str = HEADER) -> PriceBook:
    """A price book with these rows."""
    path = folder / "prices.csv"
    path.write_text(header + rows, encoding="utf-8")
    return PriceBook.read(path)


def dated(usd: str, as_of: date, retires: date | None = None) -> Price:
    """A price of that day."""
    return Price("anycap", "seedream-5", "*", Decimal(usd), None, as_of, retires, "a list")


def test_the_built_in_book_prices_the_models_of_the_templates() -> None:
    """The list prices of the models in use are there as exact decimals, and a proof is free."""
    prices = PriceBook.read()
    found = {model: prices.find("anycap", model) for model in ("seedream-5", "nano-banana-2")}
    assert {model: known and known.usd for model, known in found.items()} == {
        "seedream-5": Decimal("0.015"),
        "nano-banana-2": Decimal("0.005"),
    }
    proof = prices.find("proof", "whatever", "4k")
    assert proof is not None
    assert proof.usd == 0
    assert prices.models("proof") == set()
    assert prices.models() == prices.models("anycap") == {"seedream-5", "nano-banana-2"}


def test_the_nearest_price_counts() -> None:
    """The resolution's own price comes before the model's, and that before the generator's."""
    prices = PriceBook(
        [price("m", "0.04", "4k"), price("m", "0.01"), price("*", "0.09"), price("m", "1", "*", "other")]
    )
    found = [prices.find("anycap", *asked) for asked in (("m", "4k"), ("m", "1k"), ("m", ""), ("x", "4k"))]
    assert [known and known.usd for known in found] == [Decimal(n) for n in ("0.04", "0.01", "0.01", "0.09")]
    assert prices.find("third", "m") is None


def test_a_book_of_ones_own_is_read_as_it_is(tmp_path: Path) -> None:
    """Figures stay exact, an empty resolution is any, and credits and the day of retirement may be missing."""
    prices = book(
        tmp_path, " anycap ,m,,0.0123456789,1.5,2026-05-01,2026-12-31,a list\nanycap,n,4k,2,,2026-05-01,,a list\n"
    )
    first, second = prices.find("anycap", "m", "2k"), prices.find("anycap", "n", "4k")
    assert first == Price(
        "anycap", "m", "*", Decimal("0.0123456789"), Decimal("1.5"), date(2026, 5, 1), date(2026, 12, 31), "a list"
    )
    assert second is not None
    assert (second.credits, second.retires) == (None, None)
    assert prices.find("anycap", "n", "1k") is None


def test_every_line_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A price that is no price stops the run before anything is bought, with all its lines."""
    rows = (
        "a,good,*,0.01,,2026-05-01,,x\n"
        "a,b,*,cheap,,2026-05-01,,x\n"
        "a,c,*,-1,,2026-05-01,,x\n"
        "a,d,*,NaN,,2026-05-01,,x\n"
        "a,e,*,1,,May,,x\n"
        "a,f,*,1,many,2026-05-01,,x\n"
    )
    with pytest.raises(NotStarted) as refused:
        book(tmp_path, rows)
    assert [problem.line for problem in refused.value.problems] == [3, 4, 5, 6, 7]
    assert all("0.005" in problem.mend for problem in refused.value.problems)


@pytest.mark.parametrize("header", ["generator,model,usd\n", ""])
def test_a_book_without_its_columns_is_refused(tmp_path: Path, header: str) -> None:
    """A file that is no price book says so."""
    with pytest.raises(NotStarted, match=r"prices\.csv"):
        book(tmp_path, "", header)


def test_a_book_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A missing file says so."""
    with pytest.raises(NotStarted, match="can't be read"):
        PriceBook.read(tmp_path / "none.csv")


def test_an_old_price_is_warned_of() -> None:
    """A price older than 90 days is told with its month and its source; one of 90 days is not, nor is what is free."""
    today = date(2026, 11, 21)
    assert dated("0.015", today - STALE_AFTER).warnings(today) == []
    (told,) = dated("0.015", today - STALE_AFTER - timedelta(days=1)).warnings(today)
    assert "seedream-5 is from August 2026 (a list)" in told
    assert dated("0", date(2020, 1, 1)).warnings(today) == []


def test_a_retired_model_is_warned_of() -> None:
    """From its last day on a model is told to be retired."""
    today = date(2026, 11, 21)
    assert dated("1", today, today + timedelta(days=1)).warnings(today) == []
    (told,) = dated("1", today, today).warnings(today)
    assert "was retired on 2026-11-21; choose another model" in told
