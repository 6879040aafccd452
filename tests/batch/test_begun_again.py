"""A run that begins anew under its own id, as a flow run that is retried or resumed: what it was allowed is used."""

from pathlib import Path

import pytest
from scripted_generator import DRAWS, ScriptedGenerator
from small_batch import SmallBatch

from blocks.errors import OutcomeUnknown, ServiceUnavailable
from flows.batch.row_report import Status

RUN = "11111111-1111-1111-1111-111111111111"


@pytest.fixture
def batch(tmp_path: Path) -> SmallBatch:
    """A place for files, with four products."""
    found = SmallBatch(tmp_path)
    found.products("A", "B", "C", "D")
    return found


def test_its_limit_is_that_of_the_whole_run(batch: SmallBatch) -> None:
    """Two images in all, however often it begins; the next run has two of its own."""
    generator = ScriptedGenerator()
    for _ in range(3):
        assert batch.run(generator, run_id=RUN, limit=2).summary.exit_code == 0
    assert generator.charges == 2
    batch.run(generator, limit=2)
    assert generator.charges == 4


def test_a_row_that_has_failed_is_tried_again_within_the_limit(batch: SmallBatch) -> None:
    """It was one of the two before, and is one of the two again."""
    generator = ScriptedGenerator({"A": [ServiceUnavailable("busy")]})
    batch.run(generator, run_id=RUN, limit=2)
    batch.run(generator, run_id=RUN, limit=2)
    assert sorted(made.sku for made in generator.calls) == ["A", "A", "B"]


def test_the_word_to_buy_again_is_used_up(batch: SmallBatch) -> None:
    """A row of unknown outcome is bought again once: if that is unknown too, the same run does not go on and on."""
    cut_off = OutcomeUnknown("cut off")
    generator = ScriptedGenerator({"A": [cut_off, cut_off, DRAWS]})
    batch.run(generator)
    for _ in range(3):
        batch.run(generator, run_id=RUN, retry_unknown=True)
    assert generator.calls_of("A") == 2
    assert batch.report("A").status is Status.UNKNOWN
    batch.run(generator, retry_unknown=True)
    assert batch.report("A").status is Status.STORED
