from pathlib import Path

import pytest

from flows.batch.batch_rows import Run
from flows.batch.ledger import Ledger
from flows.batch.problems import NotStarted
from flows.batch.withdrawal import find_run

KEY = ("a", "product", "f" * 64)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger with two runs that have published and one that hasn't."""
    made = Ledger.open(str(tmp_path / "ledger.sqlite3"))
    for number, run in enumerate(("aa-1", "aa-2", "bb-3")):
        made.rows.begin(Run(run, "output", "x.csv", (), "proof", float(number)), ())
    made.deliveries.publishing("cms-site/one", "aa-1", {KEY: ("https://x.example/1", None)})
    made.deliveries.publishing("cms-site/two", "aa-2", {KEY: ("https://x.example/2", None)})
    return made


def test_a_run_is_found_by_how_its_id_begins(ledger: Ledger) -> None:
    """As with a commit: as much of it as is needed."""
    assert find_run(ledger, "aa-1") == "aa-1"
    assert find_run(ledger, "aa-2") == "aa-2"


@pytest.mark.parametrize(
    ("given", "told"), [("aa", "Several runs"), ("bb-3", "No run 'bb-3'"), ("", "No run"), ("%", "No run")]
)
def test_what_is_no_run_is_told_with_those_that_are(ledger: Ledger, given: str, told: str) -> None:
    """Ambiguous, unknown, or without anything published: the error lists the runs that have."""
    with pytest.raises(NotStarted, match=told) as error:
        find_run(ledger, given)
    assert "aa-2 (1970-01-01 00:00 UTC), aa-1" in str(error.value)


def test_a_ledger_without_any(tmp_path: Path) -> None:
    """It says so, and names the option for another ledger."""
    with pytest.raises(NotStarted, match="--ledger"):
        find_run(Ledger.open(str(tmp_path / "other.sqlite3")), "aa")
