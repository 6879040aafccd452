import time
from dataclasses import replace
from decimal import Decimal

import pytest
from scripted_generator import Draws, ScriptedGenerator, Step
from small_batch import SmallBatch, dead_process, put_owner, put_state

from blocks.errors import ContentRejected, NoImage, OutcomeUnknown
from flows.batch.batch_rows import Run
from flows.batch.jobs import Batch, InputRow
from flows.batch.ledger_images import Cost
from flows.batch.ledger_tables import State
from flows.batch.owners import Owner
from flows.batch.row_report import RowReport, Status

PRICE = Decimal("0.005")
HALF = Decimal("0.5")  # of a cent, in credits: what the list says


@pytest.fixture
def batch(shop: SmallBatch) -> SmallBatch:
    """A place for files."""
    return shop


def reported(batch: SmallBatch, output: str = "out") -> list[RowReport]:
    """What reports tell of an output."""
    return list(batch.ledger().rows.report(output))


def begin(batch: SmallBatch, name: str, given: Batch, csv: str = "products.csv") -> Run:
    """Begin a run of these rows."""
    run = Run(name, "out", csv, given.columns, "anycap", time.time())
    batch.ledger().rows.begin(run, given.rows)
    return run


def rows_of(batch: SmallBatch, text: str) -> Batch:
    """The rows of a CSV with this text."""
    batch.csv(text)
    return batch.plan(skip_invalid=True).batch


def test_every_row_of_the_file_is_there_with_its_cells(batch: SmallBatch) -> None:
    """Good rows, bad rows and equal rows, in the file's order and with the user's own columns."""
    given = rows_of(batch, "sku,name,color,note\nA,셔츠,blue,=1+1\nB,,red,x\nA,셔츠,blue,other\nC,Cap\n")
    begin(batch, "r1", given)
    found = reported(batch)
    assert [(row.line, row.sku, row.status) for row in found] == [
        (2, "A", Status.PENDING),
        (3, "B", Status.INVALID),
        (4, "A", Status.PENDING),
        (5, "C", Status.INVALID),
    ]
    assert found[0].cells == {"sku": "A", "name": "셔츠", "color": "blue", "note": "=1+1"}
    assert found[2].cells["note"] == "other"
    assert (found[0].run, found[0].generator, found[0].model) == ("r1", "anycap", "nano-banana-2")
    assert found[0].prompt.startswith("이커머스 사진: 셔츠")
    assert (found[1].error_kind, "The cell is empty" in found[1].error) == ("Invalid", True)
    assert found[3].cells == {"sku": "C", "name": "Cap", "color": "", "note": ""}


def test_a_row_with_a_nul_costs_no_other_row(batch: SmallBatch) -> None:
    """PostgreSQL takes no NUL in a text, so the ledger has the row without it; its cells are as they were."""
    begin(batch, "r1", rows_of(batch, "sku,name,color\nA\0B,Shirt,bl\0ue\nC,Cap,red\n"))
    bad, good = reported(batch)
    assert (bad.sku, bad.status, bad.cells["sku"], bad.cells["color"]) == ("AB", Status.INVALID, "A\0B", "bl\0ue")
    assert (good.sku, good.status) == ("C", Status.PENDING)
    begin(batch, "r2", rows_of(batch, "sku,name,color\nA\0B,Shirt,blue\n"), "failures.csv")
    assert [(row.sku, row.run) for row in reported(batch)] == [("C", "r1"), ("AB", "r2")]


def test_a_newer_run_takes_the_place_of_the_rows_that_it_has(batch: SmallBatch) -> None:
    """A row is in an output once; rows of another file stay, and so do those that are no longer in the sheet."""
    begin(batch, "r1", rows_of(batch, "sku,name,color\nA,Shirt,blue\nB,Cap,red\n"))
    begin(batch, "r2", rows_of(batch, "sku,name,color\nB,Cap,green\nC,Bag,red\n"), "other.csv")
    assert [(row.sku, row.run) for row in reported(batch)] == [("A", "r1"), ("B", "r2"), ("C", "r2")]
    assert list(batch.ledger().rows.report("elsewhere")) == []


def test_mended_rows_leave_their_invalid_ones_behind(batch: SmallBatch) -> None:
    """Bad rows of an older run of the same file are forgotten, though their sku be another now; others' are not."""
    begin(batch, "r1", rows_of(batch, "sku,name,color\n,Shirt,blue\nB,Cap,red\n"))
    begin(batch, "r2", rows_of(batch, "sku,name,color\n,Bag,blue\nD,Cap,red\n"), "other.csv")
    begin(batch, "r3", rows_of(batch, "sku,name,color\nA,Shirt,blue\nB,Cap,red\n"))
    found = [(row.sku, row.run, row.status) for row in reported(batch)]
    assert ("", "r1", Status.INVALID) not in found
    assert {("A", "r3", Status.PENDING), ("B", "r3", Status.PENDING), ("D", "r2", Status.PENDING)} <= set(found)


def test_a_malformed_row_that_is_mended_elsewhere_is_forgotten(batch: SmallBatch) -> None:
    """A row that was mended through failures.csv is invalid no more; one that was not yet is still."""
    begin(batch, "r1", rows_of(batch, "sku,name,color\nA,Shirt, long,blue\nB,Cap\nC,Bag\n"))
    begin(batch, "r2", rows_of(batch, 'sku,name,color\nA,"Shirt, long",blue\nB,Cap\n'), "failures.csv")
    assert [(row.sku, row.run, row.status) for row in reported(batch)] == [
        ("C", "r1", Status.INVALID),
        ("A", "r2", Status.PENDING),
        ("B", "r2", Status.INVALID),
    ]


def test_a_malformed_row_of_a_run_that_goes_on_stays(batch: SmallBatch) -> None:
    """What a living run reports is not taken from it, though its row is mended elsewhere meanwhile."""
    begin(batch, "r1", rows_of(batch, "sku,name,color\nA,Shirt, long,blue\n"))
    with batch.ledger().owning("r1"):
        begin(batch, "r2", rows_of(batch, 'sku,name,color\nA,"Shirt, long",blue\n'), "failures.csv")
        assert [row.status for row in batch.ledger().rows.report("out", "r1")] == [Status.INVALID]


def test_rows_of_a_run_that_goes_on_stay(batch: SmallBatch) -> None:
    """A second run of the same rows does not take them from under a living one; the output shows the newer ones."""
    given = rows_of(batch, "sku,name,color\nA,Shirt,blue\n")
    ledger = batch.ledger()
    begin(batch, "r1", given)
    with ledger.owning("r1"):
        begin(batch, "r2", given)
        assert [row.run for row in ledger.rows.report("out", "r1")] == ["r1"]
        assert [row.run for row in reported(batch)] == ["r2"]
    begin(batch, "r3", given)
    assert [row.run for row in reported(batch)] == ["r3"]
    assert list(ledger.rows.report("out", "r1")) == []


def test_a_run_that_begins_twice_has_its_rows_once(batch: SmallBatch) -> None:
    """A run that is started over has the file's rows as they are now, though its columns have changed meanwhile."""
    begin(batch, "r1", rows_of(batch, "sku,name,color\nA,Shirt,blue\nB,Cap,red\n"))
    begin(batch, "r1", rows_of(batch, "sku,name,color,note\nA,Shirt,blue,new\n"))
    (found,) = reported(batch)
    assert found.cells == {"sku": "A", "name": "Shirt", "color": "blue", "note": "new"}
    assert batch.ledger().rows.counts("out", "r1") == {Status.PENDING: 1}


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State.PENDING, Status.PENDING),
        (State.FAILED, Status.FAILED),
        (State.REJECTED, Status.REJECTED),
        (State.UNKNOWN, Status.UNKNOWN),
        (State.LOST, Status.LOST),
        (State.RESERVED, Status.PENDING),
        (State.SUBMITTED, Status.UNKNOWN),
        (State.BOUGHT, Status.STORED),
    ],
)
def test_a_rows_status_is_told_from_its_image(batch: SmallBatch, state: State, status: Status) -> None:
    """Reports, counts and the state of the ledger say the same, and only rows with an image name a file."""
    batch.products("A")
    batch.run(ScriptedGenerator())
    ledger = batch.ledger()
    put_state(ledger, state, owner="gone")
    row = batch.report("A")
    assert row.status is status
    assert ledger.rows.counts(str(batch.output)) == {status: 1}
    assert bool(row.path) is bool(row.thumbnail) is status.has_image


def test_a_call_under_way_is_pending_while_its_run_lives(batch: SmallBatch) -> None:
    """Only once its holder is dead is a call's outcome unknown, and the report says that it will be looked up."""
    batch.products("A")
    batch.run(ScriptedGenerator())
    ledger = batch.ledger()
    with ledger.owning("r2") as owner:
        put_state(ledger, State.SUBMITTED, owner=owner.id)
        assert batch.report("A").status is Status.PENDING
    row = batch.report("A")
    assert (row.status, row.error_kind) == (Status.UNKNOWN, "OutcomeUnknown")
    assert "costs nothing" in row.error
    pid, started = dead_process()
    put_owner(ledger, Owner("dead", "r0", owner.host), pid=pid, started=started, alive_until=time.time() + 99)
    put_state(ledger, State.SUBMITTED, owner="dead")
    assert batch.report("A").status is Status.UNKNOWN


def test_bought_elsewhere_is_bought_and_not_stored_here(batch: SmallBatch) -> None:
    """An image whose file is in another output only has no path in this one."""
    batch.products("A")
    batch.run(ScriptedGenerator())
    begin(batch, "r2", batch.plan().batch)
    (row,) = reported(batch)
    assert (row.status, row.path) == (Status.BOUGHT, "")


def test_the_previous_images_are_those_that_rows_show(batch: SmallBatch) -> None:
    """Only rows with a bought image count as having had one."""
    batch.products("A", "B")
    batch.run(ScriptedGenerator({"B": [ContentRejected("no")]}))
    (first, _) = batch.jobs()
    rows = batch.ledger().rows
    assert rows.previous(str(batch.output)) == {("A", "product"): ("anycap", first.fingerprint)}
    assert rows.previous("elsewhere") == {}


def test_what_a_run_has_spent_is_told_exactly(batch: SmallBatch) -> None:
    """Bought, paid for nothing, and in doubt, each counted once, and free calls not at all."""
    batch.products(*"ABCDE")
    script: dict[str, list[Step]] = {
        "A": [NoImage("nothing", credits_used=HALF), Draws(credits_used=HALF)],
        "B": [OutcomeUnknown("cut off")],
        "C": [ContentRejected("no")],
        "D": [Draws(credits_used=Decimal("0.25"))],
        "E": [Draws(credits_used=HALF)],
    }
    ran = batch.run(ScriptedGenerator(script), usd_per_credit=Decimal("0.01"))
    spent = batch.ledger().rows.spent(ran.run.id)
    assert spent.bought == 3
    assert spent.usd == 2 * PRICE + PRICE + PRICE / 2 + PRICE
    assert (spent.in_doubt_usd, spent.has_unpriced) == (PRICE, False)
    assert batch.ledger().rows.spent("another").usd == 0


def test_calls_without_a_price_are_told(batch: SmallBatch) -> None:
    """A sum that leaves something out says so."""
    batch.csv("sku,name,color,model\nA,Shirt,blue,next-year\n")
    ran = batch.run(ScriptedGenerator(), allow_unknown_model=True)
    spent = batch.ledger().rows.spent(ran.run.id)
    assert (spent.bought, spent.has_unpriced) == (1, True)
    assert spent.usd == 0
    assert batch.report("A").price_usd is None
    assert Cost(None).usd is None


def test_the_newest_run_is_found(batch: SmallBatch) -> None:
    """A redo is a run too, but none of a file; and a run says how it ended."""
    rows = batch.ledger().rows
    assert rows.newest_run("out") is None
    rows.begin(Run("r1", "out", "a.csv", ("sku",), "anycap", 1.0), [])
    rows.begin(Run("r2", "out", "", (), "anycap", 2.0), [])
    newest, of_csv = rows.newest_run("out"), rows.newest_run("out", of_csv=True)
    assert newest is not None
    assert of_csv is not None
    assert (newest.id, of_csv.id, of_csv.outcome, of_csv.columns) == ("r2", "r1", "running", ("sku",))
    rows.end("r1", "stopped", "no credit")
    ended = rows.newest_run("out", of_csv=True)
    assert ended is not None
    assert (ended.outcome, ended.reason) == ("stopped", "no credit")
    assert ended.ended_at is not None


def test_a_row_shows_another_image_of_its_own(batch: SmallBatch) -> None:
    """After a redo all rows of that sku and template show it, and no other row does."""
    given = rows_of(
        batch, "sku,name,color,template\nA,Shirt,blue,\nA,Shirt,blue,\nA,Shirt,blue,product_hero\nB,Cap,red,\n"
    )
    begin(batch, "r1", given)
    job = replace(given.jobs[0], fingerprint="f" * 64, prompt="softer")
    batch.ledger().rows.show_image("out", job)
    assert [row.prompt == "softer" for row in reported(batch)] == [True, True, False, False]


def test_many_rows_begin_at_once(batch: SmallBatch) -> None:
    """Five thousand rows are put down and put down again in a blink."""
    many = tuple(InputRow(line, f"S{line}", "product", (f"S{line}",), None, "bad") for line in range(2, 5002))
    given = Batch("products.csv", ("sku",), many, (), ())
    began = time.monotonic()
    begin(batch, "r1", given)
    begin(batch, "r2", given)
    assert time.monotonic() - began < 10
    assert batch.ledger().rows.counts("out") == {Status.INVALID: 5000}
