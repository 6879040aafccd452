"""One run: what it stands on, from the opening of the ledger to the reports."""

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from flows.batch.batch_rows import Run
from flows.batch.caps import NO_CAPS, Caps
from flows.batch.costs import Costs, Dearest
from flows.batch.files import slug
from flows.batch.jobs import Batch, Job
from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import State
from flows.batch.prices import PriceBook, dollars, dollars_or_free
from flows.batch.problems import LedgerUnavailable, NotStarted, Problem
from flows.batch.purchase import Generator, Purchase
from flows.batch.report import Report, write_report
from flows.batch.row_reports import UNSETTLED
from flows.batch.rows import RowReport, Status
from flows.batch.settings import BatchSettings, RedoSettings
from flows.batch.slots import Slots
from flows.batch.stores import UNUSED_S, OutputFolder, StoreUnusable


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended. `stopped` says why it ended early, if it did; `interrupted`, whether somebody ended it."""

    counts: Mapping[Status, int]
    spent_usd: Decimal
    in_doubt_usd: Decimal
    bought: int
    seconds: float
    failures: tuple[RowReport, ...]
    paid_twice: int
    contact_sheet: Path
    failures_csv: Path | None
    stopped: str = ""
    interrupted: bool = False

    @property
    def images(self) -> int:
        """Rows that have their image."""
        return sum(count for status, count in self.counts.items() if status.has_image)

    @property
    def failed(self) -> int:
        """Rows that were refused, failed, or are in doubt."""
        return sum(count for status, count in self.counts.items() if status.is_failure)

    @property
    def exit_code(self) -> int:
        """0 every row asked for has its image; 1 some have not; 3 the run ended early."""
        if self.stopped:
            return 3
        return 1 if self.failed else 0

    def lines(self) -> Iterator[str]:
        """How the run ended, for a terminal."""
        if self.stopped:
            yield f"Ended early: {self.stopped}"
        cost = dollars_or_free(self.spent_usd)
        paid = f"{self.bought:,} bought now ({cost})" if self.bought or self.spent_usd else "nothing was bought now"
        doubt = f", {dollars(self.in_doubt_usd)} of it in doubt" if self.in_doubt_usd else ""
        yield f"{self}; {paid}{doubt}, in {self.seconds:.0f} s."
        kinds = Counter(row.error_kind for row in self.failures)
        for kind, count in kinds.most_common():
            example = next(row for row in self.failures if row.error_kind == kind)
            yield f"  {count:>5,}  {kind}, e.g. line {example.line}, {example.sku}: {example.error[:200]}"
        if self.paid_twice:
            yield f"  {self.paid_twice:>5,}  paid for more than once, for a call that brought nothing usable"
        if self.failures_csv:
            yield f"Failed rows:   {self.failures_csv}"
        yield f"Contact sheet: {self.contact_sheet}"

    def __str__(self) -> str:
        rows = sum(self.counts.values())
        rest = ", ".join(f"{n} {status}" for status, n in self.counts.items() if n and not status.has_image)
        return f"{self.images} of {rows} rows have their image" + (f", {rest}" if rest else "")


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is asked for, whether of a CSV or of a redo. `name` is what its reports are called."""

    name: str
    output: str
    ledger: str
    concurrency: int
    again: frozenset[State] = frozenset()
    caps: Caps = NO_CAPS
    prices: str = ""

    @classmethod
    def of(cls, settings: BatchSettings) -> "Request":
        """What these settings ask for. `again` are the states out of which the user allows rows to be bought anew."""
        allowed = {
            State.REJECTED: settings.retry_rejected,
            State.UNKNOWN: settings.retry_unknown,
            State.LOST: settings.rebuy_lost,
        }
        again = frozenset(state for state, yes in allowed.items() if yes)
        return cls(
            name=Path(settings.csv).name,
            output=settings.output,
            ledger=settings.ledger,
            concurrency=settings.concurrency,
            again=again,
            caps=settings.caps,
            prices=settings.prices,
        )

    @classmethod
    def of_redo(cls, settings: RedoSettings) -> "Request":
        """What these settings of a redo ask for."""
        return cls(
            name="redo",
            output=settings.output,
            ledger=settings.ledger,
            concurrency=settings.concurrency,
            caps=settings.caps,
            prices=settings.prices,
        )


@dataclass(slots=True)
class BatchRun:
    """One run: what it works with, and what it has come to."""

    id: str
    request: Request
    prices: PriceBook
    ledger: Ledger
    output: OutputFolder
    slots: Slots
    started_at: float
    provider: str = ""
    columns: tuple[str, ...] = ()
    under_way: ExitStack = field(default_factory=ExitStack)
    dearest: Dearest = field(default_factory=Dearest)

    @classmethod
    def open(cls, request: Request, run: str = "") -> "BatchRun":
        """Open the ledger and the price book. Raises: NotStarted."""
        return cls(
            id=run or str(uuid.uuid4()),
            request=request,
            prices=PriceBook.open(request.prices),
            ledger=Ledger.open(request.ledger),
            output=OutputFolder.of(request.output),
            slots=Slots(request.concurrency),
            started_at=time.time(),
        )

    def begin(self, provider: str, batch: Batch | None = None) -> None:
        """From here on the run and the rows of its file are in the ledger. Raises: NotStarted."""
        try:
            self.output.prepare()
        except StoreUnusable as error:
            raise NotStarted([Problem(str(error), "")]) from error
        csv, columns, rows = (batch.csv, batch.columns, batch.rows) if batch else ("", (), ())
        self.provider, self.columns = provider, columns
        self.output.clear_calls(self.ledger.calls.settled, 0.0 if self.ledger.is_idle() else UNUSED_S)
        self.under_way.enter_context(self.ledger.owning(self.id))
        self.ledger.rows.begin(Run(self.id, self.output.name, csv, columns, provider, self.started_at), rows)

    def show_bought(self, jobs: Sequence[Job]) -> None:
        """Let the output's rows show those of these images that were bought."""
        standings = self.ledger.standings(job.key for job in jobs)
        for job in jobs:
            if job.key in standings and standings[job.key].state is State.BOUGHT:
                self.ledger.rows.show_image(self.output.name, job)

    @contextmanager
    def buying(self, generator: Generator, usd_per_credit: Decimal = Decimal(0)) -> Iterator[Purchase]:
        """Hold rows and buy their images while the body runs."""
        with self.ledger.owning(self.id) as owner:
            yield Purchase(
                generator=generator,
                ledger=self.ledger,
                owner=owner,
                output=self.output,
                slots=self.slots,
                costs=Costs(self.prices, usd_per_credit, self.dearest),
                again=self.request.again,
                caps=self.request.caps,
            )

    def finish(self, redone: Sequence[Job] = ()) -> Summary:
        """Write the reports of this run and of its output, and note how the run ended.

        `redone` are the jobs of a run that had no file, and so has no rows of its own.
        """
        with self.under_way, self.output.reporting():
            summary = self._finish(redone)
        try:
            outcome = ("stopped", summary.stopped) if summary.stopped else ("ended", str(summary))
            self.ledger.rows.end(self.id, *outcome)
        except LedgerUnavailable as error:
            return replace(summary, stopped=summary.stopped or str(error))
        return summary

    def _finish(self, redone: Sequence[Job]) -> Summary:
        ledger_rows = self.ledger.rows
        newest = ledger_rows.newest_run(self.output.name, of_csv=True)
        columns = newest.columns if newest else ()
        everything = tuple(ledger_rows.report(self.output.name))
        of_csv = tuple(row for row in everything if newest and row.run == newest.id)
        again = {(job.sku, job.template) for job in redone}
        mine = tuple(row for row in everything if (row.sku, row.template) in again)
        mine = tuple(_as_they_went(mine, redone, self.ledger)) or tuple(ledger_rows.report(self.output.name, self.id))
        spent = ledger_rows.spent(self.id)
        report = Report(
            title=self.request.name,
            generator=self.provider,
            started=datetime.fromtimestamp(self.started_at, UTC),
            ended=datetime.now(UTC),
            spent_usd=spent.usd,
            rows=mine,
            columns=self.columns or columns,
        )
        try:
            write_report(self.output.root / "runs" / self._folder_name(), report, base="../../")
            write_report(self.output.root, replace(report, rows=of_csv, columns=columns, everything=everything))
        except OSError as error:
            told = f"The reports in {self.output.root} can't be written: {error}. Mend that and run the command again."
            self.slots.stop(StoreUnusable(told))
        failures = self.output.root / "failures.csv"
        return Summary(
            counts=report.counts,
            failures=tuple(row for row in mine if row.status.is_failure),
            spent_usd=spent.usd,
            in_doubt_usd=spent.in_doubt_usd,
            bought=spent.bought,
            seconds=time.time() - self.started_at,
            paid_twice=sum(row.paid_calls > 1 for row in mine),
            contact_sheet=self.output.root / "index.html",
            failures_csv=failures if failures.exists() else None,
            stopped=str(self.slots.stopped or ""),
            interrupted=self.slots.interrupted,
        )

    def _folder_name(self) -> str:
        began = datetime.fromtimestamp(self.started_at).astimezone()
        name = f"{began:%Y%m%d-%H%M%S}-{slug(Path(self.request.name).stem) or 'batch'}"
        return f"{name}-{self.id[:8]}" if (self.output.root / "runs" / name).exists() else name


def _as_they_went(rows: Sequence[RowReport], redone: Sequence[Job], ledger: Ledger) -> Iterator[RowReport]:
    """The rows of a redo by what came of it: where it brought no image, the output goes on to show the older one."""
    standings = ledger.standings(job.key for job in redone)
    jobs = {(job.sku, job.template): job for job in redone}
    for row in rows:
        job = jobs.get((row.sku, row.template))
        standing = standings.get(job.key) if job else None
        if job is None or (standing and standing.state is State.BOUGHT):
            yield row
            continue
        state = standing.state if standing else State.PENDING
        unsettled = state is State.SUBMITTED
        yield RowReport(
            line=row.line,
            sku=row.sku,
            template=row.template,
            status=Status.UNKNOWN if unsettled else Status.PENDING if state.in_flight else Status(state.value),
            model=job.model,
            generator=job.generator,
            fingerprint=job.fingerprint,
            prompt=job.prompt,
            attempts=standing.attempts if standing else 0,
            paid_calls=standing.paid_calls if standing else 0,
            error_kind="OutcomeUnknown" if unsettled else standing.error_kind if standing else "",
            error=UNSETTLED if unsettled else standing.error if standing else "",
            run=row.run,
            cells=row.cells,
        )
