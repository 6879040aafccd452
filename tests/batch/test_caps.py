import json
import multiprocessing
import sqlite3
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from scripted_generator import Draws, ScriptedGenerator
from small_batch import PRICES, SOURCE, SmallBatch, dead_process, put_owner
from sqlalchemy import func, insert, select

from blocks.errors import ContentRejected, OutcomeUnknown, RetryableError, ServiceUnavailable
from blocks.image import Capabilities
from flows.batch.budgets import CapReached
from flows.batch.cap_check import check_caps
from flows.batch.caps import NO_CAPS, Caps
from flows.batch.finish import Finish
from flows.batch.jobs import Job, Source
from flows.batch.ledger import Ledger
from flows.batch.ledger_calls import new_attempt_id
from flows.batch.ledger_images import Attempt, Cost, Orphan
from flows.batch.ledger_tables import Charged, State, attempts, budgets, day_scope, run_scope
from flows.batch.owners import Owner
from flows.batch.problems import NotStarted
from flows.batch.redo import find_redo, redo_jobs
from flows.batch.request import Request
from flows.batch.row_report import Status
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings, RedoSettings
from flows.batch.slots import RunStopped

CENT = Cost(Decimal("0.01"))
BROKEN = Draws(data=b"no image")


def some_jobs(shop: SmallBatch, count: int) -> list[Job]:
    """Jobs of many skus."""
    shop.products("A")
    (job,) = shop.jobs()
    return [replace(job, sku=f"S{number}") for number in range(count)]


def take(ledger: Ledger, job: Job, owner: Owner, caps: Caps, cost: Cost = CENT) -> Attempt | None:
    """The right to call; None at a cap."""
    try:
        taken = ledger.calls.take(job, owner, Path("/calls") / new_attempt_id(), cost, frozenset(), caps)
    except CapReached:
        return None
    assert isinstance(taken, Attempt)
    return taken


def taken(ledger: Ledger, job: Job, owner: Owner, caps: Caps = NO_CAPS, cost: Cost = CENT) -> Attempt:
    """The right to call."""
    attempt = take(ledger, job, owner, caps, cost)
    assert attempt is not None
    return attempt


def today_usd(ledger: Ledger) -> Decimal:
    """What the counter of this day says."""
    return ledger.budgets.of_day(time.time())


def counters_are_sums(ledger: Ledger) -> bool:
    """Whether each counter is what the calls of its run or day add up to."""
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    with ledger.reading() as connection:
        for call in connection.execute(select(attempts).where(attempts.c.price_usd > 0)):
            sums[run_scope(call.run)] += call.price_usd
            sums[day_scope(call.started_at)] += call.price_usd
        counted = {row.scope: row.usd for row in connection.execute(select(budgets)) if row.usd}
    return counted == dict(sums)


def race(url: str, fields: dict[str, Any], first: int, start: Barrier, won: "multiprocessing.Queue[int]") -> None:
    """Ask for many rows under one day's cap, in a process of its own; tells how many it was given."""
    ledger = Ledger.open(url)
    jobs = [Job(**fields, sku=f"S{number}", finish=Finish()) for number in range(first, first + 40)]
    with ledger.owning(str(uuid.uuid4())) as owner:
        start.wait(60)
        won.put(sum(take(ledger, job, owner, Caps(day_usd=Decimal("0.25"))) is not None for job in jobs))


def test_of_32_threads_as_many_call_as_the_cap_pays(shop: SmallBatch) -> None:
    """However many ask at once for the last cents of a run's cap, they get what is left of it and no more."""
    ledger, jobs, caps = shop.ledger(), some_jobs(shop, 64), Caps(run_usd=Decimal("0.20"))
    with ledger.owning("run 1") as owner, ThreadPoolExecutor(32) as pool:
        given = list(pool.map(lambda job: take(ledger, job, owner, caps), jobs))
    assert sum(attempt is not None for attempt in given) == 20
    assert ledger.budgets.of_run("run 1") == today_usd(ledger) == Decimal("0.20")
    with ledger.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(attempts)) == 20


def test_of_two_runs_none_passes_the_cap_of_the_day(shop: SmallBatch) -> None:
    """Two runs, each with its own hold on the ledger and sixteen threads, share one day's cap, to the cent."""
    jobs, caps = some_jobs(shop, 64), Caps(day_usd=Decimal("0.07"))
    ledgers = [shop.ledger() for _ in range(2)]
    with (
        ledgers[0].owning("run 1") as first,
        ledgers[1].owning("run 2") as second,
        ThreadPoolExecutor(32) as pool,
    ):
        owners = (first, second)
        asked = [pool.submit(take, ledgers[n % 2], job, owners[n % 2], caps) for n, job in enumerate(jobs)]
        given = sum(one.result() is not None for one in asked)
    assert given == 7
    assert today_usd(ledgers[0]) == Decimal("0.07")
    assert ledgers[0].budgets.of_run("run 1") + ledgers[0].budgets.of_run("run 2") == Decimal("0.07")


def test_of_two_processes_none_passes_the_cap_of_the_day(shop: SmallBatch, ledger_url: str) -> None:
    """Two processes that race for eighty rows at a cent each get a quarter dollar's worth between them."""
    ledger = shop.ledger()
    (job,) = some_jobs(shop, 1)
    fields = {name: getattr(job, name) for name in job.__slots__ if name not in {"finish", "sku"}}
    context = multiprocessing.get_context("spawn")
    won: multiprocessing.Queue[int] = context.Queue()
    start = context.Barrier(2)
    racers = [context.Process(target=race, args=(ledger_url, fields, first, start, won)) for first in (0, 40)]
    for racer in racers:
        racer.start()
    counts = [won.get(timeout=90) for _ in racers]
    for racer in racers:
        racer.join()
    assert sum(counts) == 25
    assert today_usd(ledger) == Decimal("0.25")
    assert counters_are_sums(ledger)


def test_a_call_settles_what_it_reserved(shop: SmallBatch) -> None:
    """A refused call gives its cent back, one in doubt keeps it, and a paid one counts what it has cost."""
    ledger, (free, doubt, dear) = shop.ledger(), some_jobs(shop, 3)
    with ledger.owning("run 1") as owner:
        ledger.calls.end(taken(ledger, free, owner), State.FAILED, Charged.NO, CENT)
        assert ledger.budgets.of_run("run 1") == today_usd(ledger) == 0
        ledger.calls.end(taken(ledger, doubt, owner), State.UNKNOWN, Charged.MAYBE, CENT)
        assert today_usd(ledger) == Decimal("0.01")
        more = Cost(Decimal("0.0333333333333"), is_estimated=False)
        ledger.calls.end(taken(ledger, dear, owner), State.LOST, Charged.YES, more)
    assert ledger.budgets.of_run("run 1") == today_usd(ledger) == Decimal("0.043333333")
    assert counters_are_sums(ledger)


def test_what_is_in_doubt_stays_counted_as_it_was_reserved(shop: SmallBatch) -> None:
    """Where the provider has proved dearer than its list price, a call in doubt may have cost that much, too."""
    ledger, (job,) = shop.ledger(), some_jobs(shop, 1)
    dear = Cost(CENT.usd, reserve_usd=Decimal("0.067"))
    with ledger.owning("run 1") as owner:
        attempt = ledger.calls.take(job, owner, Path("call-1"), dear, frozenset())
        assert isinstance(attempt, Attempt)
        ledger.calls.end(attempt, State.UNKNOWN, Charged.MAYBE, CENT)
    assert ledger.budgets.of_run("run 1") == today_usd(ledger) == Decimal("0.067")
    assert counters_are_sums(ledger)


def test_a_call_that_is_closed_twice_gives_back_once(shop: SmallBatch) -> None:
    """A late second end of a call leaves the counters as they are."""
    ledger, (job, other) = shop.ledger(), some_jobs(shop, 2)
    with ledger.owning("run 1") as owner:
        taken(ledger, other, owner)
        attempt = taken(ledger, job, owner)
        for _ in range(2):
            ledger.calls.end(attempt, State.FAILED, Charged.NO, CENT)
    assert ledger.budgets.of_run("run 1") == today_usd(ledger) == Decimal("0.01")


def test_money_that_was_given_back_may_be_spent(shop: SmallBatch) -> None:
    """A cap that one refused call had used up lets the next row be bought."""
    ledger, (first, second, third), caps = shop.ledger(), some_jobs(shop, 3), Caps(run_usd=Decimal("0.01"))
    with ledger.owning("run 1") as owner:
        attempt = taken(ledger, first, owner, caps)
        assert take(ledger, second, owner, caps) is None
        ledger.calls.end(attempt, State.FAILED, Charged.NO, CENT)
        taken(ledger, second, owner, caps)
        assert take(ledger, third, owner, caps) is None


def test_a_refused_row_leaves_nothing_behind(shop: SmallBatch) -> None:
    """At a cap no call is written down, no counter changes, and the row may be taken by whoever has money."""
    ledger, (first, second) = shop.ledger(), some_jobs(shop, 2)
    with ledger.owning("run 1") as owner:
        for caps in (Caps(run_usd=Decimal("0.019")), Caps(day_usd=Decimal("0.019"))):
            take(ledger, first, owner, caps)
            with pytest.raises(CapReached, match=r"\$0\.019 is reached: \$0\.01 is spent or reserved.*costs \$0\.01\."):
                ledger.calls.take(second, owner, Path("/calls/x"), CENT, frozenset(), caps)
            assert ledger.budgets.of_run("run 1") == today_usd(ledger) == Decimal("0.01")
            ledger.calls.end(_open_call(ledger, first), State.FAILED, Charged.NO, CENT)
        assert ledger.standings([second.key]) == {}
        taken(ledger, second, owner)


def _open_call(ledger: Ledger, job: Job) -> Attempt:
    """The call that is under way for a job."""
    return Attempt(ledger.standings([job.key])[job.key].attempt, job, Path("/calls"))


def test_each_cap_names_its_own_mend(shop: SmallBatch) -> None:
    """The text at a run's cap and that at a day's cap say which it is and how to go on."""
    ledger, (job,) = shop.ledger(), some_jobs(shop, 1)
    with ledger.owning("run 1") as owner:
        for caps, told in (
            (Caps(run_usd=Decimal(0)), r"run's cap .* Raise --max-cost, or run the same command again"),
            (Caps(day_usd=Decimal(0)), r"day's cap .* again tomorrow \(days are UTC\), or raise --max-cost-per-day"),
        ):
            with pytest.raises(CapReached, match=told):
                ledger.calls.take(job, owner, Path("/calls/x"), CENT, frozenset(), caps)


def test_under_a_cap_a_call_needs_a_known_price(shop: SmallBatch) -> None:
    """A call whose price nobody knows is refused under any cap, and counts nothing without one."""
    ledger, (job,) = shop.ledger(), some_jobs(shop, 1)
    with ledger.owning("run 1") as owner:
        for caps in (Caps(run_usd=Decimal(100)), Caps(day_usd=Decimal(100))):
            with pytest.raises(CapReached, match=r"no price is known.*--prices"):
                ledger.calls.take(job, owner, Path("/calls/x"), Cost(None), frozenset(), caps)
        taken(ledger, job, owner, cost=Cost(None))
        assert today_usd(ledger) == 0
        ledger.calls.end(_open_call(ledger, job), State.LOST, Charged.YES, CENT)
    assert today_usd(ledger) == Decimal("0.01"), "its price became known when it was settled"


def test_what_is_free_needs_no_money(shop: SmallBatch) -> None:
    """A call that costs nothing is made under a cap of nothing, and keeps no counter busy."""
    ledger, (job,) = shop.ledger(), some_jobs(shop, 1)
    with ledger.owning("run 1") as owner:
        taken(ledger, job, owner, Caps(Decimal(0), Decimal(0)), Cost(Decimal(0)))
    with ledger.reading() as connection:
        assert connection.execute(select(budgets)).all() == []


def test_another_day_has_its_own_money(shop: SmallBatch) -> None:
    """What was spent yesterday is not in today's cap; a call is settled in the day in which it began."""
    ledger, (job, other) = shop.ledger(), some_jobs(shop, 2)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    with ledger._database.writing() as connection:
        connection.execute(insert(budgets).values(scope=day_scope(yesterday.timestamp()), usd=Decimal(5)))
    with ledger.owning("run 1") as owner:
        attempt = taken(ledger, job, owner, Caps(day_usd=Decimal("0.01")))
        with ledger._database.writing() as connection:
            connection.execute(attempts.update().values(started_at=yesterday.timestamp()))
        ledger.calls.end(attempt, State.LOST, Charged.YES, Cost(Decimal("0.03")))
    assert ledger.budgets.of_day(yesterday.timestamp()) == Decimal("5.02")
    assert take(ledger, other, owner, Caps(day_usd=Decimal("0.01"))) is None


def test_a_dead_runs_call_stays_on_its_own_run(shop: SmallBatch) -> None:
    """Who finds out what became of another run's call settles it there, and keeps its own money."""
    ledger, (job,) = shop.ledger(), some_jobs(shop, 1)
    pid, started = dead_process()
    with ledger.owning("run 2") as owner:
        dead = put_owner(ledger, Owner(str(uuid.uuid4()), "run 1", owner.host), pid=pid, started=started)
        attempt = taken(ledger, job, dead)
        orphan = ledger.calls.adopt(ledger.standings([job.key])[job.key], owner)
        assert isinstance(orphan, Orphan)
        ledger.calls.end(attempt, State.LOST, Charged.YES, Cost(Decimal("0.02")))
    assert (ledger.budgets.of_run("run 1"), ledger.budgets.of_run("run 2")) == (Decimal("0.02"), Decimal(0))


def test_a_run_within_its_cap_is_whole(shop: SmallBatch) -> None:
    """A cap of just what the rows cost buys them all, whatever they go through that costs nothing."""
    shop.products(*"ABCD")
    generator = ScriptedGenerator({"A": [ServiceUnavailable("down")], "B": [ContentRejected("no")]})
    ran = shop.run(generator, max_cost_usd="0.02", max_cost_per_day_usd="0.02", concurrency=8)
    assert ran.summary.stopped == ""
    assert ran.summary.counts == {Status.STORED: 2, Status.FAILED: 1, Status.REJECTED: 1}
    again = shop.run(generator, max_cost_usd="0.01", max_cost_per_day_usd="0.02", retry_rejected=True)
    assert (again.summary.exit_code, again.summary.counts) == (0, {Status.STORED: 4})
    assert today_usd(shop.ledger()) == Decimal("0.02")
    assert counters_are_sums(shop.ledger())


def test_a_run_stops_at_its_cap_and_keeps_what_it_has(shop: SmallBatch) -> None:
    """Where calls cost more than the list says, the run ends early at its cap with exit code 3: what is bought is
    delivered, the rest stays pending, and the same command goes on.
    """
    shop.products(*"ABCDEFGH")
    generator = ScriptedGenerator()
    ran = shop.run(generator, usd_per_credit=Decimal("0.01"), max_cost_usd="0.04", concurrency=1)
    assert ran.summary.exit_code == 3
    assert ran.summary.stopped.startswith("The run's cap of $0.04 is reached: $0.04 is spent or reserved")
    assert ran.summary.counts == {Status.STORED: 4, Status.PENDING: 4}
    assert len(generator.calls) == 4
    assert ran.summary.spent_usd == Decimal("0.04")
    assert (shop.output / "results.csv").exists()
    assert all(isinstance(ran.outcomes[sku], RunStopped) for sku in "EFGH")
    again = shop.run(generator, usd_per_credit=Decimal("0.01"), max_cost_usd="0.04")
    assert (again.summary.exit_code, again.summary.counts) == (0, {Status.STORED: 8})
    assert generator.charges == 8


def test_no_row_starts_after_the_cap_is_reached(shop: SmallBatch) -> None:
    """Once calls have cost more than the list says, the next ones reserve as much: many threads don't pass the cap."""
    shop.products(*(f"S{number}" for number in range(40)))
    generator = ScriptedGenerator()
    ran = shop.run(generator, usd_per_credit=Decimal("0.01"), max_cost_usd="0.2", concurrency=4)
    assert ran.summary.spent_usd == Decimal("0.2")
    assert ran.summary.counts == {Status.STORED: 20, Status.PENDING: 20}
    assert "the next image costs $0.01." in ran.summary.stopped


def test_the_second_paid_call_of_a_row_must_fit(shop: SmallBatch) -> None:
    """After a success with broken bytes another call costs money again: under a cap that has none left it is not
    made, and the row is taken up by the next run.
    """
    shop.products("A")
    generator = ScriptedGenerator({"A": [BROKEN]})
    ran = shop.run(generator, max_cost_usd="0.005")
    assert (generator.charges, len(generator.calls)) == (1, 1)
    assert (ran.summary.exit_code, ran.summary.counts) == (3, {Status.PENDING: 1})
    assert ran.summary.spent_usd == Decimal("0.005")
    again = shop.run(generator, max_cost_usd="0.005")
    assert (again.summary.exit_code, again.summary.counts) == (0, {Status.STORED: 1})
    assert shop.report("A").price_usd == Decimal("0.01")
    assert counters_are_sums(shop.ledger())


def test_an_estimate_over_the_cap_starts_nothing(shop: SmallBatch) -> None:
    """A run that would cost more than its cap is refused before anything is bought, with how many rows would fit."""
    shop.products(*"ABCDE")
    generator = ScriptedGenerator()
    with pytest.raises(NotStarted, match=r"would cost \$0\.025, and the run's cap is \$0\.02\..*--limit 4") as refused:
        shop.run(generator, max_cost_usd="0.02")
    assert len(refused.value.problems) == 1
    assert (generator.calls, shop.output.exists()) == ([], False)
    assert shop.run(generator, max_cost_usd="0.02", limit=4).summary.exit_code == 0
    with pytest.raises(NotStarted, match="doesn't leave enough for one image"):
        shop.run(generator, max_cost_usd="0.004")


def test_the_days_cap_counts_what_all_runs_have_spent(shop: SmallBatch) -> None:
    """What another run into another output has bought today is in the way, and is told."""
    shop.products("A", "B")
    shop.run(ScriptedGenerator(), output=str(shop.root / "other"))
    shop.products("C", "D")
    told = r"would cost \$0\.01, and \$0\.01 of the day's cap of \$0\.015 is spent or reserved\..*UTC.*--limit 1"
    with pytest.raises(NotStarted, match=told):
        shop.run(ScriptedGenerator(), max_cost_per_day_usd="0.015")
    assert shop.run(ScriptedGenerator(), max_cost_per_day_usd="0.02").summary.exit_code == 0


def test_a_model_without_a_price_starts_nothing_under_a_cap(shop: SmallBatch) -> None:
    """Rows whose price nobody knows name their model and the mend; without a cap they are bought."""
    shop.csv("sku,name,color,model\nA,Shirt,blue,next-year\nB,Shirt,blue,\n")
    for name in ("max_cost_usd", "max_cost_per_day_usd"):
        cap: dict[str, Any] = {name: "100"}
        with pytest.raises(NotStarted, match=r"no price is known for next-year\..*--prices"):
            shop.run(ScriptedGenerator(), allow_unknown_model=True, **cap)
    assert shop.run(ScriptedGenerator(), allow_unknown_model=True).summary.exit_code == 0


def test_what_is_bought_needs_no_money(shop: SmallBatch) -> None:
    """A run that has nothing to buy is none that a cap refuses, nor are proofs."""
    shop.products("A")
    shop.run(ScriptedGenerator())
    assert shop.run(ScriptedGenerator(), max_cost_usd="0", max_cost_per_day_usd="0").summary.exit_code == 0
    free = Source(Capabilities("proof", free=True, any_priced_model=True))
    proofs = SmallBatch(shop.root, free, ledger_url=shop.where)
    assert proofs.run(ScriptedGenerator(), max_cost_usd="0").summary.images == 1


def test_a_flow_run_that_is_executed_again_keeps_its_cap(shop: SmallBatch) -> None:
    """The same run, begun twice, has what is left of its cap and not a new one."""
    shop.products("A", "B")
    settings = shop.settings(max_cost_usd="0.005", limit=1)
    first = shop.open(settings)
    with first.ledger.owning(first.id) as owner:
        taken(first.ledger, shop.jobs()[0], owner, cost=Cost(Decimal("0.005")))
    second = BatchRun.open(Request.of(settings), first.id)
    second.prices = PRICES
    with pytest.raises(NotStarted, match="doesn't leave enough"):
        check_caps([shop.jobs()[1]], second)


def test_a_redo_has_caps_too(shop: SmallBatch) -> None:
    """Images made again on purpose are refused over a cap before anything is bought."""
    shop.products("A", "B")
    shop.run(ScriptedGenerator())
    settings = RedoSettings(skus=["A", "B"], output=str(shop.output), ledger=shop.where, max_cost_usd="0.009")
    run = BatchRun.open(Request.of_redo(settings))
    run.prices = PRICES
    jobs = redo_jobs(settings, find_redo(settings, run.ledger, run.output.root), run.ledger, SOURCE)
    with pytest.raises(NotStarted, match=r"would cost \$0\.01, and the run's cap is \$0\.009"):
        check_caps(jobs, run)


def test_counters_hold_whatever_rows_go_through(shop: SmallBatch) -> None:
    """After a run of every kind of end, the counters are what its calls add up to."""
    script: dict[str, Sequence[Any]] = {
        "A": [BROKEN], "B": [BROKEN, BROKEN], "C": [OutcomeUnknown("?")], "D": [RetryableError("later")],
        "E": [ContentRejected("no")], "F": [Draws(credits_used=None)], "G": [Draws(credits_used=Decimal("2.5"))],
    }  # fmt: skip
    shop.products(*"ABCDEFGH")
    shop.run(ScriptedGenerator(script), usd_per_credit=Decimal("0.0033333333333"), concurrency=8)
    assert counters_are_sums(shop.ledger())
    spent = today_usd(shop.ledger())
    shop.run(ScriptedGenerator(), retry_unknown=True, retry_rejected=True, rebuy_lost=True)
    assert today_usd(shop.ledger()) > spent
    assert counters_are_sums(shop.ledger())


def test_an_older_ledger_is_brought_up_to_date(tmp_path: Path) -> None:
    """A ledger of the first version gets its counters and estimates from its calls, and keeps all it has."""
    batch = SmallBatch(tmp_path)
    batch.products("A", "B", "C")
    batch.run(ScriptedGenerator({"C": [ServiceUnavailable("down")]}))
    spent = today_usd(batch.ledger())
    with closing(sqlite3.connect(batch.ledger_path)) as older, older:
        older.execute("DROP TABLE budgets")
        older.execute("ALTER TABLE attempts DROP COLUMN estimate_usd")
        older.execute("UPDATE rowshot_meta SET value = '1' WHERE name = 'schema'")
    ledger = batch.ledger()
    assert today_usd(ledger) == spent == Decimal("0.01")
    assert counters_are_sums(ledger)
    assert len(batch.plan().to_buy) == 1
    with ledger.reading() as connection:
        estimates = connection.execute(select(attempts.c.estimate_usd)).scalars().all()
    assert sorted(estimates) == [0, Decimal("0.005"), Decimal("0.005")]
    assert today_usd(batch.ledger()) == spent, "it is done once"


@pytest.mark.parametrize(
    ("text", "caps"),
    [
        ("", NO_CAPS),
        ("  ", NO_CAPS),
        ("0", Caps(Decimal(0))),
        ("12.50", Caps(Decimal("12.5"))),
        (25, Caps(Decimal(25))),
        (0.1, Caps(Decimal("0.1"))),
        (None, NO_CAPS),
    ],
)
def test_a_cap_is_an_amount_or_nothing(text: Any, caps: Caps) -> None:
    """An empty field is no cap, and nought is one that lets nothing be bought."""
    assert BatchSettings.of(csv="x.csv", max_cost_usd=text).money.caps == caps


@pytest.mark.parametrize("text", ["-1", "1e3", "five", "NaN", "1,000", "$5", True, "1234567890", "0.0000000001"])
def test_what_is_no_amount_is_refused(text: Any) -> None:
    """A slip in an amount is told, and not taken for another amount."""
    with pytest.raises(ValueError, match=r"Write US dollars such as 25 or 0\.50"):
        BatchSettings.of(csv="x.csv", max_cost_per_day_usd=text)


def test_the_form_draws_an_amount_as_one_field() -> None:
    """A cap is one text field, with the pattern that the form checks."""
    fields = BatchSettings.model_json_schema()["$defs"]["Money"]["properties"]
    for name in ("max_cost_usd", "max_cost_per_day_usd"):
        assert fields[name]["type"] == "string"
        assert "anyOf" not in json.dumps(fields[name])
