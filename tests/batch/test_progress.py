import re
import time
from decimal import Decimal
from pathlib import Path

import pytest
from scripted_generator import ScriptedGenerator
from small_batch import SmallBatch

from blocks.errors import ContentRejected, InsufficientCredit, OutcomeUnknown
from blocks.image import GeneratedImage, ImageRequest
from flows.batch import progress
from flows.batch.batch_rows import Run, Spent
from flows.batch.progress import COUNT_SHARE, Moment, moment, money, rest_s, shown, status_lines
from flows.batch.row_report import Status

NOTHING = Spent(Decimal(0), Decimal(0), 0, has_unpriced=False)


@pytest.fixture
def batch(tmp_path: Path) -> SmallBatch:
    """A place for files, with two products."""
    found = SmallBatch(tmp_path)
    found.products("A", "B", "C")
    return found


def status(batch: SmallBatch) -> str:
    """What `rowshot status` prints."""
    return "\n".join(status_lines(batch.ledger(), str(batch.output)))


def test_a_moment_counts_what_has_ended() -> None:
    """Rows with an image and rows that failed are done, pending ones are not, and the rate is of bought images."""
    run = Run("r", "out", "a.csv", (), "anycap", started_at=1000.0, ended_at=1030.0)
    counts = {Status.STORED: 1200, Status.FAILED: 2, Status.UNKNOWN: 1, Status.PENDING: 97}
    now = Moment(run, counts, Spent(Decimal("6.005"), Decimal("0.005"), 1200, has_unpriced=False))
    assert (now.rows, now.done, now.failed, now.per_minute) == (1300, 1203, 3, 2400)
    assert str(now).startswith("1,203 of 1,300 rows, 3 failed, 2400 images/min, spent ")


def test_money_says_what_is_in_doubt() -> None:
    """Doubt and unknown prices stand beside the sum, and no doubt is not mentioned."""
    assert money(NOTHING) == "nothing"
    assert "doubt" not in money(Spent(Decimal("0.005"), Decimal(0), 1, has_unpriced=False))
    told = money(Spent(Decimal("12.405"), Decimal("0.005"), 9, has_unpriced=True))
    assert "12.405" in told
    assert "0.005 of it in doubt" in told
    assert "whose price nobody knows" in told


def test_the_status_of_nothing_says_how_to_start(batch: SmallBatch) -> None:
    """An output that is empty is no error."""
    assert "rowshot run FILE.csv --output" in status(batch)


def test_the_status_of_a_run_tells_rows_money_and_its_end(batch: SmallBatch) -> None:
    """Rows by state, the newest run and what it has spent."""
    batch.run(ScriptedGenerator({"A": [ContentRejected("no")], "B": [OutcomeUnknown("cut off")]}))
    told = status(batch)
    for state in ("stored", "rejected", "unknown"):
        assert re.search(rf"^ +1  {state}$", told, re.MULTILINE)
    assert "run of products.csv" in told
    assert told.splitlines()[-2].endswith(", ended")
    assert "3 of 3 rows, 2 failed" in told
    assert "0.005 of it in doubt" in told


def test_the_status_of_a_stopped_run_says_why(batch: SmallBatch) -> None:
    """What ended it early is there for whoever looks the next morning."""
    batch.run(ScriptedGenerator({sku: [InsufficientCredit("no credit left")] for sku in "ABC"}), concurrency=1)
    assert "ended early: no credit left" in status(batch)


def test_the_status_while_a_run_goes_on(batch: SmallBatch) -> None:
    """Another terminal sees what is done so far, and that more is to come."""
    seen: list[str] = []

    class Looks(ScriptedGenerator):
        def generate(self, request: ImageRequest) -> GeneratedImage:
            seen.append(status(batch))
            return super().generate(request)

    batch.run(Looks(), concurrency=1)
    assert all("under way" in told for told in seen)
    assert "pending" in seen[0]
    assert "under way" not in status(batch)


def test_a_redo_is_told_as_one(batch: SmallBatch) -> None:
    """A run without a file is named for what it is."""
    batch.run(ScriptedGenerator())
    batch.redo(ScriptedGenerator(), "A")
    assert "newest: redo, began" in status(batch)


def test_only_runs_since_then_are_a_moment(batch: SmallBatch) -> None:
    """What is shown of this run is never an older one's."""
    batch.run(ScriptedGenerator())
    ledger = batch.ledger()
    assert moment(ledger, str(batch.output)) is not None
    assert moment(ledger, str(batch.output), since=time.time()) is None
    assert moment(ledger, "elsewhere") is None


def test_without_a_terminal_there_are_plain_lines(
    batch: SmallBatch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log gets a line now and then, without colours or a bar, and the watcher ends with the run."""
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.02)

    class Slow(ScriptedGenerator):
        def generate(self, request: ImageRequest) -> GeneratedImage:
            time.sleep(0.1)
            return super().generate(request)

    with shown(batch.ledger(), str(batch.output)):
        batch.run(Slow(), concurrency=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(re.match(r"\d of 3 rows, \d+ images/min, spent ", line) for line in lines)
    time.sleep(0.06)
    assert capsys.readouterr().err == ""


def test_an_error_in_the_run_is_not_hidden_by_its_progress(batch: SmallBatch) -> None:
    """Whatever ends the body comes through."""
    with pytest.raises(ZeroDivisionError), shown(batch.ledger(), str(batch.output)):
        _ = 1 / 0


def test_counting_rests_the_longer_the_longer_it_takes() -> None:
    """A quick count comes as often as it may; a slow one rests until it has taken a small part of the time."""
    assert rest_s(0.001, 0.5) == 0.5
    assert 2.0 / (2.0 + rest_s(2.0, 0.5)) <= COUNT_SHARE
