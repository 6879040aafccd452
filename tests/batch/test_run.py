import csv
import os
import re
from decimal import Decimal
from pathlib import Path

import pytest
from scripted_generator import Draws, ScriptedGenerator
from small_batch import SmallBatch, table

from blocks.errors import ContentRejected, InsufficientCredit, NoImage, OutcomeUnknown, ServiceUnavailable
from flows.batch.ledger_tables import State
from flows.batch.problems import NotStarted
from flows.batch.report import MANIFEST_COLUMNS
from flows.batch.request import Request
from flows.batch.row_report import Status
from flows.batch.run import BatchRun

TEXT = (
    "sku,name,color,note\n"
    "A,Shirt,blue,first\n"
    "B,Cap,red,refused\n"
    "C,Bag,red,down\n"
    "D,,red,no name\n"
    "A,Shirt,blue,again\n"
    'E,"Belt, long",red,"two\nlines"\n'
)


@pytest.fixture
def batch(tmp_path: Path) -> SmallBatch:
    """A place for files."""
    return SmallBatch(tmp_path)


def mixed() -> ScriptedGenerator:
    """A generator with whom two rows of TEXT fail."""
    return ScriptedGenerator({"B": [ContentRejected("a weapon")], "C": [ServiceUnavailable("down")]})


RAGGED = "sku,name,color\nA,Shirt,blue\nB,Desk Lamp, Arc,green\nC,Cap\n"


def rows_in(path: Path) -> list[list[str]]:
    """A CSV's rows, however long."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def test_a_row_of_too_many_or_too_few_cells_is_refused_until_it_is_mended(batch: SmallBatch) -> None:
    """failures.csv has such a row as it was, its error behind it: fed back as it is, it buys no wrong image."""
    batch.csv(RAGGED)
    batch.run(ScriptedGenerator(), skip_invalid=True)
    failures = batch.output / "failures.csv"
    header, *rows = rows_in(failures)
    assert header == ["sku", "name", "color", "rowshot_error"]
    assert [row[:-1] for row in rows] == [["B", "Desk Lamp", " Arc", "green"], ["C", "Cap"]]
    assert ["4 cells" in rows[0][-1], "2 cells" in rows[1][-1]] == [True, True]
    assert [row["color"] for row in table(batch.output / "results.csv")] == ["blue", " Arc", ""]

    for _ in range(2):
        again, generator = batch.csv(failures.read_text(encoding="utf-8-sig"), "again.csv"), ScriptedGenerator()
        batch.run(generator, skip_invalid=True, csv=str(again))
        assert generator.calls == []
        assert [row[:-1] for row in rows_in(failures)] == [header[:-1], *(row[:-1] for row in rows)]


def test_a_run_leaves_all_its_reports(batch: SmallBatch) -> None:
    """Manifest, results, failures and contact sheet agree, in the output and in the run's own folder."""
    batch.csv(TEXT)
    ran = batch.run(mixed(), skip_invalid=True)
    manifest = table(batch.output / "manifest.csv")
    assert tuple(manifest[0]) == MANIFEST_COLUMNS
    assert [(row["line"], row["sku"], row["status"]) for row in manifest] == [
        ("2", "A", "stored"),
        ("3", "B", "rejected"),
        ("4", "C", "failed"),
        ("5", "D", "invalid"),
        ("7", "E", "stored"),
    ]
    for row in manifest:
        assert bool(row["path"]) is (row["status"] == "stored")
        if row["path"]:
            assert (batch.output / row["path"]).is_file()
            assert (row["credits_used"], row["price_usd"], row["attempts"]) == ("1", "0.005", "1")
    results = table(batch.output / "results.csv")
    assert [row["image_status"] for row in results] == ["stored", "rejected", "failed", "invalid", "stored", "stored"]
    assert results[0]["image_path"] == results[4]["image_path"] != ""
    assert list(results[0]) == ["sku", "name", "color", "note", "image_status", "image_path", "image_url"]
    assert results[5]["note"] == "two\nlines"
    failures = table(batch.output / "failures.csv")
    assert [(row["sku"], row["note"]) for row in failures] == [("B", "refused"), ("C", "down"), ("D", "no name")]
    assert [row["rowshot_error"].split()[0] for row in failures] == ["a", "down", "The"]
    sheet = (batch.output / "index.html").read_text()
    assert "products.csv" in sheet
    (folder,) = (batch.output / "runs").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-products", folder.name)
    assert {path.name for path in folder.iterdir()} == {"manifest.csv", "results.csv", "failures.csv", "index.html"}
    assert table(folder / "results.csv") == results
    counts = {Status.STORED: 3, Status.FAILED: 1, Status.REJECTED: 1, Status.INVALID: 1}
    assert ran.summary.counts == counts
    assert (ran.summary.images, ran.summary.failed, ran.summary.bought, ran.summary.exit_code) == (3, 3, 2, 1)


def test_the_summary_tells_a_person_what_became_of_it(batch: SmallBatch) -> None:
    """Counts, money, failures by kind with an example, and where to look."""
    batch.csv(TEXT)
    told = "\n".join(batch.run(mixed(), skip_invalid=True).summary.lines())
    assert "3 of 6 rows have their image, 1 failed, 1 rejected, 1 invalid" in told
    assert "2 bought now ($0.01)" in told
    assert "1  ContentRejected, e.g. line 3, B: a weapon" in told
    assert str(batch.output / "failures.csv") in told
    assert str(batch.output / "index.html") in told


def test_a_run_that_buys_nothing_says_so(batch: SmallBatch) -> None:
    """The second run of a file ends well, and its reports show all images."""
    batch.products("A", "B")
    batch.run(ScriptedGenerator())
    ran = batch.run(ScriptedGenerator())
    assert ran.summary.exit_code == 0
    assert "nothing was bought now" in "\n".join(ran.summary.lines())
    assert [row["image_status"] for row in table(batch.output / "results.csv")] == ["stored", "stored"]
    assert ran.summary.failures_csv is None


def test_money_that_brought_no_image_is_told_at_the_end(batch: SmallBatch) -> None:
    """What was paid for nothing and what is in doubt are in the last lines, though nothing was bought."""
    batch.products("A", "B")
    nothing = NoImage("no outputs", credits_used=Decimal(1))
    ran = batch.run(ScriptedGenerator({"A": [nothing, nothing], "B": [OutcomeUnknown("cut off")]}))
    told = "\n".join(ran.summary.lines())
    assert "$0.015" in told
    assert "$0.005 of it in doubt" in told


def test_failures_are_a_valid_input(batch: SmallBatch) -> None:
    """failures.csv goes in as it came out; what is mended gets its image, and the file goes when none is left."""
    batch.csv(TEXT)
    batch.run(mixed(), skip_invalid=True)
    failures = batch.output / "failures.csv"
    failures.write_text(failures.read_text(encoding="utf-8-sig").replace("D,,red", "D,Dress,red"), encoding="utf-8")
    generator = ScriptedGenerator()
    ran = batch.run(generator, csv=str(failures), retry_rejected=True)
    assert ran.summary.exit_code == 0
    assert sorted(request.sku for request in generator.calls) == ["B", "C", "D"]
    assert not failures.exists()
    assert list(table(batch.output / "results.csv")[0])[:4] == ["sku", "name", "color", "note"]
    assert {row["sku"]: row["status"] for row in table(batch.output / "manifest.csv")} == dict.fromkeys(
        "ABCDE", "stored"
    )


def test_results_are_a_valid_input(batch: SmallBatch) -> None:
    """results.csv fed back in buys nothing, and its image columns do not double."""
    batch.products("A")
    batch.run(ScriptedGenerator())
    generator = ScriptedGenerator()
    ran = batch.run(generator, csv=str(batch.output / "results.csv"))
    assert (generator.calls, ran.summary.exit_code) == ([], 0)
    columns = ["sku", "name", "color", "image_status", "image_path", "image_url"]
    assert list(table(batch.output / "results.csv")[0]) == columns


def test_two_files_share_an_output(batch: SmallBatch) -> None:
    """The manifest has the rows of both, results.csv those of the newest file."""
    batch.products("A", "B")
    batch.run(ScriptedGenerator())
    batch.products("C", name="more.csv")
    ran = batch.run(ScriptedGenerator(), csv=str(batch.root / "more.csv"))
    assert [row["sku"] for row in table(batch.output / "manifest.csv")] == ["A", "B", "C"]
    assert [row["sku"] for row in table(batch.output / "results.csv")] == ["C"]
    assert ran.summary.counts == {Status.STORED: 1}
    assert len(list((batch.output / "runs").iterdir())) == 2


def test_one_sku_in_two_files_is_shown_as_the_newest_has_it(batch: SmallBatch) -> None:
    """Of a sku and template the output has one row, the newest."""
    batch.products("A")
    batch.run(ScriptedGenerator())
    batch.products("A", color="green", name="more.csv")
    batch.run(ScriptedGenerator(), csv=str(batch.root / "more.csv"))
    (row,) = table(batch.output / "manifest.csv")
    assert "green" in row["prompt"]
    assert len(list((batch.output / "images" / "product").iterdir())) == 2, "the old file stays"


def test_the_limit_leaves_the_rest_pending_and_ends_well(batch: SmallBatch) -> None:
    """--limit is no failure: the rest is pending, and the next run goes on."""
    batch.products("A", "B", "C")
    generator = ScriptedGenerator()
    ran = batch.run(generator, limit=2)
    assert (ran.summary.exit_code, ran.summary.counts) == (0, {Status.STORED: 2, Status.PENDING: 1})
    assert ran.summary.failures_csv is None
    assert batch.run(generator, limit=2).summary.counts == {Status.STORED: 3}
    assert generator.charges == 3


def test_a_run_that_stops_reports_what_it_has(batch: SmallBatch) -> None:
    """Images that were bought are in the reports, the rest is pending and no failure, and the run says why."""
    batch.products("A", "B", "C")
    ran = batch.run(ScriptedGenerator({"B": [InsufficientCredit("no credit left")]}), concurrency=1)
    assert ran.summary.exit_code == 3
    assert "Ended early: no credit left" in "\n".join(ran.summary.lines())
    found = {row["sku"]: row["image_status"] for row in table(batch.output / "results.csv")}
    assert found["B"] == "pending"
    assert set(found.values()) <= {"stored", "pending"}
    assert not (batch.output / "failures.csv").exists()
    newest = batch.ledger().rows.newest_run(str(batch.output))
    assert newest is not None
    assert (newest.outcome, newest.reason) == ("stopped", "no credit left")


def test_an_output_that_cannot_be_written_stops_before_anything_is_bought(batch: SmallBatch) -> None:
    """A folder below a file is a bad option, like any other: nothing is started."""
    batch.products("A")
    (batch.root / "file").write_text("x")
    settings = batch.settings(output=str(batch.root / "file" / "output"))
    run = batch.open(settings)
    with pytest.raises(NotStarted, match="another --output"):
        run.begin("anycap", batch.plan().batch)
    assert batch.ledger().rows.newest_run(run.output.name) is None


def test_the_switches_of_a_run_are_its_states(batch: SmallBatch) -> None:
    """Each switch allows its own state and no other."""
    request = Request.of(batch.settings())
    assert (request.again, request.name, request.concurrency) == (frozenset(), "products.csv", 4)
    switches = {"retry_rejected": State.REJECTED, "retry_unknown": State.UNKNOWN, "rebuy_lost": State.LOST}
    for switch, state in switches.items():
        assert Request.of(batch.settings(**{switch: True})).again == {state}


def test_a_run_takes_the_id_that_it_is_given(batch: SmallBatch) -> None:
    """A run that is started over is the same run; without an id it gets one of its own."""
    request = Request.of(batch.settings())
    assert BatchRun.open(request, "flow-run-1").id == "flow-run-1"
    assert len({BatchRun.open(request).id for _ in range(3)}) == 3


def test_the_contact_sheets_links_lead_to_files(batch: SmallBatch) -> None:
    """From the output's sheet and from the run's own, every picture is found."""
    batch.csv('sku,name,color\n"a/b <x>",Shirt,blue\n')
    batch.run(ScriptedGenerator({"a/b <x>": [Draws(kind="WEBP")]}))
    (run_sheet,) = (batch.output / "runs").glob("*/index.html")
    for sheet in (batch.output / "index.html", run_sheet):
        text = sheet.read_text(encoding="utf-8")
        assert "<x>" not in text
        links = set(re.findall(r"\.{1,2}/(?:\.\./)*(?:images|thumbs)/product/[\w.-]+", text))
        assert len(links) >= 2
        for link in links:
            assert Path(os.path.normpath(sheet.parent / link)).is_file()
