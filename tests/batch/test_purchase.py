import multiprocessing
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from scripted_generator import Draws, ScriptedGenerator, Step, picture
from small_batch import FileServer, Ran, SmallBatch, buy, dead_process, put_owner, put_state, table
from sqlalchemy import select

from blocks.errors import (
    AuthenticationFailed,
    ContentRejected,
    ImageGenerationError,
    InsufficientCredit,
    NoImage,
    OutcomeUnknown,
    RateLimited,
    ServiceUnavailable,
    SpoiltImage,
)
from blocks.image import ChildProcess, GeneratedImage, ImageRequest
from flows.batch import ledger_database, purchase
from flows.batch.ledger_calls import new_attempt_id
from flows.batch.ledger_images import Attempt, Cost
from flows.batch.ledger_tables import State, attempts
from flows.batch.owners import Owner
from flows.batch.problems import LedgerUnavailable
from flows.batch.purchase import Bought, Standstill
from flows.batch.row_report import RowReport, Status
from flows.batch.slots import RunStopped
from flows.batch.stores import StoreUnusable
from flows.batch.verify import verify_image

PRICE = Decimal("0.005")
BROKEN = Draws(data=b"\x89PNG not really")
TEMPLATE = "{{#- rowshot\nfor: a test\nvariables: {{name: name}}\nmodel: seedream-5\n{header}-#}}\n{{{{ name }}}}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purchase, "POLL_S", 0.02)


@pytest.fixture
def batch(tmp_path: Path) -> SmallBatch:
    """A place for files, with one product."""
    found = SmallBatch(tmp_path)
    found.products("A")
    return found


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A provider's file server."""
    with FileServer() as running:
        yield running


def image_of(batch: SmallBatch, sku: str = "A", output: Path | None = None) -> Path:
    """The file that reports name for this sku."""
    return (output or batch.output) / batch.report(sku, output).path


def paid(row: RowReport) -> tuple[int, int, Decimal | None]:
    """How often a row was asked for, how often that was paid for, and how much it has cost."""
    return row.attempts, row.paid_calls, row.price_usd


def scripted(*steps: Step) -> ScriptedGenerator:
    """A generator that plays this for the sku A."""
    return ScriptedGenerator({"A": steps})


def error_of(ran: Ran, sku: str = "A") -> Exception:
    """How a row of a run ended."""
    outcome = ran.outcomes[sku]
    assert isinstance(outcome, Exception)
    return outcome


def test_an_image_is_bought_once_over_reruns(batch: SmallBatch) -> None:
    """The first run buys, the next ones find it, and each run's own figures say so."""
    batch.products("A", "B")
    generator = ScriptedGenerator()
    first = batch.run(generator)
    assert (first.summary.bought, first.summary.exit_code) == (2, 0)
    assert first.summary.spent_usd == 2 * PRICE
    for _ in range(2):
        again = batch.run(generator)
        assert again.outcomes == {}
        assert (again.summary.bought, again.summary.exit_code) == (0, 0)
        assert again.summary.spent_usd == 0
    assert generator.charges == 2
    row = batch.report("A")
    assert row.status is Status.STORED
    assert paid(row) == (1, 1, PRICE)
    assert verify_image(image_of(batch)).width == row.width == 64


def test_a_request_holds_what_the_row_asks_for(batch: SmallBatch) -> None:
    """The generator is given the sku, the prompt, the model and the params, and an empty folder of its own."""
    batch.csv("sku,name,color,param.seed\nA,셔츠,blue,7\n")
    generator = ScriptedGenerator()
    batch.run(generator)
    (request,) = generator.calls
    assert (request.sku, request.model, request.params) == ("A", "nano-banana-2", {"aspect_ratio": "1:1", "seed": "7"})
    assert request.prompt.startswith("이커머스 사진: 셔츠, blue")
    assert not request.folder.exists(), "it is cleared away once the image is in its place"


def test_the_providers_own_credits_settle_the_price(batch: SmallBatch) -> None:
    """Where credits and their price are known they are the cost, else the list price is, marked as estimated."""
    batch.products("A", "B")
    generator = ScriptedGenerator({"A": [Draws(credits_used=Decimal("1.5"))], "B": [Draws(credits_used=None)]})
    batch.run(generator, usd_per_credit=Decimal("0.01"))
    first, second = batch.report("A"), batch.report("B")
    assert (first.price_usd, first.price_is_estimated, first.credits_used) == (Decimal("0.015"), False, Decimal("1.5"))
    assert (second.price_usd, second.price_is_estimated, second.credits_used) == (PRICE, True, None)


def test_a_word_to_slow_down_pauses_all_and_costs_nothing(batch: SmallBatch) -> None:
    """A rate-limited row is asked for again in the same go, after the provider's own time, and is paid once."""
    slow = RateLimited("slow down", retry_after_s=0.1)
    generator = scripted(slow, slow)
    began = time.monotonic()
    ran = batch.run(generator)
    assert time.monotonic() - began >= 0.2
    assert isinstance(ran.outcomes["A"], Bought)
    assert (generator.calls_of("A"), generator.charges) == (3, 1)
    row = batch.report("A")
    assert paid(row) == (3, 1, PRICE)
    assert (row.error, row.error_kind) == ("", "")


def test_a_provider_that_never_gives_in_fails_the_row_for_free(
    batch: SmallBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many words to slow down the row has failed, and the next run takes it up."""
    monkeypatch.setattr(purchase, "RATE_LIMITED_TIMES", 3)
    generator = scripted(*[RateLimited("slow down", retry_after_s=0.0)] * 3)
    assert isinstance(error_of(batch.run(generator)), RateLimited)
    assert generator.calls_of("A") == 3
    assert batch.report("A").status is Status.FAILED
    assert isinstance(batch.run(generator).outcomes["A"], Bought)


def test_what_is_free_to_retry_is_left_to_the_caller(batch: SmallBatch) -> None:
    """A row refused before any work fails, costs nothing, and may be asked for at once again."""
    generator = scripted(ServiceUnavailable("down", code="503", request_id="r-1"))
    ran = batch.run(generator)
    assert isinstance(error_of(ran), ServiceUnavailable)
    row = batch.report("A")
    assert (row.status, row.error_kind, row.error, row.request_id) == (
        Status.FAILED,
        "ServiceUnavailable",
        "down",
        "r-1",
    )
    assert paid(row) == (1, 0, None)
    assert (ran.summary.exit_code, ran.summary.failed) == (1, 1)
    assert ran.summary.spent_usd == 0
    assert isinstance(batch.run(generator).outcomes["A"], Bought)
    assert paid(batch.report("A")) == (2, 1, PRICE)


def test_a_refused_row_is_asked_for_again_on_request_only(batch: SmallBatch) -> None:
    """A rejected row costs nothing, and only --retry-rejected makes a second call."""
    generator = scripted(ContentRejected("a weapon"))
    assert isinstance(error_of(batch.run(generator)), ContentRejected)
    assert batch.report("A").status is Status.REJECTED
    assert batch.run(generator).outcomes == {}
    assert generator.calls_of("A") == 1
    assert batch.run(generator).summary.exit_code == 1
    assert isinstance(batch.run(generator, retry_rejected=True).outcomes["A"], Bought)
    assert generator.charges == 1


@pytest.mark.parametrize("error", [InsufficientCredit("no credit"), AuthenticationFailed("bad key")])
def test_what_no_row_can_survive_stops_all(batch: SmallBatch, error: ImageGenerationError) -> None:
    """The run ends early, the other rows stay pending without a call, and a rerun goes on from there."""
    skus = [f"S{number}" for number in range(8)]
    batch.products(*skus)
    generator = ScriptedGenerator({"S3": [error]})
    ran = batch.run(generator, concurrency=1)
    assert (ran.summary.exit_code, ran.summary.stopped) == (3, str(error))
    made = generator.charges
    assert len(generator.calls) == made + 1
    assert batch.report("S3").status is Status.PENDING
    assert batch.report("S3").error_kind == error.kind
    assert sum(isinstance(outcome, RunStopped) for outcome in ran.outcomes.values()) == 8 - made - 1
    again = batch.run(generator)
    assert again.summary.exit_code == 0
    assert generator.charges == 8
    assert again.summary.bought == 8 - made


def test_calls_under_way_are_finished_when_the_run_stops(batch: SmallBatch) -> None:
    """An image that comes after another row's stop is kept all the same."""
    batch.products("A", "B")
    begun, stopped = threading.Event(), threading.Event()

    class Slow(ScriptedGenerator):
        def generate(self, request: ImageRequest) -> GeneratedImage:
            if request.sku == "A":
                assert begun.wait(60)
            else:
                begun.set()
                assert stopped.wait(60)
                time.sleep(0.05)
            try:
                return super().generate(request)
            finally:
                stopped.set()

    ran = batch.run(Slow({"A": [InsufficientCredit("no credit")]}))
    assert isinstance(ran.outcomes["B"], Bought)
    assert batch.report("B").status is Status.STORED


def test_a_row_between_two_calls_is_pending_again_when_the_run_stops(batch: SmallBatch) -> None:
    """Who was asked for patience when the run ended is in the next plan, with its price."""
    batch.products("A", "B")
    slow = RateLimited("slow down", retry_after_s=0.2)
    generator = ScriptedGenerator({"A": [slow], "B": [slow, InsufficientCredit("no credit")]})
    batch.run(generator, concurrency=1)
    assert {batch.report(sku).status for sku in "AB"} <= {Status.PENDING, Status.STORED}
    plan = batch.plan()
    assert len(plan.to_buy) == 2 - generator.charges
    assert len(plan.to_buy) > 0


def test_no_image_and_no_credit_taken_is_a_free_failure(batch: SmallBatch) -> None:
    """An empty answer that cost nothing may be asked for again."""
    generator = scripted(NoImage("no outputs", credits_used=Decimal(0)))
    assert isinstance(error_of(batch.run(generator)), ServiceUnavailable)
    row = batch.report("A")
    assert (row.status, paid(row)) == (Status.FAILED, (1, 0, None))
    assert isinstance(batch.run(generator).outcomes["A"], Bought)
    assert generator.charges == 1


def test_no_image_and_nothing_told_of_credit_is_unknown(batch: SmallBatch) -> None:
    """What may have been paid for is said so, counted, and not asked for again without a word."""
    generator = scripted(NoImage("no outputs"))
    ran = batch.run(generator)
    assert isinstance(error_of(ran), OutcomeUnknown)
    row = batch.report("A")
    assert (row.status, paid(row)) == (Status.UNKNOWN, (1, 1, PRICE))
    assert (ran.summary.in_doubt_usd, ran.summary.exit_code) == (PRICE, 1)
    assert batch.run(generator).outcomes == {}
    assert generator.calls_of("A") == 1
    assert isinstance(batch.run(generator, retry_unknown=True).outcomes["A"], Bought)
    assert paid(batch.report("A")) == (2, 2, 2 * PRICE)


def test_a_call_without_an_answer_is_unknown(batch: SmallBatch) -> None:
    """A time-out is never repeated blindly."""
    generator = scripted(OutcomeUnknown("no answer", request_id="r-9"))
    assert isinstance(error_of(batch.run(generator)), OutcomeUnknown)
    row = batch.report("A")
    assert (row.status, row.error, row.request_id) == (Status.UNKNOWN, "no answer", "r-9")
    batch.run(generator)
    assert generator.calls_of("A") == 1


def test_a_paid_call_that_brought_nothing_is_made_once_more(batch: SmallBatch) -> None:
    """Paid twice is the most that one row costs, and the report says that it was paid twice."""
    generator = scripted(NoImage("no outputs", credits_used=Decimal(1)))
    ran = batch.run(generator)
    assert isinstance(ran.outcomes["A"], Bought)
    assert generator.charges == 2
    row = batch.report("A")
    assert (row.status, paid(row)) == (Status.STORED, (2, 2, 2 * PRICE))
    assert ran.summary.spent_usd == 2 * PRICE


def test_a_row_paid_twice_for_nothing_is_lost(batch: SmallBatch) -> None:
    """There is no third call without the user's word."""
    nothing = NoImage("no outputs", credits_used=Decimal(1))
    generator = scripted(nothing, nothing)
    ran = batch.run(generator)
    assert isinstance(error_of(ran), NoImage)
    row = batch.report("A")
    assert (row.status, paid(row), row.path) == (Status.LOST, (2, 2, 2 * PRICE), "")
    assert ran.summary.exit_code == 1
    again = batch.run(generator)
    assert isinstance(error_of(again), Standstill)
    assert (generator.calls_of("A"), again.summary.exit_code) == (2, 1)
    assert isinstance(batch.run(generator, rebuy_lost=True).outcomes["A"], Bought)
    assert paid(batch.report("A")) == (3, 3, 3 * PRICE)


def test_broken_bytes_are_fetched_again_for_nothing(batch: SmallBatch, server: FileServer) -> None:
    """A spoilt download is mended from the answer's address, without a new call."""
    server.files["/a"] = picture("whole", kind="WEBP")
    generator = scripted(Draws(data=BROKEN.data, url=f"{server.url}/a"))
    assert isinstance(batch.run(generator).outcomes["A"], Bought)
    assert (generator.charges, server.asked) == (1, ["/a"])
    assert image_of(batch).read_bytes() == picture("whole", kind="WEBP")
    assert image_of(batch).suffix == ".webp"
    assert paid(batch.report("A")) == (1, 1, PRICE)


@pytest.mark.parametrize("step", [Draws(data=b""), NoImage("not downloaded", credits_used=Decimal(1))])
def test_an_image_that_never_came_is_fetched_from_its_address(
    batch: SmallBatch, server: FileServer, step: Step
) -> None:
    """A success without a file, or an answer with nothing but an address, is one call."""
    server.files["/a"] = picture("there")
    address = f"{server.url}/a"
    if isinstance(step, NoImage):
        step.url = address
    else:
        step = Draws(data=b"", url=address)
    generator = scripted(step)
    assert isinstance(batch.run(generator).outcomes["A"], Bought)
    assert len(generator.calls) == 1
    assert image_of(batch).read_bytes() == picture("there")
    assert batch.report("A").url == address


def test_bytes_that_stay_broken_cost_one_more_call(batch: SmallBatch, server: FileServer) -> None:
    """Broken here and at its address: one new call, and paid twice is told."""
    server.files["/a"] = b"still not an image"
    generator = scripted(Draws(data=BROKEN.data, url=f"{server.url}/a"))
    assert isinstance(batch.run(generator).outcomes["A"], Bought)
    assert generator.charges == 2
    assert paid(batch.report("A")) == (2, 2, 2 * PRICE)


def test_bytes_broken_twice_are_lost_and_may_yet_be_had(batch: SmallBatch, server: FileServer) -> None:
    """There is no third call; once the provider has mended its file it is taken from there, for nothing."""
    spoilt = Draws(data=BROKEN.data, url=f"{server.url}/a")
    generator = scripted(spoilt, spoilt)
    assert isinstance(error_of(batch.run(generator)), SpoiltImage)
    row = batch.report("A")
    assert (row.status, paid(row)) == (Status.LOST, (2, 2, 2 * PRICE))
    assert "Ask the provider for the money back" in row.error
    server.files["/a"] = picture("mended")
    again = batch.run(generator)
    assert again.summary.exit_code == 0
    assert generator.calls_of("A") == 2
    assert image_of(batch).read_bytes() == picture("mended")


def test_a_paid_call_is_not_forgotten_between_two_tries(batch: SmallBatch) -> None:
    """Broken, then a provider that is unwell, then broken again: that is the one new call, and there is no third."""
    generator = scripted(BROKEN, ServiceUnavailable("busy"), BROKEN)
    assert isinstance(error_of(batch.run(generator)), ServiceUnavailable)
    assert isinstance(error_of(batch.run(generator)), SpoiltImage)
    assert batch.report("A").status is Status.LOST
    assert generator.charges == 2
    assert isinstance(batch.run(generator, rebuy_lost=True).outcomes["A"], Bought)
    assert generator.charges == 3


def test_the_bytes_decide_the_extension(batch: SmallBatch) -> None:
    """A JPEG that calls itself PNG is kept as what it is."""
    batch.run(scripted(Draws(data=picture(kind="JPEG"))))
    assert image_of(batch).suffix == ".jpg"


def test_another_output_is_filled_from_the_first(batch: SmallBatch) -> None:
    """The same file into a second folder buys nothing, and images that vanish come back from either folder."""
    generator = ScriptedGenerator()
    batch.run(generator)
    second = batch.root / "second"
    ran = batch.run(generator, output=str(second))
    assert ran.summary.exit_code == 0
    assert (ran.summary.bought, generator.charges) == (0, 1)
    assert batch.report("A", second).status is Status.STORED
    data = image_of(batch, output=second).read_bytes()
    image_of(batch).unlink()
    assert batch.run(generator).summary.exit_code == 0
    assert image_of(batch).read_bytes() == data
    assert generator.charges == 1


def test_a_deleted_image_is_fetched_again(batch: SmallBatch, server: FileServer) -> None:
    """Bought, and the file is gone: the provider's address has it still."""
    generator = scripted(Draws(url=f"{server.url}/a"))
    batch.run(generator)
    server.files["/a"] = image_of(batch).read_bytes()
    image_of(batch).unlink()
    assert batch.run(generator).summary.exit_code == 0
    assert image_of(batch).read_bytes() == server.files["/a"]
    assert generator.charges == 1


def test_a_deleted_image_that_nobody_has_is_lost(batch: SmallBatch) -> None:
    """It is told as lost, without a path, is not bought again, and comes back by itself if its file does."""
    generator = ScriptedGenerator()
    batch.run(generator)
    path = image_of(batch)
    data = path.read_bytes()
    path.unlink()
    ran = batch.run(generator)
    assert isinstance(error_of(ran), Standstill)
    assert ran.summary.exit_code == 1
    row = batch.report("A")
    assert (row.status, row.path, row.thumbnail) == (Status.LOST, "", "")
    assert "--rebuy-lost" in row.error
    assert [row["image_path"] for row in table(batch.output / "results.csv")] == [""]
    assert (batch.output / "failures.csv").exists()
    path.write_bytes(data)
    again = batch.run(generator)
    assert again.summary.exit_code == 0
    row = batch.report("A")
    assert (row.status, row.error, row.paid_calls) == (Status.STORED, "", 1)
    assert generator.charges == 1


def test_another_file_in_the_lost_ones_place_does_not_count(batch: SmallBatch) -> None:
    """Only the very image that was bought brings a row back."""
    generator = ScriptedGenerator()
    batch.run(generator)
    path = image_of(batch)
    path.unlink()
    batch.run(generator)
    path.write_bytes(picture("another"))
    assert isinstance(error_of(batch.run(generator)), Standstill)
    assert batch.report("A").status is Status.LOST


def test_a_lost_image_is_bought_again_on_request(batch: SmallBatch) -> None:
    """--rebuy-lost buys what is gone, at once, and the report shows both prices."""
    generator = ScriptedGenerator()
    batch.run(generator)
    image_of(batch).unlink()
    assert isinstance(batch.run(generator, rebuy_lost=True).outcomes["A"], Bought)
    assert generator.charges == 2
    row = batch.report("A")
    assert (row.status, paid(row)) == (Status.STORED, (2, 2, 2 * PRICE))


def test_what_came_back_is_not_bought_again(batch: SmallBatch) -> None:
    """With --rebuy-lost too, a lost image whose file is there again costs nothing, wherever it is."""
    batch.products("A", "B")
    generator = ScriptedGenerator()
    batch.run(generator)
    batch.run(generator, output=str(batch.root / "second"))
    paths = [image_of(batch, sku) for sku in "AB"]
    seconds = [image_of(batch, sku, batch.root / "second") for sku in "AB"]
    data = [path.read_bytes() for path in paths]
    for path in [*paths, *seconds]:
        path.unlink()
    batch.run(generator)
    assert {batch.report(sku).status for sku in "AB"} == {Status.LOST}
    paths[0].write_bytes(data[0])
    seconds[1].write_bytes(data[1])
    ran = batch.run(generator, rebuy_lost=True)
    assert (ran.summary.exit_code, generator.charges) == (0, 2)
    assert [path.read_bytes() for path in paths] == data


class Killed(Exception):
    """Stands in the tests for what ends a process between two lines."""


def leave_orphan(
    batch: SmallBatch, *, host: str = "", image: bytes = b"", child: ChildProcess | None = None
) -> Attempt:
    """A row whose run died while its call was under way."""
    (job,) = batch.jobs()
    run = batch.open(batch.settings())
    run.begin("anycap", batch.plan().batch)
    pid, started = dead_process()
    owner = Owner(str(uuid.uuid4()), run.id, host or socket.gethostname())
    put_owner(run.ledger, owner, pid=pid, started=started)
    folder = run.output.open_call(new_attempt_id())
    taken = run.ledger.calls.take(job, owner, folder, Cost(PRICE), frozenset())
    assert isinstance(taken, Attempt)
    if image:
        (folder / "image.png").write_bytes(image)
    if child:
        run.ledger.calls.note_child(taken.id, child)
    return taken


def test_a_call_whose_run_died_is_adopted(batch: SmallBatch) -> None:
    """Its folder and its child are handed to the generator, and what it brought is taken without a new call."""
    child = ChildProcess(4711, 1.0)
    attempt = leave_orphan(batch, child=child)
    assert batch.report("A").status is Status.UNKNOWN
    assert "next run finds out" in batch.report("A").error
    generator = ScriptedGenerator()
    ran = batch.run(generator)
    assert isinstance(ran.outcomes["A"], Bought)
    ((request, found),) = generator.recovered
    assert (request.folder, request.prompt, found) == (attempt.folder, attempt.job.prompt, child)
    assert generator.calls == []
    row = batch.report("A")
    assert (row.status, paid(row), row.error) == (Status.STORED, (1, 1, PRICE), "")
    assert not attempt.folder.exists()
    assert batch.run(generator).outcomes == {}


def test_a_call_that_was_never_sent_is_made(batch: SmallBatch) -> None:
    """Where the dead run had not called yet, the row is bought now, once."""
    leave_orphan(batch)
    generator = ScriptedGenerator(recoveries={"A": [ServiceUnavailable("never sent", code="never_sent")]})
    assert isinstance(batch.run(generator).outcomes["A"], Bought)
    assert generator.charges == 1
    assert paid(batch.report("A")) == (2, 1, PRICE)


def test_a_call_that_ran_out_of_credit_is_made_again(batch: SmallBatch) -> None:
    """What stopped the dead run may be mended: the answer it left does not stop this one."""
    leave_orphan(batch)
    generator = ScriptedGenerator(recoveries={"A": [InsufficientCredit("no credit")]})
    ran = batch.run(generator)
    assert isinstance(ran.outcomes["A"], Bought)
    assert (ran.summary.exit_code, generator.charges) == (0, 1)


@pytest.mark.parametrize(
    ("found", "status", "paid_calls"),
    [
        (OutcomeUnknown("cut off"), Status.UNKNOWN, 1),
        (ContentRejected("a weapon"), Status.REJECTED, 0),
        (NoImage("no outputs"), Status.UNKNOWN, 1),
        (NoImage("no outputs", credits_used=Decimal(1)), Status.LOST, 1),
        (NoImage("no outputs", credits_used=Decimal(0)), Status.FAILED, 0),
        (Draws(data=b"broken"), Status.LOST, 1),
    ],
)
def test_what_became_of_a_dead_runs_call_is_what_the_row_is(
    batch: SmallBatch, found: Step, status: Status, paid_calls: int
) -> None:
    """Whatever the look-up brings is told and settled, and makes no new call by itself."""
    leave_orphan(batch)
    generator = ScriptedGenerator(recoveries={"A": [found]})
    ran = batch.run(generator)
    assert isinstance(error_of(ran), ImageGenerationError)
    assert generator.calls == []
    row = batch.report("A")
    assert (row.status, row.paid_calls) == (status, paid_calls)
    assert ran.summary.exit_code == 1


def test_a_call_of_another_machine_is_left_to_it(batch: SmallBatch) -> None:
    """Its answer lies on that machine, so the row stays open for it; --retry-unknown settles it here."""
    leave_orphan(batch, host="another-machine", child=ChildProcess(1, 2.0))
    generator = ScriptedGenerator(recoveries={"A": 2 * [ServiceUnavailable("never sent", code="never_sent")]})
    ran = batch.run(generator)
    assert "another-machine" in str(error_of(ran))
    assert "--retry-unknown" in str(error_of(ran))
    assert generator.calls == []
    assert [child for _, child in generator.recovered] == [None], "its number means nothing here"
    (job,) = batch.jobs()
    assert batch.ledger().standings([job.key])[job.key].state is State.SUBMITTED
    assert batch.report("A").status is Status.UNKNOWN
    batch.run(generator, retry_unknown=True)
    batch.run(generator, retry_unknown=True)
    assert generator.charges == 1
    assert batch.report("A").status is Status.STORED
    assert batch.report("A").paid_calls == 2


def test_an_image_that_another_container_left_here_is_taken(batch: SmallBatch) -> None:
    """Each container is a host of its own, and the output folder is on a volume that they share."""
    leave_orphan(batch, host="a-container-that-is-gone")
    generator = ScriptedGenerator()
    assert isinstance(batch.run(generator).outcomes["A"], Bought)
    assert generator.calls == []
    assert paid(batch.report("A")) == (1, 1, PRICE)


def test_an_address_that_another_container_left_here_is_used(batch: SmallBatch, server: FileServer) -> None:
    """A whole answer was paid for, wherever it was written."""
    leave_orphan(batch, host="a-container-that-is-gone")
    server.files["/a"] = picture("there")
    nowhere = NoImage("no file", credits_used=Decimal(1), url=f"{server.url}/a")
    assert isinstance(batch.run(ScriptedGenerator(recoveries={"A": [nowhere]})).outcomes["A"], Bought)
    assert paid(batch.report("A")) == (1, 1, PRICE)


def test_a_call_of_the_same_run_is_not_made_again_on_its_word(batch: SmallBatch) -> None:
    """It died in the call, and begins anew: that its call is in doubt is news, which the user has yet to see."""
    attempt = leave_orphan(batch)
    with batch.ledger().reading() as connection:
        run_id = connection.execute(select(attempts.c.run).where(attempts.c.attempt == attempt.id)).scalar_one()
    generator = ScriptedGenerator(recoveries={"A": [OutcomeUnknown("half an answer")]})
    batch.run(generator, run_id=run_id, retry_unknown=True)
    assert generator.calls == []
    assert batch.report("A").status is Status.UNKNOWN


class Hangs(ScriptedGenerator):
    """A generator whose picture is written and whose answer never comes."""

    def generate(self, request: ImageRequest) -> GeneratedImage:
        """Write the picture, say so, and hang."""
        made = super().generate(request)
        (request.folder / "ready").touch()
        time.sleep(60)
        return made


class Finds(ScriptedGenerator):
    """A generator that looks for the picture which a dead run's call has left."""

    def recover(self, request: ImageRequest, child: ChildProcess | None) -> GeneratedImage:
        """Take what lies in the folder."""
        self.recovered.append((request, child))
        return GeneratedImage(request.folder / "image.png", request.model, "found")


def run_and_hang(root: str) -> None:
    """Run the batch, in a process that is there to be killed."""
    SmallBatch(Path(root)).run(Hangs())


def test_a_killed_run_loses_nothing(batch: SmallBatch) -> None:
    """A real process is killed in its call; the next run finds the image and pays nothing more."""
    child = multiprocessing.get_context("spawn").Process(target=run_and_hang, args=(str(batch.root),))
    child.start()
    calls = batch.output / ".rowshot" / "calls"
    deadline = time.monotonic() + 30
    while not list(calls.glob("*/ready")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    (left,) = calls.glob("*/image.png")
    data = left.read_bytes()
    generator = Finds()
    ran = batch.run(generator)
    assert ran.summary.exit_code == 0
    assert (len(generator.recovered), len(generator.calls)) == (1, 0)
    assert image_of(batch).read_bytes() == data
    assert batch.report("A").paid_calls == 1


def test_a_row_that_another_run_holds_is_waited_for(batch: SmallBatch) -> None:
    """Two runs of one file at the same time buy each row once between them, and both have all images."""
    skus = [f"S{number}" for number in range(6)]
    batch.products(*skus)

    class Slow(ScriptedGenerator):
        def generate(self, request: ImageRequest) -> GeneratedImage:
            time.sleep(0.05)
            return super().generate(request)

    generator = Slow()
    jobs = batch.jobs()
    outputs = [batch.root / "first", batch.root / "second"]
    runs = [batch.open(batch.settings(output=str(output))) for output in outputs]
    for run in runs:
        run.begin("anycap", batch.plan().batch)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda run: buy(run, generator, jobs), runs))
    assert generator.charges == len(skus)
    assert all(isinstance(outcome, Bought) for outcomes in both for outcome in outcomes.values())
    for output in outputs:
        assert len(list((output / "images" / "product").iterdir())) == len(skus)


def with_template(batch: SmallBatch, header: str) -> dict[str, Any]:
    """Options that use a template with this header."""
    own = batch.root / "own"
    own.mkdir(exist_ok=True)
    (own / "mine.jinja").write_text(TEMPLATE.format(header=header))
    return {"templates": str(own), "template": "mine"}


def test_a_templates_size_and_format_are_made_from_the_original(batch: SmallBatch) -> None:
    """What the template asks for is delivered, the original is kept, and another size later is free."""
    generator = ScriptedGenerator({"A": [Draws(size=(80, 80))]})
    ran = batch.run(generator, **with_template(batch, "size: 40x20\nformat: webp\n"))
    assert ran.summary.exit_code == 0
    made = verify_image(image_of(batch))
    assert (made.format, made.width, made.height) == ("webp", 40, 20)
    row = batch.report("A")
    assert row.path.startswith("images/mine/")
    assert verify_image(batch.output / row.original).width == 80
    first = image_of(batch)
    other = batch.run(generator, **with_template(batch, "size: 20x40\nformat: jpeg\n"))
    assert (other.summary.exit_code, other.summary.bought, generator.charges) == (0, 0, 1)
    made = verify_image(image_of(batch))
    assert (made.format, made.width, made.height) == ("jpeg", 20, 40)
    assert first.is_file(), "its address may be in use somewhere"
    plain = batch.run(generator, **with_template(batch, ""))
    assert plain.summary.exit_code == 0
    assert verify_image(image_of(batch)).width == 80
    assert generator.charges == 1


def test_a_deleted_finish_is_made_again(batch: SmallBatch) -> None:
    """Where the original is there the rest is free."""
    generator = ScriptedGenerator()
    options = with_template(batch, "size: 40x20\n")
    batch.run(generator, **options)
    path = image_of(batch)
    path.unlink()
    assert batch.run(generator, **options).summary.exit_code == 0
    assert verify_image(path).width == 40
    assert generator.charges == 1


def test_deleted_originals_are_no_loss_while_the_images_are_there(batch: SmallBatch) -> None:
    """Who clears the originals away still has all images, and nothing is called lost."""
    generator = ScriptedGenerator()
    options = with_template(batch, "size: 40x20\n")
    batch.run(generator, **options)
    (batch.output / batch.report("A").original).unlink()
    assert batch.run(generator, **options).summary.exit_code == 0
    assert batch.report("A").status is Status.STORED


def test_an_image_that_cannot_be_kept_ends_the_run_and_is_not_lost(batch: SmallBatch) -> None:
    """A paid image stays in its call's folder, no more calls begin, and the next run takes it from there."""
    skus = [f"S{number}" for number in range(12)]
    batch.products(*skus)
    batch.output.mkdir()
    (batch.output / "images").write_text("in the way")
    generator = Finds()
    ran = batch.run(generator, concurrency=1)
    assert isinstance(error_of(ran, "S0"), StoreUnusable)
    assert isinstance(error_of(ran, "S11"), RunStopped)
    assert ran.summary.exit_code == 3
    assert "paid for and can't be kept" in ran.summary.stopped
    bought = generator.charges
    assert bought < 12
    left = list((batch.output / ".rowshot" / "calls").glob("*/image.png"))
    data = {path.read_bytes() for path in left}
    assert len(left) == len(data) == bought
    (batch.output / "images").unlink()
    again = batch.run(generator)
    assert again.summary.exit_code == 0
    assert (generator.charges, len(generator.recovered)) == (12, bought)
    assert data <= {image_of(batch, sku).read_bytes() for sku in skus}
    assert {batch.report(sku).paid_calls for sku in skus} == {1}


def test_a_spoilt_original_is_brought_back_like_one_that_is_gone(batch: SmallBatch, server: FileServer) -> None:
    """Half of the file is there, and what was made of it is not: the provider's address has it whole."""
    generator = scripted(Draws(url=f"{server.url}/a"))
    options = with_template(batch, "size: 40x20\n")
    batch.run(generator, **options)
    (original,) = (batch.output / "originals").rglob("*.png")
    server.files["/a"] = original.read_bytes()
    original.write_bytes(server.files["/a"][:100])
    image_of(batch).unlink()
    assert batch.run(generator, **options).summary.exit_code == 0
    assert (original.read_bytes(), image_of(batch).is_file()) == (server.files["/a"], True)
    assert generator.charges == 1


def test_a_finish_that_cannot_be_written_ends_the_run(batch: SmallBatch) -> None:
    """The paid original is in the ledger; once there is room its finish is made for nothing."""
    batch.products("A", "B")
    options = with_template(batch, "size: 40x20\n")
    batch.output.mkdir()
    (batch.output / "images").write_text("in the way")
    generator = ScriptedGenerator()
    ran = batch.run(generator, concurrency=1, **options)
    assert isinstance(error_of(ran), StoreUnusable)
    assert ran.summary.exit_code == 3
    (batch.output / "images").unlink()
    assert batch.run(generator, **options).summary.exit_code == 0
    assert generator.charges == 2


def test_a_full_disk_stops_before_the_call(batch: SmallBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for an image none is bought."""
    generator = ScriptedGenerator()
    monkeypatch.setattr("flows.batch.stores.ROOM_BYTES", 1 << 60)
    ran = batch.run(generator)
    assert (ran.summary.exit_code, generator.calls) == (3, [])
    assert batch.report("A").status is Status.PENDING
    monkeypatch.undo()
    assert batch.run(generator).summary.exit_code == 0


def test_without_a_ledger_nothing_is_bought(batch: SmallBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that goes away before a call ends the run; one that goes after it costs no second call."""
    monkeypatch.setattr(ledger_database, "LOCK_WAIT_S", 0.1)
    import sqlite3  # noqa: PLC0415 - the other program

    class Locks(Finds):
        other: sqlite3.Connection | None = None

        def generate(self, request: ImageRequest) -> GeneratedImage:
            made = super().generate(request)
            self.other = sqlite3.connect(batch.ledger_path, isolation_level=None, check_same_thread=False)
            self.other.execute("BEGIN IMMEDIATE")
            return made

    generator = Locks()
    run = batch.open(batch.settings())
    plan = batch.plan()
    run.begin("anycap", plan.batch)
    with run.buying(generator) as buying:
        with pytest.raises(LedgerUnavailable):
            buying.get(plan.todo[0])
        with pytest.raises(RunStopped):
            buying.get(plan.todo[0])
        assert generator.other
        generator.other.close()
    assert run.finish().exit_code == 3
    assert generator.charges == 1
    assert isinstance(run.slots.stopped, LedgerUnavailable)
    found = Finds()
    ran = batch.run(found)
    assert (ran.summary.exit_code, found.charges, len(found.recovered)) == (0, 0, 1)
    assert batch.report("A").paid_calls == 1


def test_a_bug_in_a_generator_buys_nothing_twice(batch: SmallBatch) -> None:
    """An error that is none of ours leaves the row open, to be looked up and not to be bought blindly."""

    class Buggy(Finds):
        def generate(self, request: ImageRequest) -> GeneratedImage:
            super().generate(request)
            raise Killed

    generator = Buggy()
    run = batch.open(batch.settings())
    plan = batch.plan()
    run.begin("anycap", plan.batch)
    with run.buying(generator) as buying:
        with pytest.raises(Killed):
            buying.get(plan.todo[0])
        assert isinstance(buying.get(plan.todo[0]), Bought)
    assert (generator.charges, len(generator.recovered)) == (1, 1)


def test_a_stop_leaves_rows_pending(batch: SmallBatch) -> None:
    """Rows that were not begun when the run ended are untouched."""
    batch.products("A", "B")
    generator = ScriptedGenerator()
    run = batch.open(batch.settings())
    plan = batch.plan()
    run.begin("anycap", plan.batch)
    run.slots.stop(RunStopped("cancelled"))
    outcomes = buy(run, generator, plan.todo)
    summary = run.finish()
    assert all(isinstance(outcome, RunStopped) for outcome in outcomes.values())
    assert generator.calls == []
    assert (summary.exit_code, summary.stopped) == (3, "cancelled")
    assert {batch.report(sku).status for sku in "AB"} == {Status.PENDING}
    assert batch.report("A").attempts == 0


def test_the_limit_of_calls_at_once_is_kept(batch: SmallBatch) -> None:
    """Never more calls are in flight than the run's concurrency."""
    batch.products(*[f"S{number}" for number in range(12)])
    lock = threading.Lock()
    now: list[int] = []
    most: list[int] = []

    class Counts(ScriptedGenerator):
        def generate(self, request: ImageRequest) -> GeneratedImage:
            with lock:
                now.append(1)
                most.append(len(now))
            time.sleep(0.05)
            with lock:
                now.pop()
            return super().generate(request)

    batch.run(Counts(), concurrency=3)
    assert max(most) == 3


def test_a_standstill_names_the_state(batch: SmallBatch) -> None:
    """A row that may not be bought as it stands says why, with the ledger's own words."""
    batch.run(scripted(ContentRejected("a weapon")))
    run = batch.open(batch.settings())
    (job,) = batch.jobs()
    outcome = buy(run, ScriptedGenerator(), [job])["A"]
    assert isinstance(outcome, Standstill)
    assert (str(outcome), outcome.standing.state) == ("a weapon", State.REJECTED)
    put_state(run.ledger, State.UNKNOWN, error="")
    assert str(buy(run, ScriptedGenerator(), [job])["A"]) == "The row is unknown."


def test_what_may_be_paid_for_stays_on_disk(batch: SmallBatch) -> None:
    """The folders of a spoilt image and of a call without an answer are there for a person to look at."""
    generator = scripted(Draws(data=b"half an image"), OutcomeUnknown("cut off"))
    batch.run(generator)
    left = list((batch.output / ".rowshot" / "calls").iterdir())
    assert sorted([path.name for path in folder.iterdir()] for folder in left) == [[], ["image.png"]]
