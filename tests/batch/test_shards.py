"""Shards: jobs that go through the ledger unchanged, what a shard is told apart by, and money that is the run's."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from scripted_generator import ScriptedGenerator
from small_batch import SmallBatch, buy, put_state
from sqlalchemy import select

from flows.batch.finish import Finish, Fit
from flows.batch.jobs import Job
from flows.batch.ledger import Ledger
from flows.batch.ledger_database import connect, ledger_url
from flows.batch.ledger_tables import SCHEMA_VERSION, State, meta, shards
from flows.batch.plan import left_of
from flows.batch.problems import NotStarted
from flows.batch.report import Report
from flows.batch.run import BatchRun
from flows.batch.shard_run import end_shard, taken
from flows.batch.shards import ShardState, cut


@pytest.fixture
def batch(tmp_path: Path) -> SmallBatch:
    """A batch of five products."""
    batch = SmallBatch(tmp_path)
    batch.products("A", "B", "C", "D", "E")
    return batch


def begun(batch: SmallBatch, rows: int, **changes: Any) -> tuple[BatchRun, Sequence[int], Sequence[Job]]:
    """A run whose jobs are cut into shards; gives their numbers, and all jobs."""
    jobs = batch.jobs(**changes)
    run = batch.open(batch.settings(**changes))
    run.begin("anycap")
    return run, run.ledger.shards.put(run.id, cut(jobs, rows)), jobs


def part(batch: SmallBatch, run: BatchRun, **changes: Any) -> BatchRun:
    """The same run as a shard's process has it."""
    other = batch.open(batch.settings(**changes))
    other.id = run.id
    return other


def test_jobs_come_out_of_the_ledger_as_they_went_in(batch: SmallBatch) -> None:
    """Every field of a job is the same on the other side, also those that few jobs have."""
    run, _, jobs = begun(batch, 2)
    odd = replace(
        jobs[0],
        params={"aspect_ratio": "1:1"},
        finish=Finish(1200, 630, Fit.PAD, "webp"),
        variant="b",
        redo_of="0" * 64,
        prompt="a \ud800 shirt, 셔츠",
    )
    (number,) = run.ledger.shards.put(run.id, [[odd, jobs[1]]])
    assert run.ledger.shards.jobs(run.id, number) == [odd, jobs[1]]


def test_shards_are_numbered_on_and_hold_every_job_once(batch: SmallBatch) -> None:
    """Five jobs by two are three shards, in their order; what is added later gets numbers of its own."""
    run, numbers, jobs = begun(batch, 2)
    assert numbers == [1, 2, 3]
    assert [job for number in numbers for job in run.ledger.shards.jobs(run.id, number) or ()] == list(jobs)
    assert run.ledger.shards.put(run.id, [jobs[:1]]) == [4]
    assert [len(part) for part in cut(jobs, 0)] == [5]


def test_a_shard_is_held_by_whoever_has_taken_it_until_that_ends(batch: SmallBatch) -> None:
    """Waiting, under way with a live holder, left without an end by one that broke off, and ended."""
    run, (number, *_), _ = begun(batch, 2)

    def now() -> tuple[ShardState, bool]:
        (shard,) = run.ledger.shards.of_run(run.id, [number])
        return shard.state, shard.is_held

    def break_off() -> None:
        with taken(part(batch, run), number):
            raise RuntimeError(str(now()))

    with pytest.raises(RuntimeError, match=r"under-way.*True"):
        break_off()
    assert now() == (ShardState.UNDER_WAY, False)
    again = part(batch, run)
    with taken(again, number):
        end_shard(again, number)
    assert now() == (ShardState.ENDED, False)


def test_a_ledger_that_does_not_have_the_shard_is_told(batch: SmallBatch, tmp_path: Path) -> None:
    """A worker with another ledger than the run's starts nothing, and says which setting to mend."""
    run, (number, *_), _ = begun(batch, 2)
    elsewhere = part(batch, run, ledger=str(tmp_path / "other.sqlite3"))
    with pytest.raises(NotStarted, match="ROWSHOT_LEDGER"), taken(elsewhere, number):
        pass


def test_a_run_s_cap_holds_over_its_shards(batch: SmallBatch) -> None:
    """Three images fit under the cap: the second shard buys one, and says that the run's cap is reached."""
    money = {"max_cost_usd": "0.015"}
    run, (first, second, _), _ = begun(batch, 2, **money)
    generator = ScriptedGenerator()
    for number in (first, second):
        one = part(batch, run, **money)
        one.slots.allow(1)
        with taken(one, number) as jobs:
            buy(one, generator, left_of(jobs, one).todo)
            end_shard(one, number)
    assert generator.charges == 3
    assert run.ledger.budgets.of_run(run.id) == Decimal("0.015")
    ended, stopped, waiting = run.ledger.shards.of_run(run.id)
    assert (ended.state, stopped.state, waiting.state) == (ShardState.ENDED, ShardState.STOPPED, ShardState.WAITING)
    assert "cap of $0.015 is reached" in stopped.reason


def test_a_shard_that_is_tried_again_takes_up_what_is_left(batch: SmallBatch) -> None:
    """What the first try has bought is not among its jobs; what it has bought in vain is not bought anew, although the
    run may buy rows of unknown outcome.
    """
    run, (number, _), jobs = begun(batch, 3, retry_unknown=True)
    run.ledger.shards.next_try(run.id, number)
    one = part(batch, run, retry_unknown=True)
    with taken(one, number):
        buy(one, ScriptedGenerator(), jobs[:1])
    put_state(run.ledger, State.UNKNOWN)
    with taken(one, number):
        buy(one, ScriptedGenerator(), jobs[1:2])
    assert [job.sku for job in left_of(jobs[:3], one).todo] == ["C"]


def test_what_shards_were_to_buy_is_forgotten_once_they_have_ended(batch: SmallBatch) -> None:
    """The ledger doesn't grow by it; a shard that may still be started keeps its jobs."""
    run, (first, second, _), _ = begun(batch, 2)
    run.ledger.shards.end(run.id, first, ShardState.ENDED)
    run.ledger.shards.forget_jobs(run.id)
    assert run.ledger.shards.jobs(run.id, first) == []
    assert len(run.ledger.shards.jobs(run.id, second) or ()) == 2


def test_an_older_ledger_gets_the_table(batch: SmallBatch) -> None:
    """A ledger of before there were shards takes some, and stays one that its own Rowshot can read."""
    shards.drop(connect(ledger_url(batch.where)))
    ledger = Ledger.open(batch.where)
    assert ledger.shards.put("run", [[]]) == [1]
    with ledger.reading() as connection:
        assert connection.scalar(select(meta.c.value).where(meta.c.name == "schema")) == str(SCHEMA_VERSION)


def test_reports_hold_no_row_but_the_one_at_hand(batch: SmallBatch) -> None:
    """A run's reports read its rows from the ledger each time, and don't keep them."""
    ran = batch.run(ScriptedGenerator())
    report = ran.run.last_report
    assert isinstance(report, Report)
    assert not isinstance(report.rows, Sequence)
    assert [row.sku for row in report.rows] == [row.sku for row in report.rows] == list("ABCDE")
