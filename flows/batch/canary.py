"""A canary: a few rows bought first, and a look at how they fared before the rest is bought."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.batch.contact_sheet import write_contact_sheet
from flows.batch.jobs import Job
from flows.batch.ledger_images import Key, Standing
from flows.batch.ledger_tables import State
from flows.batch.plan import Plan
from flows.batch.report import Report
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings

SHEET = "canary.html"
LONGEST_REASON = 300

FAILED = frozenset({State.FAILED, State.REJECTED, State.UNKNOWN, State.LOST})


class CanaryFailed(Exception):
    """Too many of the canary's rows failed: the rest is not bought, and stays pending."""


@dataclass(frozen=True, slots=True)
class Canary:
    """The rows that are bought first. `failures` is the share of them, 0 to 1, that may fail."""

    jobs: tuple[Job, ...]
    failures: float

    @property
    def keys(self) -> frozenset[Key]:
        """The images' names in the ledger."""
        return frozenset(job.key for job in self.jobs)

    def verdict(self, standings: Mapping[Key, Standing], sheet: Path) -> CanaryFailed | None:
        """What stops the run, if too many failed. `sheet` is their contact sheet."""
        failed = [job for job in self.jobs if job.key in standings and standings[job.key].state in FAILED]
        share = len(failed) / len(self.jobs) if self.jobs else 0.0
        if share <= self.failures:
            return None
        reason = standings[failed[0].key].error
        reason = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]} ..."
        return CanaryFailed(
            f"The canary failed: {len(failed)} of its {len(self.jobs)} rows have no image ({share:.0%}; "
            f"{self.failures:.0%} may), e.g. line {failed[0].line}, {failed[0].sku}: {reason} "
            f"Look at {sheet}, mend the rows, the template or the model, and run the same command again; "
            "--canary-failures lets more fail."
        )


def choose_canary(to_buy: Sequence[Job], size: int, failures: float) -> Canary:
    """The first rows of each template and model in turn, so that a few show them all; none where that would be all."""
    if not 0 < size < len(to_buy):
        return Canary((), failures)
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in to_buy:
        groups.setdefault((job.template, job.model), []).append(job)
    ranked = sorted(
        (rank, number, job) for number, group in enumerate(groups.values()) for rank, job in enumerate(group[:size])
    )
    chosen = {job.key for _, _, job in ranked[:size]}
    return Canary(tuple(job for job in to_buy if job.key in chosen), failures)


def canary_first(settings: BatchSettings, plan: Plan, run: BatchRun) -> Iterator[Sequence[Job]]:
    """The jobs in the lots in which they are to be bought: all at once where no canary is asked for; else the canary's,
    and when they have ended the rest, unless too many of them failed: then the run is stopped.
    """
    canary = choose_canary(plan.to_buy, settings.money.canary, settings.money.canary_failures)
    if not canary.jobs:
        yield plan.todo
        return
    yield canary.jobs
    sheet = run.output.root / SHEET
    _write_sheet(sheet, canary, run)
    failed = canary.verdict(run.ledger.standings(canary.keys), sheet)
    if failed:
        run.slots.stop(failed)
    if run.slots.stopped is None:
        yield [job for job in plan.todo if job.key not in canary.keys]


def _write_sheet(path: Path, canary: Canary, run: BatchRun) -> None:
    mine = [
        row
        for row in run.ledger.rows.report(run.output.name)
        if (row.sku, row.template, row.fingerprint) in canary.keys
    ]
    report = Report(
        title=f"{run.request.name}, canary",
        generator=run.provider,
        started=datetime.fromtimestamp(run.started_at, UTC),
        ended=datetime.now(UTC),
        spent_usd=run.ledger.rows.spent(run.id).usd,
        rows=mine,
        columns=(),
    )
    write_contact_sheet(path, report)
