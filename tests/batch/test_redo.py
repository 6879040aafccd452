from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_generator import Draws, ScriptedGenerator, Step, picture
from small_batch import SmallBatch, buy, table

from blocks.errors import ContentRejected, InsufficientCredit, OutcomeUnknown, ServiceUnavailable
from flows.batch.jobs import Source
from flows.batch.ledger_tables import State
from flows.batch.problems import NotStarted
from flows.batch.redo import find_redo, made_already, redo_jobs
from flows.batch.request import Request
from flows.batch.row_report import Status
from flows.batch.run import BatchRun
from flows.batch.settings import RedoSettings
from flows.batch.verify import verify_image


@pytest.fixture
def batch(tmp_path: Path) -> SmallBatch:
    """Two products that have their images."""
    found = SmallBatch(tmp_path)
    found.products("A", "B")
    found.run(ScriptedGenerator())
    return found


def refused(batch: SmallBatch, *skus: str, **changes: str) -> list[str]:
    """Why images can't be made again."""
    generator = ScriptedGenerator()
    with pytest.raises(NotStarted) as told:
        batch.redo(generator, *skus, **changes)
    assert generator.calls == []
    return [str(problem) for problem in told.value.problems]


def test_a_redo_buys_a_new_image_and_the_old_one_stays(batch: SmallBatch) -> None:
    """The prompt gets the added words, the row shows the new image, and the old file is where it was."""
    before = batch.report("A")
    old = (batch.output / before.path).read_bytes()
    generator = ScriptedGenerator({"A": [Draws(data=picture("softer"))]})
    ran = batch.redo(generator, "A", add=" softer light ")
    (request,) = generator.calls
    assert request.prompt == f"{before.prompt}, softer light"
    assert (request.model, request.params) == (before.model, {"aspect_ratio": "1:1"})
    after = batch.report("A")
    assert (after.status, after.prompt) == (Status.STORED, request.prompt)
    assert after.fingerprint != before.fingerprint
    assert (batch.output / after.path).read_bytes() == picture("softer")
    assert (batch.output / before.path).read_bytes() == old
    assert (ran.summary.bought, ran.summary.exit_code) == (1, 0)
    assert batch.report("B").path == table(batch.output / "manifest.csv")[1]["path"]


def test_a_redo_without_words_is_another_image_of_the_same_prompt(batch: SmallBatch) -> None:
    """Asking again is enough for a new variant."""
    before = batch.report("A")
    generator = ScriptedGenerator()
    batch.redo(generator, "A")
    assert generator.calls[0].prompt == before.prompt
    assert batch.report("A").fingerprint != before.fingerprint


def test_a_rerun_of_the_file_keeps_the_redo_and_buys_nothing(batch: SmallBatch) -> None:
    """The file did not change, so its rows go on to show the newer images, in any output."""
    batch.redo(ScriptedGenerator(), "A", add="softer")
    redone = batch.report("A")
    generator = ScriptedGenerator()
    ran = batch.run(generator)
    assert (generator.calls, ran.summary.exit_code) == ([], 0)
    assert ran.plan is not None
    assert (ran.plan.bought, ran.plan.changed, ran.plan.to_buy) == (2, 0, ())
    assert batch.report("A") == replace(redone, run=ran.run.id)
    second = batch.root / "second"
    assert batch.run(generator, output=str(second)).summary.exit_code == 0
    assert generator.calls == []
    assert batch.report("A", second).fingerprint == redone.fingerprint


def test_a_redo_whose_file_is_lost_stays_lost(batch: SmallBatch) -> None:
    """The row is not shown with its old image; the redo comes back with its file, or is bought again on request."""
    generator = ScriptedGenerator()
    batch.run(generator)
    batch.redo(generator, "A")
    file = batch.output / batch.report("A").path
    away = file.rename(batch.root / "away.png")
    for _ in range(2):
        assert batch.run(generator).summary.exit_code == 1
        assert batch.report("A").status is Status.LOST
    away.rename(file)
    assert batch.run(generator).summary.exit_code == 0
    assert batch.output / batch.report("A").path == file
    file.unlink()
    paid = generator.charges
    assert batch.run(generator, rebuy_lost=True).summary.exit_code == 0
    assert (generator.charges, file.is_file()) == (paid + 1, True)


def test_results_show_the_redo(batch: SmallBatch) -> None:
    """What a shop imports and the manifest name the new image at once."""
    batch.redo(ScriptedGenerator(), "A", add="softer")
    row = batch.report("A")
    for name, column in (("results.csv", "image_path"), ("manifest.csv", "path")):
        assert [line[column] for line in table(batch.output / name) if line["sku"] == "A"] == [row.path]
    assert len(table(batch.output / "results.csv")) == 2


def test_several_redos_go_on_from_one_another(batch: SmallBatch) -> None:
    """Each is a variant of its own, and adds its words to what is shown now."""
    first = batch.report("A")
    generator = ScriptedGenerator()
    for words in ("softer", "no shadow", ""):
        batch.redo(generator, "A", add=words)
    prompts = [request.prompt for request in generator.calls]
    assert prompts == [f"{first.prompt}, softer", *[f"{first.prompt}, softer, no shadow"] * 2]
    assert len({batch.report("A").fingerprint, first.fingerprint}) == 2
    assert len(list((batch.output / "images" / "product").iterdir())) == 5
    assert batch.run(generator).outcomes == {}
    assert batch.report("A").prompt == prompts[-1]


def test_a_changed_row_leaves_its_redo_behind(batch: SmallBatch) -> None:
    """Other words in the sheet are another image; back again, the redo is shown again."""
    batch.redo(ScriptedGenerator(), "A", add="softer")
    redone = batch.report("A")
    batch.products("A", "B", color="green")
    generator = ScriptedGenerator()
    batch.run(generator)
    assert len(generator.calls) == 2
    assert "softer" not in batch.report("A").prompt
    batch.products("A", "B")
    batch.run(generator)
    assert len(generator.calls) == 2
    assert batch.report("A").fingerprint == redone.fingerprint


def test_several_skus_are_made_again_at_once(batch: SmallBatch) -> None:
    """One redo may name many rows."""
    generator = ScriptedGenerator()
    ran = batch.redo(generator, "A", "B", add="softer")
    assert sorted(request.sku for request in generator.calls) == ["A", "B"]
    assert ran.summary.bought == 2


def test_an_unknown_sku_stops_before_anything_is_bought(batch: SmallBatch) -> None:
    """Each name that is not there is told, and none of the others is bought."""
    told = refused(batch, "A", "X", "Y")
    assert len(told) == 2
    assert "'X'" in told[0]
    assert "manifest.csv" in told[0]


def test_an_output_without_rows_has_nothing_to_make_again(batch: SmallBatch) -> None:
    """Another folder's rows are not this one's."""
    (told,) = refused(batch, "A", output=str(batch.root / "other"))
    assert "There is no row 'A'" in told


def test_only_the_named_template_is_made_again(batch: SmallBatch) -> None:
    """Of a sku with several images the one that is named, or all of them."""
    batch.csv("sku,name,color,template\nA,Shirt,blue,\nA,Shirt,blue,product_hero\n")
    batch.run(ScriptedGenerator())
    generator = ScriptedGenerator()
    batch.redo(generator, "A", template="product_hero")
    assert [request.model for request in generator.calls] == ["seedream-5"]
    (told,) = refused(batch, "A", template="lifestyle")
    assert "of the template lifestyle" in told
    batch.redo(generator, "A")
    assert len(generator.calls) == 3


def test_a_row_without_an_image_is_not_made_again(batch: SmallBatch) -> None:
    """What was never asked for is the file's to buy, and the command says so."""
    batch.products("A", "B", "C")
    batch.run(ScriptedGenerator(), limit=1)
    batch.products("A", "B", "C", "D")
    run = batch.open(batch.settings())
    run.begin("anycap", batch.plan().batch)
    (told,) = refused(batch, "D")
    assert "'D'" in told


@pytest.mark.parametrize(
    ("error", "status", "exit_code"),
    [
        (ContentRejected("a weapon"), Status.REJECTED, 1),
        (ServiceUnavailable("down"), Status.FAILED, 1),
        (OutcomeUnknown("cut off"), Status.UNKNOWN, 1),
        (InsufficientCredit("no credit"), Status.PENDING, 3),
    ],
)
def test_a_redo_that_fails_is_told_and_the_old_image_is_shown_still(
    batch: SmallBatch, error: Exception, status: Status, exit_code: int
) -> None:
    """The run says what became of it, and the row keeps the image that it has."""
    before = batch.report("A")
    ran = batch.redo(ScriptedGenerator({"A": [error]}), "A", add="x")  # type: ignore[list-item]
    assert ran.summary.exit_code == exit_code
    assert ran.summary.counts == {status: 1}
    if status.is_failure:
        assert [(row.sku, row.error) for row in ran.summary.failures] == [("A", str(error))]
    assert batch.report("A") == before
    assert [row["image_status"] for row in table(batch.output / "results.csv")] == ["stored", "stored"]


def test_a_redo_that_was_stopped_is_taken_up_and_not_bought_beside_itself(batch: SmallBatch) -> None:
    """The same command again makes the variant that was cut off; the next one after it is a new variant."""
    batch.redo(ScriptedGenerator({"A": [InsufficientCredit("no credit")]}), "A", add="softer")
    generator = ScriptedGenerator()
    batch.redo(generator, "A", add="softer")
    first = batch.report("A")
    assert len(generator.calls) == 1
    assert first.prompt.endswith(", softer")
    assert first.attempts == 2
    batch.redo(generator, "A")
    assert batch.report("A").fingerprint != first.fingerprint
    assert len(generator.calls) == 2


@pytest.mark.parametrize(
    ("script", "cap", "exit_code"),
    [
        ({"C": [InsufficientCredit("no credit")]}, "", 3),
        ({"C": [ServiceUnavailable("down")]}, "", 1),
        ({}, "0.01", 3),
    ],
)
def test_the_same_redo_goes_on_where_it_ended_early(
    batch: SmallBatch, script: Mapping[str, Sequence[Step]], cap: str, exit_code: int
) -> None:
    """What it has bought is not bought anew, and no words are added twice; once it is finished, it is a new redo."""
    batch.products(*"ABC")
    batch.run(ScriptedGenerator())
    generator = ScriptedGenerator(script)
    first = batch.redo(generator, *"ABC", add="softer", max_cost_usd=cap, concurrency=1)
    assert (first.summary.exit_code, generator.charges) == (exit_code, 2)
    second = batch.redo(generator, *"ABC", add="softer")
    assert (second.summary.exit_code, second.summary.images, second.summary.bought) == (0, 3, 1)
    assert generator.charges == 3
    assert {batch.report(sku).prompt.count("softer") for sku in "ABC"} == {1}
    assert batch.redo(generator, *"ABC", add="softer").summary.bought == 3


def test_a_redo_goes_on_as_often_as_it_ends_early(batch: SmallBatch) -> None:
    """Each time it has the images of all the times before."""
    batch.products(*"ABC")
    batch.run(ScriptedGenerator())
    capped, failing = ScriptedGenerator(), ScriptedGenerator({"C": [ServiceUnavailable("down")] * 2})
    one_each = [batch.redo(capped, *"ABC", max_cost_usd="0.005", concurrency=1).summary.bought for _ in "ABC"]
    all_but_one = [batch.redo(failing, *"ABC", add="softer").summary.bought for _ in "ABC"]
    assert (one_each, all_but_one) == ([1, 1, 1], [2, 0, 1])


@pytest.mark.parametrize("words", ["darker", ""])
def test_other_words_are_another_redo(batch: SmallBatch, words: str) -> None:
    """After one that ended early each image is bought that is asked for with other words, or with none."""
    generator = ScriptedGenerator({"B": [InsufficientCredit("no credit")]})
    batch.redo(generator, "A", "B", add="softer", concurrency=1)
    assert batch.redo(generator, "A", "B", add=words).summary.bought == 2


def test_a_finished_redo_is_not_part_of_a_larger_one(batch: SmallBatch) -> None:
    """Whoever asks for its image once more, and for others, has them all made."""
    generator = ScriptedGenerator()
    batch.redo(generator, "A")
    assert batch.redo(generator, "A", "B").summary.bought == 2


def test_a_redo_that_was_killed_is_gone_on_with(batch: SmallBatch) -> None:
    """What it had bought and no row shows yet is shown, and is not bought anew."""
    settings = RedoSettings(skus=["A", "B"], add="softer", output=str(batch.output), ledger=batch.where)
    killed = BatchRun.open(Request.of_redo(settings))
    jobs = redo_jobs(settings, find_redo(settings, killed.ledger, batch.output), killed.ledger, batch.source, killed.id)
    generator = ScriptedGenerator()
    with killed.under_way:
        killed.begin("anycap")
        buy(killed, generator, jobs)
    ran = batch.redo(generator, "A", "B", add="softer")
    assert (ran.summary.exit_code, ran.summary.images, generator.charges) == (0, 2, 2)
    assert [batch.report(sku).fingerprint for sku in "AB"] == [job.fingerprint for job in jobs]


def test_a_redo_that_is_begun_once_more_buys_nothing_again(batch: SmallBatch) -> None:
    """A flow run that is retried or resumed goes on, and where all was made it is over."""
    generator = ScriptedGenerator({"B": [InsufficientCredit("no credit")]})
    runs = [batch.redo(generator, "A", "B", run="one run", concurrency=1) for _ in range(3)]
    assert [run.summary.exit_code for run in runs] == [3, 0, 0]
    assert (generator.charges, runs[2].summary.images) == (2, 2)


def test_a_redo_that_may_have_been_paid_for_needs_a_word(batch: SmallBatch) -> None:
    """The same command tells that it is in doubt, and buys neither it nor the others; with the user's word it does."""
    generator = ScriptedGenerator({"B": [OutcomeUnknown("cut off")]})
    for _ in range(2):
        ran = batch.redo(generator, "A", "B", add="softer")
        assert (ran.summary.exit_code, [row.sku for row in ran.summary.failures]) == (1, ["B"])
    assert len(generator.calls) == 2
    agreed = batch.redo(generator, "A", "B", add="softer", retry_unknown=True)
    assert (agreed.summary.exit_code, agreed.summary.bought, generator.calls_of("B")) == (0, 1, 2)


def test_a_redo_goes_on_with_one_before_the_last(batch: SmallBatch) -> None:
    """In between somebody has had the rest made, but for an image in doubt: with the user's word only that is made."""
    batch.products(*"ABCD")
    batch.run(ScriptedGenerator())
    generator = ScriptedGenerator({"C": [OutcomeUnknown("cut off")], "D": [ServiceUnavailable("down")]})
    bought = [batch.redo(generator, *"ABCD", add="softer").summary.bought for _ in range(2)]
    bought += [batch.redo(generator, *"ABCD", add="softer", retry_unknown=True).summary.bought for _ in range(2)]
    assert bought == [2, 1, 1, 4]


def test_a_redo_in_between_does_not_end_a_larger_one(batch: SmallBatch) -> None:
    """What it has made anew is not what was asked for, so that one is made once more; the others are there."""
    batch.products(*"ABC")
    batch.run(ScriptedGenerator())
    generator = ScriptedGenerator({"C": [InsufficientCredit("no credit")]})
    batch.redo(generator, *"ABC", add="softer", concurrency=1)
    batch.redo(generator, "A", add="brighter")
    assert batch.redo(generator, *"ABC", add="softer").summary.bought == 2


def test_a_redo_never_puts_an_older_image_in_the_place_of_a_newer_one(batch: SmallBatch) -> None:
    """B is refused each time, so that no redo is finished; A is shown as it was made last."""
    generator = ScriptedGenerator({"B": [ContentRejected("no")] * 3})
    batch.redo(generator, "A", "B")
    batch.redo(generator, "A", "B", add="softer")
    batch.redo(generator, "A", "B")
    assert generator.calls_of("A") == 3
    assert batch.report("A").attempts == 1


def test_the_word_to_buy_again_is_used_up_in_a_redo_too(batch: SmallBatch) -> None:
    """Begun anew, the same run leaves an image in doubt that it has asked for with that word."""
    generator = ScriptedGenerator({"A": [OutcomeUnknown("cut off")] * 5})
    for _ in range(3):
        batch.redo(generator, "A", run="one run", retry_unknown=True)
    assert generator.calls_of("A") == 1


def test_what_a_redo_has_already_is_known_by_its_sku(batch: SmallBatch) -> None:
    """So that its summary can name it, and no cap counts it."""
    generator = ScriptedGenerator({"B": [InsufficientCredit("no credit")]})
    batch.redo(generator, "A", "B", concurrency=1)
    settings = RedoSettings(skus=["A", "B"], output=str(batch.output), ledger=batch.where)
    ledger = batch.ledger()
    jobs = redo_jobs(settings, find_redo(settings, ledger, batch.output), ledger, batch.source, "a new run")
    assert [job.sku for job in made_already(jobs, ledger)] == ["A"]


def test_a_redo_is_made_in_the_templates_size(batch: SmallBatch) -> None:
    """What the template asks for holds for its redos."""
    batch.csv("sku,name,style,mood,template\nP,post,flat,calm,blog_hero\n")
    batch.run(ScriptedGenerator())
    batch.redo(ScriptedGenerator(), "P")
    made = verify_image(batch.output / batch.report("P").path)
    assert (made.width, made.height) == (1200, 630)


def test_the_generator_of_a_redo_is_the_images_own(batch: SmallBatch) -> None:
    """Another provider's image is not made again by accident."""
    settings = RedoSettings(skus=["A"], output=str(batch.output), ledger=str(batch.ledger_path))
    ledger = batch.ledger()
    found = find_redo(settings, ledger, batch.output)
    assert found.generator == "anycap"
    other = Source(replace(batch.source.capabilities, provider="proof"))
    with pytest.raises(NotStarted, match=r"were made by anycap.*--generator"):
        redo_jobs(settings, found, ledger, other)


def test_rows_of_two_generators_need_a_name(batch: SmallBatch) -> None:
    """Where the rows don't agree on who drew them the user says."""
    batch.products("P", name="proofs.csv")
    proof = SmallBatch(batch.root, Source(replace(batch.source.capabilities, provider="proof")))
    proof.run(ScriptedGenerator(), csv=str(batch.root / "proofs.csv"))
    told = refused(batch, "A", "P")
    assert "Name it with --generator" in told[0]


def test_a_redo_is_a_job_of_its_own(batch: SmallBatch) -> None:
    """It names what it is a redo of, and stands in the ledger beside the image that it follows."""
    (first, _) = batch.jobs()
    batch.redo(ScriptedGenerator(), "A", add="softer")
    job = next(job for job in batch.jobs() if job.sku == "A")
    assert (job.redo_of, job.variant) == (first.fingerprint, "redo 1")
    standings = batch.ledger().standings([first.key, job.key])
    assert {standing.state for standing in standings.values()} == {State.BOUGHT}
    assert len(standings) == 2
