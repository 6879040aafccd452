import json
import multiprocessing
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from small_batch import SmallBatch, dead_process, put_owner
from sqlalchemy import select

from blocks.errors import ContentRejected, ServiceUnavailable
from blocks.image import ChildProcess, GeneratedImage
from flows.batch.jobs import Job
from flows.batch.ledger import Ledger
from flows.batch.ledger_calls import new_attempt_id
from flows.batch.ledger_images import Attempt, Cost, Orphan, Place, Standing
from flows.batch.ledger_tables import Charged, State, attempts, images
from flows.batch.owners import Owner
from flows.batch.verify import VerifiedImage

NOBODY: frozenset[State] = frozenset()
LIST_PRICE = Cost(Decimal("0.005"))
VERIFIED = VerifiedImage("png", ".png", "image/png", 64, 48, 1000, "ab" * 32)


@pytest.fixture
def batch(shop: SmallBatch) -> SmallBatch:
    """A place for files, with one product."""
    shop.products("A")
    return shop


@pytest.fixture
def job(batch: SmallBatch) -> Job:
    """The one job."""
    return batch.jobs()[0]


@pytest.fixture
def ledger(batch: SmallBatch) -> Ledger:
    """The ledger."""
    return batch.ledger()


@pytest.fixture
def owner(ledger: Ledger) -> Iterator[Owner]:
    """A holder that lives."""
    with ledger.owning("run 1") as owner:
        yield owner


def take(ledger: Ledger, job: Job, owner: Owner, again: frozenset[State] = NOBODY) -> Attempt | Standing:
    """Ask for the right to call."""
    return ledger.calls.take(job, owner, Path("/calls") / new_attempt_id(), LIST_PRICE, again)


def taken(ledger: Ledger, job: Job, owner: Owner, again: frozenset[State] = NOBODY) -> Attempt:
    """The right to call."""
    attempt = take(ledger, job, owner, again)
    assert isinstance(attempt, Attempt)
    return attempt


def row(ledger: Ledger, table: Any = images) -> Any:
    """The one row of a table."""
    with ledger._database.reading() as connection:
        return connection.execute(select(table)).one()


def buy(ledger: Ledger, attempt: Attempt, cost: Cost) -> Place:
    """Close a call with an image that is on the disk; gives its place."""
    output = Path(tempfile.mkdtemp(dir=Path(os.environ["XDG_DATA_HOME"]).parent))  # goes with the session
    (output / "a.png").write_bytes(b"an image")
    place = Place(str(output), "a.png", "a.png", "", "thumbs/a.webp")
    image = GeneratedImage(Path("x"), "nano-banana-2", "request-1", "http://127.0.0.1/x.png", cost.credits_used)
    ledger.calls.bought(attempt, image, VERIFIED, cost, place)
    return place


def race(path: str, job_fields: dict[str, Any], all_ready: Barrier, won: "multiprocessing.Queue[int]") -> None:
    """Ask for many rows in a process of its own; tells how many it was given."""
    ledger = Ledger.open(path)
    from flows.batch.finish import Finish  # noqa: PLC0415 - a spawned process loads its own

    jobs = [Job(**{**job_fields, "sku": f"S{number}", "finish": Finish()}) for number in range(40)]
    all_ready.wait(60)
    with ledger.owning(str(uuid.uuid4())) as owner:
        won.put(sum(isinstance(take(ledger, one, owner), Attempt) for one in jobs))
        time.sleep(0.5)


def test_a_call_is_written_down_before_it_is_made(ledger: Ledger, job: Job, owner: Owner) -> None:
    """Who takes a row finds it submitted, with its folder and what it may cost."""
    attempt = taken(ledger, job, owner)
    assert attempt.job == job
    call = row(ledger, attempts)
    assert (call.attempt, call.run, call.folder, call.charged) == (attempt.id, "run 1", str(attempt.folder), "maybe")
    assert (call.price_usd, call.ended_at, call.outcome) == (Decimal("0.005"), None, State.SUBMITTED)
    standing = ledger.standings([job.key])[job.key]
    assert (standing.state, standing.owner, standing.attempt) == (State.SUBMITTED, owner.id, attempt.id)
    image = row(ledger)
    assert (image.attempts, image.paid_calls, image.price_usd) == (1, 0, None)
    assert json.loads(image.params) == job.params


def test_a_row_is_given_once(ledger: Ledger, job: Job, owner: Owner) -> None:
    """The second who asks, be it the same holder, is told how the row stands."""
    taken(ledger, job, owner)
    again = take(ledger, job, owner)
    assert isinstance(again, Standing)
    assert again.state is State.SUBMITTED
    with ledger.owning("run 2") as other:
        assert isinstance(take(ledger, job, other, frozenset(State) - {State.SUBMITTED}), Standing)
    assert row(ledger).attempts == 1


def test_of_many_threads_one_gets_the_row(batch: SmallBatch, job: Job) -> None:
    """However many ask at once, with their own ledgers and as different holders, one may call."""
    ledgers = [batch.ledger() for _ in range(4)]
    with ledgers[0].owning("a") as first, ledgers[1].owning("b") as second, ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(take, ledgers[number % 4], job, (first, second)[number % 2]) for number in range(32)]
        results = [one.result() for one in asked]
    assert sum(isinstance(result, Attempt) for result in results) == 1
    assert row(ledgers[0]).attempts == 1


def test_of_two_processes_one_gets_each_row(batch: SmallBatch, job: Job) -> None:
    """Two runs on one machine that race for forty rows get each row once between them."""
    batch.ledger()
    context = multiprocessing.get_context("spawn")
    won: multiprocessing.Queue[int] = context.Queue()
    fields = {name: getattr(job, name) for name in job.__slots__ if name not in {"finish", "sku"}}
    all_ready = context.Barrier(2)
    racers = [context.Process(target=race, args=(batch.where, fields, all_ready, won)) for _ in range(2)]
    for racer in racers:
        racer.start()
    counts = [won.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    assert sum(counts) == 40


@pytest.mark.parametrize(
    ("state", "free"),
    [
        (State.PENDING, True),
        (State.FAILED, True),
        (State.REJECTED, False),
        (State.UNKNOWN, False),
        (State.LOST, False),
    ],
)
def test_an_ended_row_may_be_taken_again_where_that_is_free_or_allowed(
    ledger: Ledger, job: Job, owner: Owner, state: State, *, free: bool
) -> None:
    """Pending and failed rows are taken without a word, the others only where the user allows their state."""
    ledger.calls.end(taken(ledger, job, owner), state, Charged.NO, LIST_PRICE)
    if not free:
        others = frozenset({State.REJECTED, State.UNKNOWN, State.LOST}) - {state}
        standing = take(ledger, job, owner, others)
        assert isinstance(standing, Standing)
        assert standing.state is state
    taken(ledger, job, owner, NOBODY if free else frozenset({state}))
    assert row(ledger).attempts == 2


def test_a_bought_row_is_never_taken(ledger: Ledger, job: Job, owner: Owner) -> None:
    """No switch makes a bought image be bought again."""
    buy(ledger, taken(ledger, job, owner), LIST_PRICE)
    again = take(ledger, job, owner, frozenset({State.REJECTED, State.UNKNOWN, State.LOST}))
    assert isinstance(again, Standing)
    assert again.state is State.BOUGHT


def test_what_was_bought_is_all_written_down(ledger: Ledger, job: Job, owner: Owner) -> None:
    """The image's facts, its address, its cost and its place come with the one transaction that ends the call."""
    attempt = taken(ledger, job, owner)
    place = buy(ledger, attempt, Cost(Decimal("0.0123"), is_estimated=False, credits_used=Decimal("1.5")))
    image = row(ledger)
    assert (image.state, image.owner, image.request_id) == (State.BOUGHT, "", "request-1")
    assert (image.url, image.sha256) == ("http://127.0.0.1/x.png", "ab" * 32)
    assert (image.width, image.height, image.extension) == (64, 48, ".png")
    assert (image.price_usd, image.credits_used, image.price_is_estimated) == (Decimal("0.0123"), Decimal("1.5"), False)
    assert (image.paid_calls, image.attempts) == (1, 1)
    assert 0 <= image.seconds < 60
    call = row(ledger, attempts)
    assert (call.outcome, call.charged, call.price_usd) == ("bought", "yes", Decimal("0.0123"))
    assert ledger.places([job.key], place.output) == {job.key: place}


def test_calls_that_cost_nothing_add_nothing(ledger: Ledger, job: Job, owner: Owner) -> None:
    """Refused calls count as attempts and not as money, and their error stays with the row until it is bought."""
    error = ServiceUnavailable("down", request_id="r1")
    ledger.calls.end(taken(ledger, job, owner), State.FAILED, Charged.NO, LIST_PRICE, error)
    image = row(ledger)
    assert (image.state, image.owner, image.error_kind, image.error) == (State.FAILED, "", "ServiceUnavailable", "down")
    assert (image.request_id, image.paid_calls, image.price_usd, image.credits_used) == ("r1", 0, None, None)
    assert row(ledger, attempts).price_usd == 0
    buy(ledger, taken(ledger, job, owner), LIST_PRICE)
    image = row(ledger)
    assert (image.error_kind, image.error, image.paid_calls, image.attempts) == ("", "", 1, 2)
    assert image.price_usd == Decimal("0.005")


def test_every_paid_call_adds_to_the_images_price(ledger: Ledger, job: Job, owner: Owner) -> None:
    """What was paid for nothing, and what may have been, is in the sum, exact to the last digit."""
    exact = Cost(Decimal("0.1"), is_estimated=False, credits_used=Decimal("0.1"))
    listed = Cost(Decimal("0.2"), credits_used=Decimal("0.2"))
    ledger.calls.end(taken(ledger, job, owner), State.RESERVED, Charged.YES, exact)
    ledger.calls.end(taken(ledger, job, owner), State.UNKNOWN, Charged.MAYBE, listed)
    buy(ledger, taken(ledger, job, owner, frozenset({State.UNKNOWN})), exact)
    image = row(ledger)
    assert (image.paid_calls, image.attempts) == (3, 3)
    assert (image.price_usd, image.credits_used) == (Decimal("0.4"), Decimal("0.4"))
    assert image.price_is_estimated, "a list price is in the sum"


def test_a_call_of_unknown_price_leaves_the_price_unknown(ledger: Ledger, job: Job, owner: Owner) -> None:
    """A sum with a part that nobody knows is not told as if it were whole."""
    ledger.calls.end(taken(ledger, job, owner), State.UNKNOWN, Charged.MAYBE, Cost(None))
    assert (row(ledger).price_usd, row(ledger).paid_calls) == (None, 1)
    buy(ledger, taken(ledger, job, owner, frozenset({State.UNKNOWN})), LIST_PRICE)
    assert (row(ledger).price_usd, row(ledger).paid_calls) == (None, 2)


def test_a_reserved_row_stays_with_its_holder(ledger: Ledger, job: Job, owner: Owner) -> None:
    """Between two calls of one holder nobody else may call."""
    ledger.calls.end(taken(ledger, job, owner), State.RESERVED, Charged.NO, LIST_PRICE)
    with ledger.owning("run 2") as other:
        standing = take(ledger, job, other)
        assert isinstance(standing, Standing)
        assert standing.state is State.RESERVED
        held = ledger.calls.adopt(standing, other)
        assert isinstance(held, Standing)
        assert held.owner == owner.id
    taken(ledger, job, owner)


def test_a_late_end_of_an_older_call_changes_nothing(ledger: Ledger, job: Job, owner: Owner) -> None:
    """Only the call that is under way may change how its row stands."""
    first = taken(ledger, job, owner)
    ledger.calls.end(first, State.FAILED, Charged.NO, LIST_PRICE)
    second = taken(ledger, job, owner)
    ledger.calls.end(first, State.REJECTED, Charged.NO, LIST_PRICE, ContentRejected("late"))
    standing = ledger.standings([job.key])[job.key]
    assert (standing.state, standing.attempt) == (State.SUBMITTED, second.id)


def dead_owners_call(ledger: Ledger, job: Job, host: str, *, lease_s: float = -1.0) -> tuple[Owner, Attempt]:
    """A call whose holder has died."""
    pid, started = dead_process()
    holder = Owner(str(uuid.uuid4()), "run 0", host)
    put_owner(ledger, holder, pid=pid, started=started, alive_until=time.time() + lease_s)
    return holder, taken(ledger, job, holder)


def test_a_dead_holders_call_is_adopted_once(ledger: Ledger, job: Job, owner: Owner) -> None:
    """Whoever adopts first gets the call with its folder and its child, and holds the row from then on."""
    _, attempt = dead_owners_call(ledger, job, owner.host)
    ledger.calls.note_child(attempt.id, ChildProcess(4711, 1700000000.25))
    standing = take(ledger, job, owner)
    assert isinstance(standing, Standing)
    orphan = ledger.calls.adopt(standing, owner)
    assert orphan == Orphan(attempt.id, "run 0", owner.host, attempt.folder, ChildProcess(4711, 1700000000.25))
    with ledger.owning("run 2") as other:
        held = ledger.calls.adopt(standing, other)
        assert isinstance(held, Standing)
        assert held.owner == owner.id


def test_of_many_adopters_one_gets_the_call(batch: SmallBatch, ledger: Ledger, job: Job, owner: Owner) -> None:
    """An orphan that many find at once is looked up by one of them."""
    dead_owners_call(ledger, job, owner.host)
    standing = ledger.standings([job.key])[job.key]

    together = threading.Barrier(8, timeout=60)

    def adopt(number: int) -> bool:
        own = batch.ledger()
        with own.owning(f"run {number}") as other:
            together.wait()
            found = isinstance(own.calls.adopt(standing, other), Orphan)
            together.wait()  # until all have tried, nobody gives up what it holds
        return found

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(adopt, range(8))) == 1


def test_a_living_holders_call_is_left_alone(ledger: Ledger, job: Job, owner: Owner) -> None:
    """A row that somebody works on stays theirs."""
    attempt = taken(ledger, job, owner)
    with ledger.owning("run 2") as other:
        held = ledger.calls.adopt(ledger.standings([job.key])[job.key], other)
    assert isinstance(held, Standing)
    assert (held.owner, held.attempt) == (owner.id, attempt.id)


def test_a_holder_takes_up_its_own_broken_call(ledger: Ledger, job: Job, owner: Owner) -> None:
    """A call that this very holder left behind, when something broke, is looked up by it."""
    attempt = taken(ledger, job, owner)
    orphan = ledger.calls.adopt(ledger.standings([job.key])[job.key], owner)
    assert isinstance(orphan, Orphan)
    assert orphan.attempt == attempt.id


def test_a_dead_holders_reservation_is_given_back(ledger: Ledger, job: Job, owner: Owner) -> None:
    """A row that was only reserved had no call under way, and may be taken anew."""
    holder, attempt = dead_owners_call(ledger, job, owner.host)
    ledger.calls.end(attempt, State.RESERVED, Charged.NO, LIST_PRICE)
    standing = ledger.standings([job.key])[job.key]
    assert standing.owner == holder.id
    assert ledger.calls.adopt(standing, owner) is None
    taken(ledger, job, owner)


@pytest.mark.parametrize(("lease_s", "adopted"), [(60.0, False), (-1.0, True)])
def test_a_holder_elsewhere_lives_as_long_as_its_lease(
    ledger: Ledger, job: Job, owner: Owner, lease_s: float, *, adopted: bool
) -> None:
    """Of another machine nothing is known but the lease."""
    dead_owners_call(ledger, job, "another-machine", lease_s=lease_s)
    found = ledger.calls.adopt(ledger.standings([job.key])[job.key], owner)
    assert isinstance(found, Orphan) is adopted
    if isinstance(found, Orphan):
        assert found.host == "another-machine"


def test_a_row_that_ended_meanwhile_is_not_adopted(ledger: Ledger, job: Job, owner: Owner) -> None:
    """Between looking and adopting the holder may have ended well."""
    attempt = taken(ledger, job, owner)
    before = ledger.standings([job.key])[job.key]
    buy(ledger, attempt, LIST_PRICE)
    now = ledger.calls.adopt(before, owner)
    assert isinstance(now, Standing)
    assert now.state is State.BOUGHT


def states(found: Sequence[Attempt | Standing]) -> list[str]:
    """How each stands."""
    return [one.state if isinstance(one, Standing) else "taken" for one in found]


def test_rows_do_not_touch_each_other(batch: SmallBatch, ledger: Ledger, owner: Owner) -> None:
    """Ending one sku's call leaves the other's as it is, though their prompts be the same."""
    batch.csv("sku,name,color\nA,Shirt,blue\nB,Shirt,blue\n")
    first, second = batch.jobs()
    attempt = taken(ledger, first, owner)
    taken(ledger, second, owner)
    buy(ledger, attempt, LIST_PRICE)
    assert states([take(ledger, first, owner), take(ledger, second, owner)]) == [State.BOUGHT, State.SUBMITTED]
