"""Making images again on purpose: a new variant beside the old image, from the ledger's own record of it."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from flows.batch.choices import template_folders
from flows.batch.finish import Finish
from flows.batch.jobs import Job, Source, identity
from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import State
from flows.batch.problems import NotStarted, Problem
from flows.batch.prompts import Templates, load_templates
from flows.batch.row_report import RowReport
from flows.batch.settings import RedoSettings

PROVIDERS = ("proof", "anycap")
# A redo that was cut off or failed is taken up again by the same command, and not bought beside itself.
UNFINISHED = frozenset({State.PENDING, State.RESERVED, State.SUBMITTED, State.FAILED})


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


def redo_jobs(settings: RedoSettings, redo: Redo, ledger: Ledger, source: Source) -> tuple[Job, ...]:
    """The jobs of a redo: the same prompt with the added words, as the row's next variant."""
    foreign = sorted({row.generator for row in redo.rows} - {source.capabilities.provider})
    if foreign:
        mend = "Name that one with --generator; for another, run the CSV with it."
        raise NotStarted([Problem(f"The images were made by {', '.join(foreign)}.", mend)])
    templates = load_templates(template_folders(settings.templates))
    originals = ledger.jobs([(row.sku, row.template, row.fingerprint) for row in redo.rows])
    return tuple(_again(settings, job, ledger, source, templates) for job in originals)


def _again(settings: RedoSettings, job: Job, ledger: Ledger, source: Source, templates: Templates) -> Job:
    base = job.redo_of or job.fingerprint
    before = ledger.redo_states(job.sku, job.template, base)
    prompt = f"{job.prompt}, {settings.add.strip()}" if settings.add.strip() else job.prompt
    cut_off = [variant for (variant, asked), state in before.items() if asked == prompt and state in UNFINISHED]
    variant = cut_off[0] if cut_off else f"redo {len(before) + 1}"
    template = templates.find(job.template)
    return replace(
        job,
        fingerprint=identity(source, job.model, job.mode, prompt, job.params, variant),
        generator=source.capabilities.provider,
        account=source.account,
        prompt=prompt,
        variant=variant,
        redo_of=base,
        finish=template.finish if template else Finish(),
    )


def _of(template: str) -> str:
    return f" of the template {template}" if template else ""
