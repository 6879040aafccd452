"""What a person is asked before images are bought or published, and what the answer changes."""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from sqlalchemy import select

from flows.batch.caps import Caps
from flows.batch.costs import listed
from flows.batch.form_words import in_form_words
from flows.batch.jobs import Job, Source
from flows.batch.ledger_tables import rows
from flows.batch.markdown import escaped
from flows.batch.plan import Plan, costs_by_model
from flows.batch.prices import PriceBook, dollars, dollars_or_free, for_about
from flows.batch.problems import NotStarted, Problem
from flows.batch.publishing import PublishRow
from flows.batch.redo import find_redo, redo_jobs
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings, RedoSettings
from flows.batch.words import counted

MARK = 12  # hex digits, as an image's file name has them
_MOST_TEMPLATES = 20
_LONGEST = 120  # of a prompt: the form stands below it, and nobody scrolls far


@dataclass(frozen=True, slots=True)
class Narrowed:
    """What a person who lets a run buy may take away from it: a cap in US dollars, and all but some templates."""

    max_cost_usd: str = ""
    templates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What a person has said of images that are to be published.

    `left_out` are not published, now or later; `again` are made again, with the words of `add` in their prompt.
    """

    left_out: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    add: str = ""

    def to_publish(self, waiting: Sequence[PublishRow]) -> tuple[PublishRow, ...]:
        """Those of the images that wait which are published as they are."""
        return tuple(row for row in waiting if row.sku not in {*self.left_out, *self.again})


def mark_of_purchase(plan: Plan, prices: PriceBook) -> str:
    """What tells one plan from another: the images it buys and what they cost."""
    return _mark(f"{'/'.join(job.key)} {listed(job, prices).usd}" for job in plan.to_buy)


def mark_of_publishing(plan: Plan) -> str:
    """What tells the images that wait to be published from others."""
    return _mark(f"{'/'.join(row.key)} {row.url}" for row in plan.to_publish)


def _mark(parts: Iterable[str]) -> str:
    marked = hashlib.sha256()
    for part in sorted(parts):
        marked.update(f"{part}\n".encode())
    return marked.hexdigest()[:MARK]


def narrowed(plan: Plan, wanted: Narrowed, run: BatchRun) -> Plan:
    """The plan with no more in it than a person lets it buy, and the run with a cap that holds it to that.

    What is bought already stays in it, for that costs nothing. Under a cap it is the file's first images that fit.
    """
    jobs = [job for job in plan.to_buy if not wanted.templates or job.template in wanted.templates]
    if wanted.max_cost_usd:
        cap = Decimal(wanted.max_cost_usd)
        caps = run.request.caps
        run_usd = cap if caps.run_usd is None else min(cap, caps.run_usd)
        run.request = replace(run.request, caps=Caps(run_usd, caps.day_usd))
        jobs = list(_that_fit(jobs, run_usd - run.ledger.budgets.of_run(run.id), run.prices))
    kept = {job.key for job in jobs}
    dropped = {job.key for job in plan.to_buy} - kept
    return replace(
        plan,
        to_buy=tuple(jobs),
        todo=tuple(job for job in plan.todo if job.key not in dropped),
        left_for_later=plan.left_for_later + len(dropped),
        costs=costs_by_model(jobs, run.prices),
    )


def _that_fit(jobs: Sequence[Job], left_usd: Decimal, prices: PriceBook) -> Iterator[Job]:
    for job in jobs:
        usd = listed(job, prices).usd
        if usd is None or usd > left_usd:
            return
        left_usd -= usd
        yield job


def held_back(plan: Plan) -> Plan:
    """The plan of a run whose images wait for a person before they are published."""
    return replace(plan, to_publish=())


def reviewed(plan: Plan, said: Reviewed, batch: BatchSettings, source: Source, run: BatchRun) -> Plan:
    """The plan of a run that publishes what a person has approved, and makes again what is to be made again.

    Nothing else is bought: rows that have failed are for the next run. Raises: NotStarted, naming each sku that is
    not there.
    """
    waiting = {row.sku for row in plan.to_publish}
    problems = [
        Problem(f"{sku!r} is not among the images that wait to be published.", "Look its sku up in the contact sheet.")
        for sku in dict.fromkeys((*said.left_out, *said.again))
        if sku not in waiting
    ]
    problems += [
        Problem(f"{sku!r} is both to be left out and to be made again.", "Name it once.")
        for sku in said.again
        if sku in said.left_out
    ]
    if problems:
        raise NotStarted(problems)
    jobs: tuple[Job, ...] = ()
    if said.again:
        redo = RedoSettings(
            skus=list(said.again),
            add=said.add,
            generator=batch.generator,
            output=batch.output,
            templates=batch.advanced.templates,
            ledger=batch.advanced.ledger,
        )
        only = {(row.sku, row.template) for row in plan.to_publish}
        jobs = redo_jobs(redo, find_redo(redo, run.ledger, run.output.root, only), run.ledger, source)
    return replace(
        plan,
        todo=jobs,
        to_buy=jobs,
        left_for_later=plan.left_for_later + len(plan.to_buy),
        costs=costs_by_model(jobs, run.prices),
        to_publish=said.to_publish(plan.to_publish),
    )


def was_begun_with(jobs: Sequence[Job], run: BatchRun) -> bool:
    """Whether this very run has begun before with all of these images, as when it was cut off and is retried."""
    with run.ledger.reading() as connection:
        wanted = select(rows.c.sku, rows.c.template, rows.c.fingerprint).where(rows.c.run == run.id)
        begun = {(sku, template, fingerprint) for sku, template, fingerprint in connection.execute(wanted)}
    return bool(begun) and all(job.key in begun for job in jobs)


def leave_out(waiting: Sequence[PublishRow], skus: Sequence[str], run: BatchRun) -> None:
    """Note in the ledger that these images are not to be published, so that reports say it and no run does."""
    if run.site is None:
        return
    told = "Somebody left it out when the images were approved. Make it again (rowshot redo) or change its row."
    keys = [row.key for row in waiting if row.sku in skus]
    run.ledger.deliveries.refused(run.site.name, dict.fromkeys(keys, told))


def purchase_told(plan: Plan, hours: int) -> str:
    """The question before buying, as Markdown."""
    lines = [
        f"**{counted(len(plan.to_buy), 'image')} to buy from {escaped(plan.batch.csv)}, {price_told(plan)}.**",
        "",
        "| model | images | about |",
        "|---|---:|---:|",
    ]
    for cost in plan.costs:
        usd = "not known" if cost.usd is None else dollars_or_free(cost.usd)
        lines.append(f"| {escaped(cost.model)} | {cost.images:,} | {usd} |")
    by_template = templates_of(plan)
    lines += ["", f"Templates: {', '.join(escaped(name) for name in by_template[:_MOST_TEMPLATES])}.", ""]
    lines += [_until(hours, "nothing is bought"), ""]
    lines += [f"- line {job.line}, {escaped(job.sku)}: {escaped(_beginning(job.prompt))}" for job in plan.samples[:2]]
    lines += [f"- Note: {escaped(in_form_words(warning))}" for warning in plan.warnings]
    return "\n".join(lines)


def price_told(plan: Plan) -> str:
    """What the images to buy cost, as the end of a sentence."""
    nobody = "at a price that nobody knows"
    if plan.unpriced == len(plan.to_buy):
        return nobody
    return for_about(plan.cost_usd) + (f", and {plan.unpriced:,} of them {nobody}" if plan.unpriced else "")


def publishing_told(plan: Plan, counts: str, sheet: str, hours: int) -> str:
    """The question before publishing, as Markdown. `sheet` is where the contact sheet is."""
    link = f"[Contact sheet]({sheet})" if sheet.startswith(("https://", "http://")) else f"Contact sheet: `{sheet}`"
    waiting = counted(len(plan.to_publish), "image")
    return "\n".join([f"**{waiting} to publish.** {counts}.", "", link, "", _until(hours, "nothing is published")])


def templates_of(plan: Plan) -> list[str]:
    """The templates of the images to buy."""
    return sorted({job.template for job in plan.to_buy})


def skus_in(text: str) -> tuple[str, ...]:
    """The skus of a field: separated by commas or line ends; one that has a comma in it stands in quotes."""
    cells = (cell.strip() for line in csv.reader(text.splitlines(), skipinitialspace=True) for cell in line)
    return tuple(dict.fromkeys(filter(None, cells)))


def narrowed_told(wanted: Narrowed) -> str:
    """What a person has taken away from a plan, in words; empty where nothing."""
    parts = [f"for at most {dollars(Decimal(wanted.max_cost_usd))}"] if wanted.max_cost_usd else []
    parts += [f"only {', '.join(wanted.templates)}"] if wanted.templates else []
    return "".join(f", {part}" for part in parts)


def _beginning(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _until(hours: int, otherwise: str) -> str:
    return f"Without an answer within {counted(hours, 'hour')} the run ends, {otherwise}, and all it has is kept."
