from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from scripted_generator import ScriptedGenerator
from small_batch import PRICES, SmallBatch, price, put_state

from blocks.errors import ContentRejected, ServiceUnavailable
from flows.batch.ledger_tables import State
from flows.batch.plan import ModelCost, check_changed
from flows.batch.plan_text import plan_lines
from flows.batch.prices import PriceBook
from flows.batch.problems import NotStarted


@pytest.fixture
def batch(tmp_path: Path) -> SmallBatch:
    """A place for files."""
    return SmallBatch(tmp_path)


def test_a_new_file_is_all_new(batch: SmallBatch) -> None:
    """What the ledger does not have is to be bought, at its models' list prices."""
    batch.csv("sku,name,color,template\nA,Shirt,blue,\nB,Cap,red,product_hero\nC,Bag,red,\nA,Shirt,blue,\n")
    plan = batch.plan()
    assert [job.sku for job in plan.todo] == [job.sku for job in plan.to_buy] == ["A", "B", "C"]
    assert plan.costs == (
        ModelCost("nano-banana-2", 2, Decimal("0.010")),
        ModelCost("seedream-5", 1, Decimal("0.015")),
    )
    assert plan.cost_usd == Decimal("0.025")
    assert (plan.changed, plan.bought, plan.unpriced, plan.left_for_later) == (0, 0, 0, 0)
    assert plan.headline.startswith("products.csv: 3 images to buy")
    assert "$0.025" in plan.headline
    told = "\n".join(plan_lines(plan))
    assert "4 rows, 3 images" in told
    assert "1  equal to an earlier row" in told
    assert "3  new" in told


def test_a_plan_writes_nothing_into_the_output(batch: SmallBatch) -> None:
    """Planning makes no output and puts no row into the ledger."""
    batch.products("A")
    batch.plan()
    assert not batch.output.exists()
    assert batch.ledger().standings([job.key for job in batch.jobs()]) == {}


def test_what_is_bought_is_not_in_the_plan(batch: SmallBatch) -> None:
    """A second plan of the same file buys nothing, and a new row is the only thing to do."""
    batch.products("A", "B")
    batch.run(ScriptedGenerator())
    plan = batch.plan()
    assert (plan.todo, plan.to_buy, plan.bought, plan.costs) == ((), (), 2, ())
    assert "Nothing to buy." in "\n".join(plan_lines(plan))
    batch.products("A", "B", "C")
    assert [job.sku for job in batch.plan().todo] == ["C"]


def test_another_output_is_filled_without_buying(batch: SmallBatch) -> None:
    """Images that another output has are to be brought over, and cost nothing."""
    batch.products("A", "B")
    batch.run(ScriptedGenerator())
    plan = batch.plan(output=str(batch.root / "second"))
    assert [job.sku for job in plan.todo] == ["A", "B"]
    assert plan.to_buy == ()


def test_a_changed_row_is_told_from_a_new_one(batch: SmallBatch) -> None:
    """A row that had an image in this output and would get another is changed; elsewhere it is new."""
    batch.products("A", "B")
    batch.run(ScriptedGenerator())
    batch.csv("sku,name,color\nA,Shirt A,green\nB,Shirt B,blue\nC,Shirt C,blue\n")
    plan = batch.plan()
    assert [job.sku for job in plan.to_buy] == ["A", "C"]
    assert (plan.changed, plan.bought) == (1, 1)
    told = "\n".join(plan_lines(plan))
    assert "1  new" in told
    assert "1  changed" in told
    assert batch.plan(output=str(batch.root / "second")).changed == 0


def test_a_row_that_failed_and_was_changed_back_and_forth_is_counted_once(batch: SmallBatch) -> None:
    """No row is told as less than nothing, whatever it went through."""
    batch.products("A")
    batch.run(ScriptedGenerator())
    batch.products("A", color="green")
    batch.run(ScriptedGenerator({"A": [ServiceUnavailable("down")]}))
    batch.products("A")
    batch.run(ScriptedGenerator())
    batch.products("A", color="green")
    told = "\n".join(plan_lines(batch.plan()))
    assert "0  new" in told
    assert "1  changed" in told


def test_a_proof_is_not_a_changed_image(batch: SmallBatch) -> None:
    """Going from proofs to a provider is no change of rows."""
    batch.products("A")
    proof = SmallBatch(
        batch.root, replace(batch.source, capabilities=replace(batch.source.capabilities, provider="proof"))
    )
    proof.run(ScriptedGenerator())
    assert batch.plan().changed == 0
    assert len(batch.plan().to_buy) == 1


def test_over_a_hundred_changed_rows_need_a_word(batch: SmallBatch) -> None:
    """A slip in the sheet does not buy it anew: over 100 changed rows stop until they are confirmed."""
    skus = [f"S{number}" for number in range(101)]
    batch.products(*skus)
    batch.run(ScriptedGenerator(), concurrency=8)
    batch.products(*skus, color="green")
    settings = batch.settings()
    plan = batch.plan()
    assert plan.changed == 101
    with pytest.raises(NotStarted, match=r"101 rows that had an image have changed.*--yes"):
        check_changed(settings, plan)
    check_changed(batch.settings(confirm_changed=True), plan)
    check_changed(settings, replace(plan, changed=100))


def test_the_limit_takes_the_first_rows_that_are_not_bought(batch: SmallBatch) -> None:
    """--limit counts what is bought anew, in the file's order, and says what it leaves."""
    batch.products("A", "B", "C", "D")
    batch.run(ScriptedGenerator(), limit=1)
    plan = batch.plan(limit=2)
    assert [job.sku for job in plan.to_buy] == ["B", "C"]
    assert (plan.left_for_later, plan.bought, plan.new) == (1, 1, 3)
    assert "1  left pending by the limit" in "\n".join(plan_lines(plan))


@pytest.mark.parametrize(
    ("state", "switch", "told"),
    [
        (State.REJECTED, "retry_rejected", "refused before"),
        (State.UNKNOWN, "retry_unknown", "of unknown outcome"),
        (State.LOST, "rebuy_lost", "lost"),
    ],
)
def test_some_states_are_bought_again_on_request_only(batch: SmallBatch, state: State, switch: str, told: str) -> None:
    """Rejected, unknown and lost rows cost money again only with their own switch."""
    batch.products("A")
    batch.run(ScriptedGenerator({"A": [ContentRejected("no")]}))
    put_state(batch.ledger(), state)
    assert batch.plan().to_buy == ()
    assert f"1  {told}" in "\n".join(plan_lines(batch.plan()))
    for other in {"retry_rejected", "retry_unknown", "rebuy_lost"} - {switch}:
        assert batch.plan(**{other: True}).to_buy == ()
    plan = batch.plan(**{switch: True})
    assert [job.sku for job in plan.todo] == ["A"]
    assert plan.cost_usd == Decimal("0.005")


def test_a_failed_row_is_taken_up_again(batch: SmallBatch) -> None:
    """What failed for free is in the next plan without a word."""
    batch.products("A", "B")
    batch.run(ScriptedGenerator({"A": [ServiceUnavailable("down")]}))
    plan = batch.plan()
    assert [job.sku for job in plan.to_buy] == ["A"]
    assert "1  failed before, taken up again" in "\n".join(plan_lines(plan))


def test_a_call_that_was_cut_off_is_looked_up_and_not_in_the_estimate(batch: SmallBatch) -> None:
    """A row whose call was under way is taken up, and may turn out to be paid already."""
    batch.products("A")
    batch.run(ScriptedGenerator({"A": [ServiceUnavailable("down")]}))
    put_state(batch.ledger(), State.SUBMITTED, owner="gone")
    plan = batch.plan()
    assert [job.sku for job in plan.todo] == ["A"]
    assert plan.to_buy == ()
    assert "1  cut off in a call" in "\n".join(plan_lines(plan))


def test_invalid_rows_are_counted(batch: SmallBatch) -> None:
    """Rows that are left out are told."""
    batch.csv("sku,name,color\nA,Shirt,blue\nB,,red\n")
    assert "1  invalid, left out" in "\n".join(plan_lines(batch.plan(skip_invalid=True)))


def test_a_model_without_a_price_is_told(batch: SmallBatch) -> None:
    """Images at a price nobody knows are counted beside the estimate, and not as free."""
    batch.csv("sku,name,color,model\nA,Shirt,blue,next-year\nB,Shirt,blue,\n")
    plan = batch.plan(allow_unknown_model=True)
    assert (plan.unpriced, plan.cost_usd) == (1, Decimal("0.005"))
    assert plan.costs[1] == ModelCost("next-year", 1, None)
    assert any("No price is known for next-year" in warning for warning in plan.warnings)
    told = "\n".join(plan_lines(plan))
    assert "and 1 whose price nobody knows" in told
    assert "price not known" in told


def test_a_price_of_a_resolution_counts_for_its_rows(batch: SmallBatch) -> None:
    """Rows of one model at two resolutions cost what each of them costs."""
    batch.prices = PriceBook([price("nano-banana-2", "0.005"), price("nano-banana-2", "0.02", "4k")])
    batch.csv("sku,name,color,param.resolution\nA,Shirt,blue,\nB,Shirt,blue,4k\nC,Shirt,blue,1k\n")
    assert batch.plan().costs == (ModelCost("nano-banana-2", 3, Decimal("0.030")),)


def test_an_old_price_is_warned_of_once(batch: SmallBatch) -> None:
    """A stale price of a model that would be used is told, once for all its rows."""
    old = price("nano-banana-2", "0.005")
    unused = replace(price("seedream-5", "1"), as_of=old.as_of - timedelta(days=500))
    batch.prices = PriceBook([replace(old, as_of=old.as_of - timedelta(days=91)), unused])
    batch.products("A", "B")
    (told,) = batch.plan().warnings
    assert "The price of nano-banana-2 is from" in told
    batch.prices = PRICES
    assert batch.plan().warnings == ()


def test_the_samples_show_each_template_once_first(batch: SmallBatch) -> None:
    """Three prompts to look at, of different templates where there are some."""
    batch.csv(
        "sku,name,color,scene,template\n"
        "A,Shirt,blue,,\nB,Shirt,blue,,\nC,Shirt,blue,,product_hero\nD,Shirt,blue,desk,lifestyle\nE,Cap,red,,\n"
    )
    assert [job.sku for job in batch.plan().samples] == ["A", "C", "D"]
    batch.products("A", "B")
    assert [job.sku for job in batch.plan().samples] == ["A", "B"]
