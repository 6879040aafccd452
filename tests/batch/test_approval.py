"""What an answer changes of a plan, without anybody to ask."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from scripted_generator import ScriptedGenerator
from small_batch import SOURCE, SmallBatch, price

from flows.batch.approval import (
    Narrowed,
    Reviewed,
    mark_of_purchase,
    narrowed,
    price_told,
    purchase_told,
    reviewed,
    skus_in,
)
from flows.batch.plan import ModelCost, plan_batch
from flows.batch.prices import PriceBook
from flows.batch.problems import NotStarted
from flows.batch.publishing import PublishRow


@pytest.fixture
def batch(tmp_path: Path) -> SmallBatch:
    """Three heroes at 0.015 USD, and a product at 0.005 USD."""
    small = SmallBatch(tmp_path)
    rows = [*(f"h{number},Shirt,red,product_hero" for number in range(3)), "p,Shirt,red,product"]
    small.csv("sku,name,color,template\n" + "\n".join(rows) + "\n")
    return small


def test_a_plan_is_known_by_what_it_buys_and_for_how_much(batch: SmallBatch) -> None:
    """The same plan has the same mark, whatever else is in it; one image more or less, or a price, has another."""
    plan = batch.plan()
    mark = mark_of_purchase(plan, batch.prices)
    assert mark == mark_of_purchase(replace(batch.plan(), warnings=("old prices",)), batch.prices)
    assert mark != mark_of_purchase(batch.plan(limit=3), batch.prices)
    dearer = PriceBook([price("nano-banana-2", "0.01"), price("seedream-5", "0.015")])
    assert mark != mark_of_purchase(plan, dearer)


@pytest.mark.parametrize(
    ("wanted", "skus"),
    [
        (Narrowed(), ["h0", "h1", "h2", "p"]),
        (Narrowed(max_cost_usd="0.03"), ["h0", "h1"]),
        (Narrowed(max_cost_usd="0.1"), ["h0", "h1", "h2", "p"]),
        (Narrowed(max_cost_usd="0"), []),
        (Narrowed(templates=("product",)), ["p"]),
        (Narrowed(max_cost_usd="0.02", templates=("product_hero",)), ["h0"]),
    ],
)
def test_no_more_is_bought_than_was_approved(batch: SmallBatch, wanted: Narrowed, skus: list[str]) -> None:
    """Under a cap it is the first images that fit, and the cap then holds for the run; the rest is left for later."""
    settings = batch.settings()
    run = batch.open(settings)
    plan = narrowed(plan_batch(settings, SOURCE, run), wanted, run)
    assert [job.sku for job in plan.to_buy] == [job.sku for job in plan.todo] == skus
    assert plan.left_for_later == 4 - len(skus)
    assert (str(run.request.caps.run_usd) if wanted.max_cost_usd else "") == wanted.max_cost_usd


def test_what_was_looked_at_is_published_and_nothing_else(batch: SmallBatch) -> None:
    """Images that are left out, or to be made again, are not published; rows that are to be bought wait for another
    run; and a sku that doesn't wait is named.
    """
    settings = batch.settings()
    run = batch.open(settings)
    plan = plan_batch(settings, SOURCE, run)
    waiting = tuple(PublishRow(job.key, job.sku, job.template, f"https://x/{job.sku}") for job in plan.to_buy[:3])
    plan = replace(plan, to_publish=waiting)
    said = reviewed(plan, Reviewed(left_out=("h1",)), settings, SOURCE, run)
    assert [row.sku for row in said.to_publish] == ["h0", "h2"]
    assert (said.todo, said.to_buy) == ((), ())
    with pytest.raises(NotStarted, match=r"'p' is not among(.|\n)*'h0' is both"):
        reviewed(plan, Reviewed(left_out=("p", "h0"), again=("h0",)), settings, SOURCE, run)


@pytest.mark.parametrize("limit", [0, 1])
def test_only_the_image_that_waits_is_made_again(batch: SmallBatch, limit: int) -> None:
    """A sku's image of another template stays as it is: it is published already, or no run has bought it yet."""
    batch.csv("sku,name,color,template\na,Shirt,red,product\na,Shirt,red,product_hero\n")
    batch.run(ScriptedGenerator(), limit=limit)
    settings = batch.settings()
    run = batch.open(settings)
    plan = plan_batch(settings, SOURCE, run)
    waiting = PublishRow(plan.batch.jobs[0].key, "a", "product", "https://x/a")
    said = reviewed(replace(plan, to_publish=(waiting,)), Reviewed(again=("a",)), settings, SOURCE, run)
    assert [job.template for job in said.to_buy] == ["product"]


def test_skus_as_people_write_them() -> None:
    """By commas or on lines, with spaces or without; one with a comma in it stands in quotes."""
    assert skus_in(' A-1, B 2 ,,\nC,"D, large", A-1') == ("A-1", "B 2", "C", "D, large")
    assert skus_in("  ") == ()


def test_a_question_is_text_and_nothing_else(batch: SmallBatch) -> None:
    """What stands in a file draws no link, picture or heading in the question."""
    batch.csv("sku,name,color\n![x](http://a.b/c),<b>Shirt</b>,red\n")
    told = purchase_told(batch.plan(), 72)
    assert "<b>" not in told.replace("\\<", "")
    assert "\\!\\[x\\]" in told
    assert "1 image to buy" in told


def test_a_price_is_told_as_it_is(batch: SmallBatch) -> None:
    """An estimate, nothing at all, or a price that nobody knows, of some or of all; and a note on it in full."""
    plan = batch.plan()
    assert price_told(plan) == "for about $0.05"
    assert price_told(replace(plan, costs=(ModelCost("m", 4, Decimal(0)),))) == "for free"
    nobody = ModelCost("n", 3, None)
    told = price_told(replace(plan, costs=(ModelCost("m", 1, Decimal("0.01")), nobody)))
    assert told == "for about $0.01, and 3 of them at a price that nobody knows"
    assert price_told(replace(plan, costs=(replace(nobody, images=4),))) == "at a price that nobody knows"
    note = f"The price is old{', very old' * 20}; put it into a book (--prices)."
    assert note.replace("--prices", "'Price book'") in purchase_told(replace(plan, warnings=(note,)), 72)
