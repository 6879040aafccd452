import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from scripted_generator import Draws, ScriptedGenerator, Step
from small_batch import SmallBatch
from sqlalchemy import update

from blocks.errors import ContentRejected, OutcomeUnknown, ServiceUnavailable
from blocks.image import Capabilities
from flows.batch.jobs import Source
from flows.batch.ledger_tables import attempts, runs
from flows.batch.spend import By, Spending, read_spending, spending_json, spending_lines, total_of

CENT = Decimal("0.01")


@pytest.fixture
def busy(shop: SmallBatch) -> SmallBatch:
    """A shop that has bought: two images by credits, one by list price, one paid for twice; one call is in doubt."""
    script: dict[str, Sequence[Step]] = {
        "B": [Draws(credits_used=None)],
        "D": [Draws(data=b"broken")],
        "E": [OutcomeUnknown("no answer")],
        "F": [ContentRejected("no"), ServiceUnavailable("down")],
    }
    generator, once = ScriptedGenerator(script), str(uuid.uuid4())
    # The one in doubt goes first: after a dear answer it would have reserved more.
    for rows in ("E,a,b,\n", "A,a,b,\nB,a,b,\nC,a,b,product_hero\nD,a,b,\nE,a,b,\nF,a,b,\n"):
        shop.csv(f"sku,name,color,template\n{rows}")
        shop.run(generator, usd_per_credit=CENT, run_id=once)
    return shop


def named(shop: SmallBatch, by: By) -> dict[str, Spending]:
    """The lines by what they are of."""
    return {line.what: line for line in read_spending(shop.ledger(), by)}


def test_what_was_bought_is_told_by_day(busy: SmallBatch) -> None:
    """A day has its images and paid calls, its estimate beside what was spent and settled, and what is in doubt."""
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    (line,) = read_spending(busy.ledger(), By.DAY)
    assert line == Spending(
        what=today,
        images=4,
        paid_calls=5,
        estimate_usd=Decimal("0.040"),
        spent_usd=Decimal("0.045"),
        settled_usd=Decimal("0.04"),
        calls_in_doubt=1,
        in_doubt_usd=Decimal("0.005"),
        unpriced_calls=0,
    )
    assert line.spent_usd + line.in_doubt_usd == busy.ledger().budgets.of_day(time.time())


def test_days_are_utc(busy: SmallBatch) -> None:
    """A call a second before midnight in UTC is of the day before, wherever the machine stands."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with busy.ledger()._database.writing() as connection:
        sku = attempts.c.sku
        connection.execute(update(attempts).values(started_at=midnight.timestamp()))
        before = (midnight - timedelta(seconds=1)).timestamp()
        connection.execute(update(attempts).where(sku == "A").values(started_at=before))
    lines = read_spending(busy.ledger(), By.DAY)
    assert [line.what for line in lines] == [f"{midnight - timedelta(days=1):%Y-%m-%d}", f"{midnight:%Y-%m-%d}"]
    assert [line.images for line in lines] == [1, 3]


def test_what_was_bought_is_told_by_model_and_template(busy: SmallBatch) -> None:
    """Each model and each template has its own line, and they add up to the same."""
    models, templates = named(busy, By.MODEL), named(busy, By.TEMPLATE)
    assert {what: line.images for what, line in models.items()} == {"anycap nano-banana-2": 3, "anycap seedream-5": 1}
    assert models["anycap seedream-5"].estimate_usd == Decimal("0.015")
    assert models["anycap seedream-5"].spent_usd == CENT
    assert {what: line.images for what, line in templates.items()} == {"product": 3, "product_hero": 1}
    totals = [total_of(list(lines.values())) for lines in (models, templates, named(busy, By.DAY))]
    assert totals[0] == totals[1] == totals[2]


def test_what_was_bought_is_told_by_run(busy: SmallBatch) -> None:
    """Runs come in their order, named for people by their beginning and their CSV."""
    busy.products("G", name="more.csv")
    ran = busy.run(ScriptedGenerator(), csv=str(busy.root / "more.csv"))
    first, second = read_spending(busy.ledger(), By.RUN)
    assert (second.what, second.images, second.spent_usd) == (ran.run.id, 1, Decimal("0.005"))
    assert first.told.endswith(" products.csv")
    assert second.told.endswith(" more.csv")
    with busy.ledger()._database.writing() as connection:
        connection.execute(runs.delete())
    assert [line.told for line in read_spending(busy.ledger(), By.RUN)] == ["", ""]


def test_a_run_is_shown_by_as_much_of_its_id_as_is_needed(busy: SmallBatch) -> None:
    """Each line of the table begins with what `rowshot unpublish` finds the run by, also where ids begin alike."""
    (bought,) = read_spending(busy.ledger(), By.RUN)
    _, line = spending_lines([bought], By.RUN)
    assert line.startswith(f"{bought.what[:8]}  {bought.told}  ")
    alike = [replace(bought, what=f"019a1b2c-{rest}") for rest in ("d000-7000", "d001-7000")]
    lines = list(spending_lines(alike, By.RUN))
    assert [line.split()[0] for line in lines] == ["run", "019a1b2c-d000", "019a1b2c-d001", "total"]
    assert len(set(map(len, lines[1:]))) == 1
    unknown = list(spending_lines([replace(bought, told="")], By.RUN))
    assert unknown[1].split()[:2] == [bought.what[:8], "4"]


def test_proofs_and_refusals_are_no_spending(shop: SmallBatch) -> None:
    """What was drawn for nothing and what was refused is left out."""
    shop.products("A", "B")
    shop.run(ScriptedGenerator({"A": [ContentRejected("no")], "B": [ServiceUnavailable("down")]}))
    SmallBatch(shop.root, Source(Capabilities("proof", free=True, any_priced_model=True)), ledger_url=shop.where).run(
        ScriptedGenerator()
    )
    assert read_spending(shop.ledger(), By.DAY) == []
    assert list(spending_lines([], By.DAY)) == ["Nothing was bought yet."]
    assert spending_json([], By.DAY)["total"]["spent_usd"] == "0"


def test_a_call_without_a_known_price_is_counted_beside_the_amounts(shop: SmallBatch) -> None:
    """What nobody can price is told as such, and not as free."""
    shop.csv("sku,name,color,model\nA,Shirt,blue,next-year\nB,Shirt,blue,\n")
    shop.run(ScriptedGenerator(), allow_unknown_model=True)
    (line,) = read_spending(shop.ledger(), By.DAY)
    assert (line.images, line.unpriced_calls, line.spent_usd) == (2, 1, Decimal("0.005"))
    assert "price not known" in next(spending_lines([line], By.DAY))


def test_the_table_is_one_to_read(busy: SmallBatch) -> None:
    """Columns stand under each other, doubt shows only where there is some, and several lines have a total."""
    models = read_spending(busy.ledger(), By.MODEL)
    lines = list(spending_lines(models, By.MODEL))
    assert " ".join(lines[0].split()) == "model images paid calls estimated spent of it settled in doubt"
    assert [line.split()[0] for line in lines[1:]] == ["anycap", "anycap", "total"]
    assert lines[-1].split() == ["total", "4", "5", "$0.04", "$0.045", "$0.04", "$0.005", "(1)"]
    hero = [line for line in models if line.what.endswith("seedream-5")]
    head, row = spending_lines(hero, By.MODEL)
    assert "in doubt" not in head
    assert len(head) == len(row)
    assert next(spending_lines(hero, By.DAY)).startswith("day (UTC)")


def test_the_same_as_json(busy: SmallBatch) -> None:
    """Amounts are text with all their digits, and the total is there."""
    found = json.loads(json.dumps(spending_json(read_spending(busy.ledger(), By.TEMPLATE), By.TEMPLATE)))
    assert found["by"] == "template"
    assert [row["what"] for row in found["rows"]] == ["product", "product_hero"]
    assert found["rows"][1]["spent_usd"] == "0.01"
    assert (found["total"]["images"], found["total"]["in_doubt_usd"]) == (4, "0.005")


def test_a_look_at_spending_writes_nothing(tmp_path: Path) -> None:
    """A ledger without a call is no error."""
    batch = SmallBatch(tmp_path)
    for by in By:
        assert read_spending(batch.ledger(), by) == []
