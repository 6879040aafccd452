"""One run: what it stands on, from the opening of the ledger to the reports."""

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from flows.batch.batch_rows import Run
from flows.batch.files import slug
from flows.batch.jobs import Batch, Job
from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import State
from flows.batch.prices import PriceBook, dollars, dollars_or_free
from flows.batch.problems import NotStarted, Problem
from flows.batch.purchase import Generator, Purchase
from flows.batch.report import Report, write_report
from flows.batch.rows import RowReport, Status
from flows.batch.settings import BatchSettings
from flows.batch.slots import Slots
from flows.batch.stores import OutputFolder, StoreUnusable


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended. `stopped` says why it ended early, if it did."""

    counts: Mapping[Status, int]
    spent_usd: Decimal
    in_doubt_usd: Decimal
    bought: int
    seconds: float
    failures: tuple[RowReport, ...]
    contact_sheet: Path
    failures_csv: Path | None
    stopped: str = ""

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
        paid = f"{self.bought:,} bought now ({cost})" if self.bought else "nothing was bought now"
        doubt = f", {dollars(self.in_doubt_usd)} of it in doubt" if self.in_doubt_usd else ""
        yield f"{self}; {paid}{doubt}, in {self.seconds:.0f} s."
        kinds = Counter(row.error_kind for row in self.failures)
        for kind, count in kinds.most_common():
            example = next(row for row in self.failures if row.error_kind == kind)
            yield f"  {count:>5,}  {kind}, e.g. line {example.line}, {example.sku}: {example.error[:200]}"
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

    @classmethod
    def of(cls, settings: BatchSettings) -> "Request":
        """What these settings ask for. `again` are the states out of which the user allows rows to be bought anew."""
        allowed = {
            State.REJECTED: settings.retry_rejected,
            State.UNKNOWN: settings.retry_unknown,
            State.LOST: settings.rebuy_lost,
        }
        again = frozenset(state for state, yes in allowed.items() if yes)
        return cls(Path(settings.csv).name, settings.output, settings.ledger, settings.concurrency, again)


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

    @classmethod
    def open(cls, request: Request, run: str = "") -> "BatchRun":
        """Open the ledger and the price book. Raises: NotStarted."""
        return cls(
            id=run or str(uuid.uuid4()),
            request=request,
            prices=PriceBook.read(),
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
        self.provider = provider
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
                prices=self.prices,
                again=self.request.again,
                usd_per_credit=usd_per_credit,
            )

    def finish(self, redone: Sequence[Job] = ()) -> Summary:
        """Write the reports of this run and of its output, and note how the run ended.

        `redone` are the jobs of a run that had no file, and so has no rows of its own.
        """
        ledger_rows = self.ledger.rows
        newest = ledger_rows.newest_run(self.output.name, of_csv=True)
        columns = newest.columns if newest else ()
        everything = tuple(ledger_rows.report(self.output.name))
        of_csv = tuple(row for row in everything if newest and row.run == newest.id)
        again = {(job.sku, job.template) for job in redone}
        mine = tuple(row for row in everything if row.run == self.id or (row.sku, row.template) in again)
        spent = ledger_rows.spent(self.id)
        report = Report(
            title=self.request.name,
            generator=self.provider,
            started=datetime.fromtimestamp(self.started_at, UTC),
            ended=datetime.now(UTC),
            spent_usd=spent.usd,
            rows=mine,
            columns=columns,
        )
        write_report(self.output.root / "runs" / self._folder_name(), report, base="../../")
        write_report(self.output.root, replace(report, rows=of_csv, everything=everything))
        failures = self.output.root / "failures.csv"
        summary = Summary(
            counts=report.counts,
            failures=tuple(row for row in mine if row.status.is_failure),
            spent_usd=spent.usd,
            in_doubt_usd=spent.in_doubt_usd,
            bought=spent.bought,
            seconds=time.time() - self.started_at,
            contact_sheet=self.output.root / "index.html",
            failures_csv=failures if failures.exists() else None,
            stopped=str(self.slots.stopped or ""),
        )
        ledger_rows.end(self.id, "stopped" if summary.stopped else "ended", summary.stopped or str(summary))
        return summary

    def _folder_name(self) -> str:
        began = datetime.fromtimestamp(self.started_at).astimezone()
        return f"{began:%Y%m%d-%H%M%S}-{slug(Path(self.request.name).stem) or 'batch'}"
