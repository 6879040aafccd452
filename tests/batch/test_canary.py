from decimal import Decimal
from pathlib import Path

import pytest
from scripted_generator import Draws, ScriptedGenerator, Step
from small_batch import SmallBatch, table

from blocks.errors import AuthenticationFailed, ContentRejected, OutcomeUnknown, ServiceUnavailable
from flows.batch.canary import choose_canary
from flows.batch.row_report import Status


@pytest.fixture
def batch(tmp_path: Path) -> SmallBatch:
    """A place for files."""
    return SmallBatch(tmp_path)


def refuses(*skus: str) -> ScriptedGenerator:
    """A provider that refuses these rows."""
    return ScriptedGenerator({sku: [ContentRejected("It shows a logo. Change the row.")] for sku in skus})


def test_a_canary_shows_every_kind_of_row_in_turn(batch: SmallBatch) -> None:
    """The rows bought first are spread over templates and models, each kind's first rows first, in the file's order."""
    batch.csv(
        "sku,name,color,template,model\n"
        "A1,a,b,,\nA2,a,b,,\nA3,a,b,,\nA4,a,b,,\nB1,a,b,product_hero,\nA5,a,b,,\nB2,a,b,product_hero,\nC1,a,b,,seedream-5\n"
    )
    jobs = batch.jobs()
    chosen = {size: [job.sku for job in choose_canary(jobs, size, 0.2).jobs] for size in range(9)}
    assert chosen[1] == ["A1"]
    assert chosen[2] == ["A1", "B1"]
    assert chosen[3] == ["A1", "B1", "C1"]
    assert chosen[5] == ["A1", "A2", "B1", "B2", "C1"]
    assert chosen[7] == ["A1", "A2", "A3", "A4", "B1", "B2", "C1"]
    assert chosen[0] == chosen[8] == [], "none is asked for, or it would be all"


def test_a_canary_that_fares_well_lets_the_rest_be_bought(batch: SmallBatch) -> None:
    """The canary's rows are bought before any other, and then the rest, each once."""
    batch.products(*"ABCDEFGHIJ")
    generator = ScriptedGenerator()
    ran = batch.run(generator, canary=3)
    assert {call.sku for call in generator.calls[:3]} == set("ABC")
    assert (ran.summary.exit_code, ran.summary.counts) == (0, {Status.STORED: 10})
    assert generator.charges == 10
    assert (batch.output / "canary.html").exists()


def test_a_canary_that_fails_stops_the_run(batch: SmallBatch) -> None:
    """Too many failures among the first rows: the rest stays pending, and the run says how many failed, why and what
    to do, with exit code 3 and the contact sheet of those rows.
    """
    batch.products(*"ABCDEFGHIJ")
    generator = refuses("B", "C")
    ran = batch.run(generator, canary=4)
    assert sorted(call.sku for call in generator.calls) == list("ABCD")
    assert ran.summary.exit_code == 3
    assert ran.summary.counts == {Status.STORED: 2, Status.REJECTED: 2, Status.PENDING: 6}
    assert "The canary failed: 2 of its 4 rows have no image (50%; 20% may), e.g. line 3, B: It shows a logo." in (
        ran.summary.stopped
    )
    assert "run the same command again" in ran.summary.stopped
    assert str(batch.output / "canary.html") in ran.summary.stopped
    sheet = (batch.output / "canary.html").read_text(encoding="utf-8")
    assert [sku for sku in "ABCDEFGHIJ" if f"Shirt {sku}" in sheet] == list("ABCD")
    assert [row["sku"] for row in table(batch.output / "failures.csv")] == ["B", "C"]


def test_what_a_canary_has_bought_is_not_bought_again(batch: SmallBatch) -> None:
    """After a mended sheet the run goes on, and what the canary has bought stays bought."""
    batch.products(*"ABCDE")
    batch.run(refuses("A"), canary=2)
    generator = ScriptedGenerator()
    ran = batch.run(generator, canary=2, retry_rejected=True)
    assert sorted(call.sku for call in generator.calls) == ["A", "C", "D", "E"]
    assert ran.summary.exit_code == 0


@pytest.mark.parametrize(
    ("failed", "share", "goes_on"),
    [("A", 0.2, True), ("AB", 0.2, False), ("AB", 0.4, True), ("A", 0.0, False), ("ABCDE", 1.0, True)],
)
def test_the_share_that_may_fail_is_kept(batch: SmallBatch, failed: str, share: float, *, goes_on: bool) -> None:
    """As many as the share may fail, and not one more."""
    batch.products(*"ABCDEFG")
    ran = batch.run(refuses(*failed), canary=5, canary_failures=share)
    assert (ran.summary.stopped == "") is goes_on
    assert ran.summary.counts.get(Status.PENDING, 0) == (0 if goes_on else 2)


@pytest.mark.parametrize(
    "step",
    [ContentRejected("no"), OutcomeUnknown("no answer"), ServiceUnavailable("down"), Draws(data=b"broken")],
    ids=lambda step: type(step).__name__,
)
def test_every_row_without_an_image_is_a_failure(batch: SmallBatch, step: Step) -> None:
    """Refused, in doubt, out of order or spoilt: the canary takes each for a failure."""
    batch.products("A", "B", "C")
    ran = batch.run(ScriptedGenerator({"A": [step, step]}), canary=1)
    assert "The canary failed: 1 of its 1 rows" in ran.summary.stopped
    assert ran.summary.counts[Status.PENDING] == 2


def test_a_run_that_stops_in_its_canary_tells_its_own_reason(batch: SmallBatch) -> None:
    """A refused key in the canary is told as such, and the rest is not begun."""
    batch.products(*"ABCD")
    generator = ScriptedGenerator({"A": [AuthenticationFailed("The key is refused. Give another.")]})
    ran = batch.run(generator, canary=1)
    assert ran.summary.stopped == "The key is refused. Give another."
    assert len(generator.calls) == 1


def test_rows_that_cost_nothing_need_no_canary(batch: SmallBatch) -> None:
    """What is bought already and only brought to another output is not held up by the canary."""
    batch.products("A", "B", "C")
    batch.run(ScriptedGenerator())
    batch.products(*"ABCDE")
    ran = batch.run(refuses("D"), output=str(batch.root / "other"), canary=1)
    assert ran.summary.exit_code == 3
    generator = ScriptedGenerator()
    again = batch.run(generator, output=str(batch.root / "other"), canary=1)
    assert again.summary.counts == {Status.STORED: 4, Status.REJECTED: 1}
    assert [call.sku for call in generator.calls] == ["E"]


def test_a_canary_keeps_to_the_cap(batch: SmallBatch) -> None:
    """The canary's money is in the run's cap."""
    batch.products(*"ABCD")
    ran = batch.run(ScriptedGenerator(), usd_per_credit=Decimal("0.01"), canary=2, max_cost_usd="0.03", concurrency=1)
    assert ran.summary.spent_usd == Decimal("0.03")
    assert ran.summary.exit_code == 3
