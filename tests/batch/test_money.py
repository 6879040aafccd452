import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from scripted_generator import Draws, ScriptedGenerator
from small_batch import PRICES, SmallBatch, price
from sqlalchemy import select

from blocks.image import Capabilities
from flows.batch.comparison import Choice, compare
from flows.batch.costs import Dearest, listed, settled
from flows.batch.jobs import Source
from flows.batch.ledger_images import Cost
from flows.batch.ledger_tables import attempts
from flows.batch.plan_json import plan_json
from flows.batch.plan_text import plan_lines
from flows.batch.prices import COLUMNS, PriceBook
from flows.batch.problems import NotStarted
from flows.batch.request import Request
from flows.batch.run import BatchRun

HEADER = ",".join(COLUMNS)
MIXED = "sku,name,color,template\nA,Shirt,blue,\nB,Cap,red,product_hero\nC,Bag,red,\n"


@pytest.fixture
def batch(tmp_path: Path) -> SmallBatch:
    """A place for files."""
    return SmallBatch(tmp_path)


def book(folder: Path, rows: str, name: str = "own.csv") -> str:
    """The path of a price book."""
    path = folder / name
    path.write_text(f"{HEADER}\n{rows}", encoding="utf-8")
    return str(path)


def planned_json(batch: SmallBatch, **changes: Any) -> dict[str, Any]:
    """What `rowshot plan --json` prints."""
    run = batch.open(batch.settings(**changes))
    found: dict[str, Any] = json.loads(json.dumps(plan_json(batch.plan(**changes), run)))
    return found


def test_the_built_in_book_notes_what_else_is_asked_elsewhere() -> None:
    """The brief's prices stay as they are, and their warning tells the higher ones of November 2026."""
    prices = PriceBook.read()
    for model, elsewhere in (("nano-banana-2", "0.067"), ("seedream-5", "0.035")):
        known = prices.find("anycap", model)
        assert known is not None
        (warning,) = known.warnings(date(2026, 11, 21))
        assert elsewhere in warning
        assert "November 2026" in warning
        assert "--prices" in warning


def test_a_book_of_ones_own_takes_the_place_of_the_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option comes before ROWSHOT_PRICES, and that before the built-in book, whose other prices are gone then."""
    first = book(tmp_path, "anycap,nano-banana-2,*,0.067,,2026-11-01,,a list\n")
    second = book(tmp_path, "anycap,nano-banana-2,*,0.05,,2026-11-01,,a list\n", "second.csv")
    assert PriceBook.open().models("anycap") == {"nano-banana-2", "seedream-5"}
    monkeypatch.setenv("ROWSHOT_PRICES", second)
    for given, usd in ((first, "0.067"), ("", "0.05")):
        prices = PriceBook.open(given)
        known = prices.find("anycap", "nano-banana-2")
        assert known is not None
        assert known.usd == Decimal(usd)
        assert prices.models("anycap") == {"nano-banana-2"}


def test_proofs_stay_free_under_a_book_of_ones_own(tmp_path: Path) -> None:
    """Nobody has to price what is drawn here, but may."""
    proof = PriceBook.open(book(tmp_path, "anycap,m,*,1,,2026-11-01,,x\n")).find("proof", "seedream-5")
    assert proof is not None
    assert proof.usd == 0
    priced = PriceBook.open(book(tmp_path, "proof,*,*,0.001,,2026-11-01,,power\n")).find("proof", "seedream-5")
    assert priced is not None
    assert priced.usd == Decimal("0.001")


def test_a_run_takes_the_book_that_its_settings_name(batch: SmallBatch) -> None:
    """A batch's own price book is opened with the run, and one that is not there starts nothing."""
    own = book(batch.root, "anycap,nano-banana-2,*,0.067,,2026-11-01,,a list\n")
    known = BatchRun.open(Request.of(batch.settings(prices=own))).prices.find("anycap", "nano-banana-2")
    assert known is not None
    assert known.usd == Decimal("0.067")
    with pytest.raises(NotStarted, match="can't be read"):
        BatchRun.open(Request.of(batch.settings(prices=str(batch.root / "none.csv"))))


@pytest.mark.parametrize("amount", ["0", "-1", "NaN", "Infinity"])
def test_a_price_in_credits_is_a_number_of_credits(tmp_path: Path, amount: str) -> None:
    """Nothing can be divided by no credits, so such a line is named."""
    with pytest.raises(NotStarted, match=r"line 2: own\.csv: '.*' is no number of credits"):
        PriceBook.open(book(tmp_path, f"anycap,m,*,0.01,{amount},2026-11-01,,x\n"))


def test_a_note_may_stand_beside_a_price(tmp_path: Path) -> None:
    """A column note is taken where there is one."""
    path = tmp_path / "noted.csv"
    path.write_text(f"{HEADER},note\nanycap,m,*,1,,2026-11-01,,x,only until May\n", encoding="utf-8")
    known = PriceBook.open(str(path)).find("anycap", "m")
    assert known is not None
    assert known.note == "only until May"


def test_a_call_is_settled_by_what_is_known_best(batch: SmallBatch) -> None:
    """The account's price of a credit comes first, then the price book's, and without either or without credits it is
    the list price, marked as estimated.
    """
    batch.products("A")
    (job,) = batch.jobs()
    in_credits = PriceBook([replace(price("nano-banana-2", "0.03"), credits=Decimal(2))])
    used = Decimal(3)
    assert settled(job, in_credits, used, Decimal("0.01")) == Cost(
        Decimal("0.03"), is_estimated=False, credits_used=used
    )
    assert settled(job, in_credits, used, Decimal(0)) == Cost(Decimal("0.045"), is_estimated=False, credits_used=used)
    assert settled(job, PRICES, used, Decimal(0)) == Cost(Decimal("0.005"), is_estimated=True, credits_used=used)
    assert settled(job, in_credits, None, Decimal("0.01")) == Cost(Decimal("0.03"), is_estimated=True)
    assert settled(job, PriceBook([]), used, Decimal(0)) == Cost(None, is_estimated=False, credits_used=used)
    assert settled(job, PriceBook([]), used, Decimal("0.01")) == Cost(
        Decimal("0.03"), is_estimated=False, credits_used=used
    )


def test_a_run_settles_by_the_price_books_credits(batch: SmallBatch) -> None:
    """An image's real cost comes from the credits that its answer tells; the estimate stays beside it."""
    batch.prices = PriceBook([replace(price("nano-banana-2", "0.03"), credits=Decimal(2))])
    batch.products("A", "B")
    batch.run(ScriptedGenerator({"A": [Draws(credits_used=Decimal(5))], "B": [Draws(credits_used=None)]}))
    told = [(batch.report(sku).price_usd, batch.report(sku).price_is_estimated) for sku in "AB"]
    assert told == [(Decimal("0.075"), False), (Decimal("0.03"), True)]
    with batch.ledger().reading() as connection:
        calls = connection.execute(select(attempts.c.estimate_usd, attempts.c.price_usd).order_by(attempts.c.sku)).all()
    assert [tuple(call) for call in calls] == [(Decimal("0.03"), Decimal("0.075")), (Decimal("0.03"), Decimal("0.03"))]


def test_what_a_call_has_cost_is_reserved_for_the_next(batch: SmallBatch) -> None:
    """The dearest call of a model counts for its later ones, never less than the list price, and for no other model."""
    batch.csv(MIXED)
    job, other, _ = batch.jobs()
    dearest = Dearest()
    assert dearest.expected(job, PRICES) == listed(job, PRICES) == Cost(Decimal("0.005"))
    for usd in ("0.02", "0.01", "0.001"):
        dearest.learn(job, Cost(Decimal(usd)))
    dearest.learn(job, Cost(None))
    expected = dearest.expected(job, PRICES)
    assert (expected.usd, expected.reserved_usd) == (Decimal("0.005"), Decimal("0.02"))
    dearest.learn(other, Cost(Decimal("0.001")))
    assert dearest.expected(other, PRICES).reserved_usd == Decimal("0.015")
    assert dearest.expected(job, PriceBook([])).reserved_usd is None


def test_the_same_rows_are_priced_with_every_model_and_by_hand(batch: SmallBatch) -> None:
    """What is to be bought is compared with each priced model of its generator, at four sizes, and with design work."""
    batch.csv(MIXED)
    found = batch.plan().comparison
    assert found is not None
    assert found.images == 3
    assert found.planned == Choice("as planned", Decimal("0.025"), 3)
    assert found.choices == (
        Choice("nano-banana-2", Decimal("0.015"), 3),
        Choice("seedream-5", Decimal("0.045"), 3),
    )
    cheap, dear = found.choices
    sizes = (100, 1_000, 10_000, 100_000)
    assert [cheap.usd_for(size) for size in sizes] == [Decimal("0.5"), 5, 50, 500]
    assert [dear.usd_for(size) for size in sizes] == [Decimal("1.5"), 15, 150, 1500]
    assert [way.usd_for(100_000) for way in found.by_hand] == [500_000, 1_000_000]
    assert found.planned.usd_for(1_000) == Decimal("8.333333")


def test_a_model_without_a_price_for_each_row_is_no_choice(batch: SmallBatch) -> None:
    """A model that is priced at another resolution only isn't offered, and an unknown price makes no planned cost."""
    batch.prices = PriceBook([price("nano-banana-2", "0.005"), price("seedream-5", "0.02", "4k")])
    batch.csv("sku,name,color,param.resolution\nA,Shirt,blue,4k\nB,Shirt,blue,1k\n")
    found = batch.plan().comparison
    assert found is not None
    assert [choice.model for choice in found.choices] == ["nano-banana-2"]
    batch.csv("sku,name,color,model\nA,Shirt,blue,next-year\n")
    unpriced = batch.plan(allow_unknown_model=True).comparison
    assert unpriced is not None
    assert unpriced.planned is None
    assert planned_json(batch, allow_unknown_model=True)["comparison"]["planned"] is None


def test_the_text_shows_the_table(batch: SmallBatch) -> None:
    """The plan's lines have the comparison in columns that stand under each other, its own row marked."""
    batch.csv(MIXED)
    lines = list(plan_lines(batch.plan()))
    first = next(number for number, line in enumerate(lines) if "The same rows with" in line)
    rows = lines[first : first + 6]
    assert len({len(row) for row in rows}) == 1
    assert rows[0].split() == ["The", "same", "rows", "with", "these", "3", "100", "1,000", "10,000", "100,000"]
    assert rows[1].split() == ["as", "planned", "$0.025", "$0.83", "$8.33", "$83.33", "$833"]
    assert rows[2].split() == ["nano-banana-2", "$0.015", "$0.50", "$5.00", "$50.00", "$500"]
    assert rows[5].split()[-1] == "$1,000,000"
    batch.products("A")
    one = "\n".join(plan_lines(batch.plan()))
    assert "nano-banana-2 (planned)" in one
    assert "as planned" not in one


def test_nothing_to_buy_is_not_compared(batch: SmallBatch) -> None:
    """Once all is bought the plan is short again."""
    batch.products("A")
    batch.run(ScriptedGenerator())
    assert batch.plan().comparison is None
    assert compare([], PRICES) is None


def test_proofs_tell_what_the_images_would_cost(batch: SmallBatch) -> None:
    """A plan of proofs has no table, but one line on what a provider would ask for the same rows."""
    batch.source = Source(Capabilities("proof", free=True, any_priced_model=True))
    batch.csv(MIXED)
    plan = batch.plan()
    assert plan.comparison is None
    assert plan.elsewhere_usd == {"anycap": Decimal("0.025")}
    told = "\n".join(plan_lines(plan))
    assert "Bought from anycap, the same would cost $0.025 at list prices." in told
    assert "by hand" not in told


def test_a_plan_as_json_has_its_keys_and_exact_amounts(batch: SmallBatch) -> None:
    """Scripts get every figure of the plan, amounts as text with all their digits, and null where nobody knows."""
    batch.csv(
        "sku,name,color,template,model\nA,셔츠,blue,,\nB,Cap,red,product_hero,\nC,Bag,red,,next-year\nA,셔츠,blue,,\n"
    )
    found = planned_json(batch, allow_unknown_model=True, max_cost_usd="1.50")
    samples, comparison = found.pop("samples"), found.pop("comparison")
    warnings = found.pop("warnings")
    assert found == {
        "to_publish": 0,
        "to_store": 0,
        "csv": "products.csv", "rows": 4, "images": 3, "new": 3, "changed": 0, "duplicates": 1, "invalid": 0,
        "states": {"pending": 3}, "to_buy": 3, "left_for_later": 0, "cost_usd": "0.020", "unpriced": 1,
        "costs": [
            {"model": "nano-banana-2", "images": 1, "usd": "0.005"},
            {"model": "next-year", "images": 1, "usd": None},
            {"model": "seedream-5", "images": 1, "usd": "0.015"},
        ],
        "max_cost_usd": "1.50", "max_cost_per_day_usd": None, "elsewhere_usd": {},
    }  # fmt: skip
    assert [sample["sku"] for sample in samples] == ["A", "B", "C"]
    assert "셔츠" in samples[0]["prompt"]
    assert [model["model"] for model in comparison["models"]] == ["nano-banana-2", "seedream-5"]
    assert comparison["by_hand"]["to"] == {
        "usd": "30", "usd_per_image": "10",
        "usd_for": {"100": "1000", "1000": "10000", "10000": "100000", "100000": "1000000"},
    }  # fmt: skip
    assert any("next-year" in warning for warning in warnings)
