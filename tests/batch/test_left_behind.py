"""What runs leave behind that were ended or died, and how the next one puts it right."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from scripted_generator import ScriptedGenerator
from small_batch import SmallBatch, buy, dead_process, put_owner
from sqlalchemy import delete, select

from blocks.errors import LeftRunning, OutcomeUnknown
from blocks.image import GeneratedImage, ImageRequest
from flows.batch import owners as owners_module
from flows.batch import purchase
from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import State, owners
from flows.batch.owners import Owner
from flows.batch.row_report import Status
from flows.batch.slots import RunStopped, Slots
from flows.batch.stores import UNUSED_S, OutputFolder


@dataclass
class Leaves(ScriptedGenerator):
    """A generator whose calls go on by themselves once their caller has left."""

    asked: list[ImageRequest] = field(default_factory=list)

    def generate(self, request: ImageRequest) -> GeneratedImage:
        """Wait until the caller leaves."""
        self.asked.append(request)
        assert request.left.wait(10)
        raise LeftRunning("It goes on.")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purchase, "POLL_S", 0.02)


@pytest.fixture
def batch(shop: SmallBatch) -> SmallBatch:
    """A place for files, with two products."""
    shop.products("A", "B")
    return shop


def names_of(ledger: Ledger) -> set[str]:
    """The holders that the ledger knows."""
    with ledger._database.reading() as connection:
        return set(connection.execute(select(owners.c.owner)).scalars())


def test_an_interrupted_run_gives_calls_their_time_and_begins_none() -> None:
    """From the interruption on no slot is given out; those who hold one are told to leave when the time is over."""
    slots = Slots(2)
    with slots.hold():
        slots.interrupt("Enough.", 0.2)
        assert not slots.left.is_set()
        with pytest.raises(RunStopped, match="Enough"), slots.hold():
            pass
        assert slots.left.wait(5)
    assert slots.interrupted
    slots.interrupt("Again.", 100)
    assert str(slots.stopped) == "Enough."


def test_a_call_that_is_left_running_is_adopted_by_the_next_run(batch: SmallBatch) -> None:
    """Its row is in doubt in the reports, and neither failed nor bought anew: the next run waits for its image."""
    leaves = Leaves()
    settings = batch.settings(concurrency=1)
    run = batch.open(settings)
    plan = batch.plan()
    run.begin("anycap", plan.batch)
    run.slots.left.set()
    first, *_ = plan.todo
    outcomes = buy(run, leaves, [first])
    summary = run.finish()
    assert isinstance(outcomes["A"], LeftRunning)
    assert summary.counts == {Status.PENDING: 1, Status.UNKNOWN: 1}
    assert batch.ledger().standings([first.key])[first.key].state is State.SUBMITTED
    assert leaves.asked[0].folder.is_dir()

    generator = ScriptedGenerator()
    ran = batch.run(generator)
    assert ran.summary.exit_code == 0
    assert [request.folder for request, _ in generator.recovered] == [leaves.asked[0].folder]
    assert [request.sku for request in generator.calls] == ["B"]
    assert not leaves.asked[0].folder.exists()


def test_a_call_whose_end_nobody_knows_is_bought_again_on_the_users_word_at_once(batch: SmallBatch) -> None:
    """The run that finds out that nobody can tell buys anew, where it was allowed to; otherwise it says unknown."""
    run = batch.open(batch.settings())
    plan = batch.plan()
    run.begin("anycap", plan.batch)
    run.slots.left.set()
    buy(run, Leaves(), plan.todo)
    run.finish()
    lost = ScriptedGenerator(recoveries={"A": [OutcomeUnknown("?")], "B": [OutcomeUnknown("?")]})
    ran = batch.run(lost, limit=1)
    assert (len(lost.recovered), len(lost.calls)) == (2, 0)
    assert ran.summary.counts == {Status.UNKNOWN: 2}
    assert batch.run(ScriptedGenerator()).summary.exit_code == 1
    again = ScriptedGenerator()
    assert batch.run(again, retry_unknown=True).summary.exit_code == 0
    assert len(again.calls) == 2


def test_the_word_is_enough_in_the_run_that_finds_out(batch: SmallBatch) -> None:
    """With --retry-unknown a dead run's call that can't be told is bought anew in the same run."""
    run = batch.open(batch.settings())
    plan = batch.plan()
    run.begin("anycap", plan.batch)
    run.slots.left.set()
    buy(run, Leaves(), plan.todo)
    run.finish()
    generator = ScriptedGenerator(recoveries={"A": [OutcomeUnknown("?")], "B": [OutcomeUnknown("?")]})
    assert batch.run(generator, retry_unknown=True).summary.exit_code == 0
    assert (len(generator.recovered), len(generator.calls)) == (2, 2)


def test_folders_of_settled_calls_are_cleared_away(batch: SmallBatch) -> None:
    """A call's folder goes once its image is kept or it cost nothing; what may be of worth stays, whoever's it is."""
    batch.run(ScriptedGenerator())
    output = OutputFolder.of(str(batch.output))
    calls = batch.output / ".rowshot" / "calls"
    ages = {"bought": 0.0, "in doubt": 0.0, "foreign": 2 * UNUSED_S, "empty": 2 * UNUSED_S, "just made": 0.0}
    for name, age_s in ages.items():
        (calls / name).mkdir()
        if name not in {"empty", "just made"}:
            (calls / name / "answer.json").touch()
        os.utime(calls / name, (time.time() - age_s,) * 2)

    def settled(names: Iterable[str]) -> dict[str, bool]:
        return {name: name == "bought" for name in names if name in {"bought", "in doubt"}}

    output.clear_calls(settled, UNUSED_S)
    assert {folder.name for folder in calls.iterdir()} == {"in doubt", "foreign", "just made"}
    output.clear_calls(settled, 0.0)
    assert {folder.name for folder in calls.iterdir()} == {"in doubt", "foreign"}


def test_the_ledger_knows_which_calls_are_settled(batch: SmallBatch) -> None:
    """A bought call and a free one are; one in doubt is not; and of others it says nothing."""
    ran = batch.run(ScriptedGenerator({"B": [OutcomeUnknown("?")]}))
    folders = {request.sku: request.folder.name for request in _requests(ran.outcomes, batch)}
    settled = batch.ledger().calls.settled([*folders.values(), "another's"])
    assert settled == {folders["A"]: True, folders["B"]: False}


def _requests(_outcomes: object, batch: SmallBatch) -> list[ImageRequest]:
    standings = batch.ledger().standings(job.key for job in batch.jobs())
    return [ImageRequest(key[0], "", "", Path(standing.attempt)) for key, standing in standings.items()]


def test_the_dead_are_forgotten(batch: SmallBatch) -> None:
    """Holders that died here go when the next one comes; those of elsewhere a day after they were heard of last."""
    ledger = batch.ledger()
    pid, started = dead_process()
    with ledger.owning("run 1") as mine:
        put_owner(
            ledger, Owner("dead here", "run 0", mine.host), pid=pid, started=started, alive_until=time.time() + 60
        )
        put_owner(ledger, Owner("silent", "run 0", "elsewhere"), pid=1, started=1.0, alive_until=time.time() - 100)
        put_owner(
            ledger, Owner("long gone", "run 0", "elsewhere"), pid=1, started=1.0, alive_until=time.time() - 90_000
        )
        with ledger.owning("run 2") as other:
            assert names_of(ledger) == {mine.id, other.id, "silent"}
    assert names_of(ledger) == {"silent"}


def test_a_holder_that_was_forgotten_signs_again(batch: SmallBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept for days comes back and is known again at its next renewal."""
    monkeypatch.setattr(owners_module, "RENEW_S", 0.05)
    ledger = batch.ledger()
    with ledger.owning("run 1") as owner:
        with ledger._database.writing() as connection:
            connection.execute(delete(owners))
        deadline = time.monotonic() + 10
        while owner.id not in names_of(ledger):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_two_runs_into_one_output_have_whole_reports(batch: SmallBatch) -> None:
    """A run that begins before another has ended takes none of its rows, and the output shows each row once."""
    first, second = batch.open(batch.settings()), batch.open(batch.settings())
    generator = ScriptedGenerator()
    plan = batch.plan()
    first.begin("anycap", plan.batch)
    buy(first, generator, plan.todo)
    second.begin("anycap", plan.batch)
    assert first.finish().counts == {Status.STORED: 2}
    buy(second, generator, plan.todo)
    assert second.finish().counts == {Status.STORED: 2}
    assert len(generator.calls) == 2
    assert len(list((batch.output / "runs").iterdir())) == 2
    assert batch.ledger().rows.counts(str(batch.output)) == {Status.STORED: 2}


def test_reports_that_can_not_be_written_are_told_and_lose_nothing(batch: SmallBatch) -> None:
    """The run ends early with the mend, and the next one writes them."""
    (batch.output / "manifest.csv").mkdir(parents=True)
    ran = batch.run(ScriptedGenerator())
    assert ran.summary.exit_code == 3
    assert "reports" in ran.summary.stopped
    assert "can't be written" in ran.summary.stopped
    (batch.output / "manifest.csv").rmdir()
    again = batch.run(ScriptedGenerator())
    assert (again.summary.exit_code, again.summary.bought) == (0, 0)
    assert (batch.output / "manifest.csv").is_file()
