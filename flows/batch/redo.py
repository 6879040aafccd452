"""Making images again on purpose: a new variant beside the old image, from the ledger's own record of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flows.batch.choices import template_folders
from flows.batch.finish import Finish
from flows.batch.jobs import Job, Source, identity
from flows.batch.ledger import Ledger
from flows.batch.ledger_images import Key, RedoCall
from flows.batch.ledger_tables import State
from flows.batch.problems import NotStarted, Problem
from flows.batch.prompts import Templates, load_templates
from flows.batch.row_report import RowReport
from flows.batch.settings import RedoSettings

PROVIDERS = ("proof", "anycap")
# A redo that was cut off, failed or is in doubt is taken up again by the same command, and not bought beside itself.
UNFINISHED = frozenset({State.PENDING, State.RESERVED, State.SUBMITTED, State.FAILED, State.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Redo:
    """The images to make again. `generator` is the name of the one that makes them."""

    rows: tuple[RowReport, ...]
    generator: str


def find_redo(
    settings: RedoSettings, ledger: Ledger, output: Path, only: Collection[tuple[str, str]] | None = None
) -> Redo:
    """The rows of an output that are to be made again. Raises: NotStarted, naming each sku that is not there.

    `only`: the (sku, template) of the rows that are meant, where a sku's other images are to stay as they are.
    """
    wanted = set(settings.skus)
    found = {
        (row.sku, row.template): row
        for row in ledger.rows.report(str(output))
        if row.sku in wanted and row.fingerprint and settings.template in {"", row.template}
        if only is None or (row.sku, row.template) in only
    }
    problems = [
        Problem(
            f"There is no row {sku!r}{_of(settings.template)} in {output}.",
            "Look its sku up in manifest.csv, or name another --output.",
        )
        for sku in settings.skus
        if not any(sku == known for known, _ in found)
    ]
    problems += [
        Problem(f"{row.sku!r} has no image yet that could be made again.", "Run its CSV first.")
        for row in found.values()
        if not row.attempts
    ]
    generators = {row.generator for row in found.values()}
    name = settings.generator or (generators.pop() if len(generators) == 1 else "")
    if not problems and name not in PROVIDERS and not settings.generator:
        problems.append(Problem("It doesn't show which image generator is to make them.", "Name it with --generator."))
    if problems:
        raise NotStarted(problems)
    return Redo(tuple(found.values()), name)


def redo_jobs(settings: RedoSettings, redo: Redo, ledger: Ledger, source: Source, run: str = "") -> tuple[Job, ...]:
    """The jobs of a redo: the same prompt with the added words, as the row's next variant.

    A `run` that has begun before, or that is asked for the same as a redo that was not finished, goes on: what that one
    has bought is among its jobs as it is. Raises: NotStarted where another generator has made the images.
    """
    foreign = sorted({row.generator for row in redo.rows} - {source.capabilities.provider})
    if foreign:
        mend = "Name that one with --generator; for another, run the CSV with it."
        raise NotStarted([Problem(f"The images were made by {', '.join(foreign)}.", mend)])
    templates = load_templates(template_folders(settings.templates))
    shown = ledger.jobs([(row.sku, row.template, row.fingerprint) for row in redo.rows])
    calls = ledger.redo_calls(map(_base, shown))
    made = _gone_on_with(settings, shown, calls, ledger, run) if run else {}
    jobs = [made.get(job.key) or _again(settings, job, calls, source) for job in shown]
    return tuple(replace(job, finish=_finish(job, templates)) for job in jobs)


def made_already(jobs: Sequence[Job], ledger: Ledger) -> tuple[Job, ...]:
    """Those of a redo's jobs that are bought: by the redo that it goes on with."""
    standings = ledger.standings(job.key for job in jobs)
    return tuple(job for job in jobs if job.key in standings and standings[job.key].state is State.BOUGHT)


def _again(settings: RedoSettings, job: Job, calls: Sequence[RedoCall], source: Source) -> Job:
    prompt = _with_words(settings, job.prompt)
    before = [call for call in calls if call.base == _base(job)]
    cut_off = [call.variant for call in before if call.prompt == prompt and call.state in UNFINISHED]
    variant = cut_off[0] if cut_off else f"redo {len({call.key for call in before}) + 1}"
    return replace(
        job,
        fingerprint=identity(source, job.model, job.mode, prompt, job.params, variant),
        generator=source.capabilities.provider,
        account=source.account,
        prompt=prompt,
        variant=variant,
        redo_of=_base(job)[2],
    )


def _gone_on_with(
    settings: RedoSettings, shown: Sequence[Job], calls: Sequence[RedoCall], ledger: Ledger, run: str
) -> dict[Key, Job]:
    """What was bought by the redos that this one goes on with, by the key of the image that its row shows."""
    prompts: dict[Key, dict[Key, str]] = {job.key: {job.key: job.prompt} for job in ledger.jobs([*map(_base, shown)])}
    for call in calls:
        prompts[call.base][call.key] = call.prompt
    of_these_words = {
        key
        for of_row in prompts.values()
        for key, prompt in of_row.items()
        if any(prompt == _with_words(settings, other) for another, other in of_row.items() if another != key)
    }
    runs = _unfinished_runs(calls, run, of_these_words)
    made: dict[Key, Key] = {}
    for call in calls:
        if call.brought and call.state is State.BOUGHT:
            made.pop(call.base, None)  # a newer image has taken its place
            if call.run in runs and call.key in of_these_words:
                made[call.base] = call.key
    if all(made.get(_base(job)) == job.key for job in shown) and all(call.run != run for call in calls):
        return {}  # nothing of it is left to do, so that it is asked for anew
    again = dict(zip(made, ledger.jobs([*made.values()]), strict=True))
    return {job.key: again[_base(job)] for job in shown if _base(job) in again}


def _unfinished_runs(calls: Sequence[RedoCall], run: str, of_these_words: Collection[Key]) -> set[str]:
    """A run, and the redos before it that did not bring all their images, back to the last one that did.

    One that brought all it called for may have gone on with an earlier one, of which an image is still to be had.
    """
    found = {run}
    open_ones = {call.run for call in calls if call.state in UNFINISHED and call.key in of_these_words}
    by_run: dict[str, list[RedoCall]] = {}
    for call in reversed(calls):
        by_run.setdefault(call.run, []).append(call)
    for earlier, mine in by_run.items():
        has_ended = mine[0].run_is_over and {call.key for call in mine} == {call.key for call in mine if call.brought}
        if earlier != run and has_ended and open_ones <= found:
            break
        found.add(earlier)
    return found


def _finish(job: Job, templates: Templates) -> Finish:
    template = templates.find(job.template)
    return template.finish if template else Finish()


def _base(job: Job) -> Key:
    """The image as its row asks for it, whichever of its redos this is."""
    return (job.sku, job.template, job.redo_of or job.fingerprint)


def _with_words(settings: RedoSettings, prompt: str) -> str:
    words = settings.add.strip()
    return f"{prompt}, {words}" if words else prompt


def _of(template: str) -> str:
    return f" of the template {template}" if template else ""
