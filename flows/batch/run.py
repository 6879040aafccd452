"""One run: what it stands on, from the opening of the ledger to the reports."""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from flows.batch.batch_rows import OutputRows, Run
from flows.batch.costs import Costs, Dearest
from flows.batch.files import slug
from flows.batch.jobs import Batch, Generator, Job
from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import State
from flows.batch.prices import PriceBook
from flows.batch.problems import LedgerUnavailable, NotStarted, Problem
from flows.batch.publishing import Site
from flows.batch.purchase import Purchase
from flows.batch.report import Report, write_report
from flows.batch.request import Request
from flows.batch.row_queries import UNSETTLED
from flows.batch.row_report import RowReport, Status
from flows.batch.slots import Slots
from flows.batch.sources import CsvSource
from flows.batch.stores import UNUSED_S, OutputFolder, StoreUnusable
from flows.batch.summary import Summary
from flows.batch.uploads import Shelf


@dataclass(slots=True)
class BatchRun:
    """One run: what it works with, and what it has come to.

    `ended` and `failed` are how many of its rows have ended so far, and how many of those failed.

    `csv` is its spreadsheet where that was fetched; `shelf` and `site` are the store and the CMS that it
    hands images on to, where it was asked to. `limit` is the provider's limit on the server, empty where that has none;
    None where nobody has looked yet.
    """

    id: str
    request: Request
    prices: PriceBook
    ledger: Ledger
    output: OutputFolder
    slots: Slots
    started_at: float
    provider: str = ""
    columns: tuple[str, ...] = ()
    csv: CsvSource | None = None
    shelf: Shelf | None = None
    site: Site | None = None
    delivery_stopped: str = ""
    last_report: Report | None = None
    ended: int = 0
    failed: int = 0
    limit: str | None = None
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
        run = Run(self.id, self.output.name, csv, columns, provider, self.started_at)
        store, cms = self.shelf.destination if self.shelf else "", self.site.name if self.site else ""
        self.ledger.rows.begin(replace(run, store=store, cms=cms), rows)

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
                shelf=self.shelf,
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
        everything = OutputRows(ledger_rows, self.output.name)
        of_csv = OutputRows(ledger_rows, self.output.name, of=newest.id) if newest else ()
        again = {(job.sku, job.template) for job in redone}
        redo = tuple(row for row in everything if (row.sku, row.template) in again) if again else ()
        mine: Iterable[RowReport] = tuple(_as_they_went(redo, redone, self.ledger))
        mine = mine or OutputRows(ledger_rows, self.output.name, self.id)
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
            newest_report = replace(report, rows=of_csv, columns=columns, everything=everything)
            self.last_report = newest_report.whole
            write_report(self.output.root, newest_report)
        except OSError as error:
            told = f"The reports in {self.output.root} can't be written: {error}. Mend that and run the command again."
            self.slots.stop(StoreUnusable(told))
        failures = self.output.root / "failures.csv"
        totals = report.totals
        return Summary(
            counts=totals.counts,
            failures=tuple(totals.failed),
            undelivered=totals.undelivered,
            delivery_stopped=self.delivery_stopped,
            spent_usd=spent.usd,
            in_doubt_usd=spent.in_doubt_usd,
            bought=spent.bought,
            seconds=time.time() - self.started_at,
            paid_twice=totals.paid_again,
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
