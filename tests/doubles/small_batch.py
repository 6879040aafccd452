"""A batch as the flow runs it, without its server: read, plan, begin, have each image, finish."""

import csv
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from http_double import Answer, Asked, HttpDouble
from scripted_generator import ScriptedGenerator
from sqlalchemy import insert, update

from blocks.errors import ImageGenerationError
from blocks.image import Capabilities
from flows.batch.canary import canary_first
from flows.batch.cap_check import check_caps
from flows.batch.jobs import Job, Source
from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import State, images, owners
from flows.batch.owners import Owner
from flows.batch.plan import Plan, left_of, plan_batch
from flows.batch.prices import Price, PriceBook
from flows.batch.problems import LedgerUnavailable
from flows.batch.purchase import Bought, Purchase, Standstill
from flows.batch.redo import find_redo, redo_jobs
from flows.batch.request import Request
from flows.batch.row_report import RowReport
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings, RedoSettings
from flows.batch.slots import RunStopped
from flows.batch.stores import StoreUnusable
from flows.batch.summary import Summary

MODELS = frozenset({"nano-banana-2", "seedream-5"})
SOURCE = Source(Capabilities("anycap", MODELS))
TODAY = datetime.now(UTC).date()
ENDS = (ImageGenerationError, Standstill, RunStopped, StoreUnusable, LedgerUnavailable)

Outcome = Bought | Exception


def price(model: str, usd: str, resolution: str = "*", generator: str = "anycap") -> Price:
    """A price of today."""
    return Price(generator, model, resolution, Decimal(usd), None, TODAY, None, "a test")


PRICES = PriceBook([price("nano-banana-2", "0.005"), price("seedream-5", "0.015"), price("*", "0", generator="proof")])


@dataclass
class Ran:
    """What came of a run: its plan, each row's outcome by sku, and its end."""

    run: BatchRun
    plan: Plan | None
    outcomes: dict[str, Outcome]
    summary: Summary


@dataclass
class SmallBatch:
    """A place for one test's files: a ledger, an output, and the CSV that is run."""

    root: Path
    source: Source = SOURCE
    prices: PriceBook = field(default_factory=lambda: PRICES)
    ledger_url: str = ""

    @property
    def output(self) -> Path:
        """The output folder of runs that name none."""
        return self.root / "output"

    @property
    def ledger_path(self) -> Path:
        """The file of the ledger."""
        return self.root / "ledger.sqlite3"

    def ledger(self) -> Ledger:
        """The ledger of this batch."""
        return Ledger.open(self.where)

    @property
    def where(self) -> str:
        """What names the ledger: its file, if no other was given."""
        return self.ledger_url or str(self.ledger_path)

    def csv(self, text: str, name: str = "products.csv") -> Path:
        """Write a CSV."""
        path = self.root / name
        path.write_text(text, encoding="utf-8")
        return path

    def products(self, *skus: str, color: str = "blue", name: str = "products.csv") -> Path:
        """Write a CSV with one product for each sku."""
        rows = "".join(f"{sku},Shirt {sku},{color}\n" for sku in skus)
        return self.csv(f"sku,name,color\n{rows}", name)

    def settings(self, **changes: Any) -> BatchSettings:
        """Settings of a run of products.csv."""
        given = {"csv": str(self.root / "products.csv"), "output": str(self.output), "ledger": self.where}
        return BatchSettings.of(**{**given, "generator": "anycap", **changes})

    def open(self, settings: BatchSettings, run_id: str = "") -> BatchRun:
        """A run that is not begun yet, or one of this id that begins anew, as a flow run that is retried does."""
        run = BatchRun.open(Request.of(settings), run_id)
        run.prices = self.prices
        return run

    def plan(self, **changes: Any) -> Plan:
        """What a run would buy."""
        settings = self.settings(**changes)
        return plan_batch(settings, self.source, self.open(settings))

    def jobs(self, **changes: Any) -> tuple[Job, ...]:
        """The jobs of products.csv."""
        return self.plan(**changes).batch.jobs

    def run(
        self, generator: ScriptedGenerator, usd_per_credit: Decimal = Decimal(0), run_id: str = "", **changes: Any
    ) -> Ran:
        """Run products.csv from end to end."""
        settings = self.settings(**changes)
        run = self.open(settings, run_id)
        plan = plan_batch(settings, self.source, run)
        check_caps(plan.to_buy, run)
        run.begin(self.source.capabilities.provider, plan.batch)
        outcomes: dict[str, Outcome] = {}
        for jobs in canary_first(settings, plan, run):
            outcomes |= buy(run, generator, jobs, usd_per_credit)
        return Ran(run, plan, outcomes, run.finish())

    def redo(self, generator: ScriptedGenerator, *skus: str, run: str = "", **changes: Any) -> Ran:
        """Make images again on purpose, as the flow does it; as a run of this id, if there is one."""
        given = {"output": str(self.output), "ledger": self.where}
        settings = RedoSettings(**{"skus": list(skus), **given, **changes})
        redo = BatchRun.open(Request.of_redo(settings), run)
        redo.prices = self.prices
        found = find_redo(settings, redo.ledger, redo.output.root)
        jobs = redo_jobs(settings, found, redo.ledger, self.source, redo.id)
        redo.begin(self.source.capabilities.provider)
        outcomes = buy(redo, generator, left_of(jobs, redo).todo)
        redo.show_bought(jobs)
        return Ran(redo, None, outcomes, redo.finish(jobs))

    def report(self, sku: str, output: Path | None = None) -> RowReport:
        """How reports tell the one row of this sku."""
        (row,) = [row for row in self.ledger().rows.report(str(output or self.output)) if row.sku == sku]
        return row


def buy(
    run: BatchRun, generator: ScriptedGenerator, jobs: Sequence[Job], usd_per_credit: Decimal = Decimal(0)
) -> dict[str, Outcome]:
    """Have the image of each job, in threads as the flow has them; errors are outcomes, by sku."""
    with run.buying(generator, usd_per_credit) as purchase, ThreadPoolExecutor(2 * run.slots.limit) as pool:
        return dict(zip([job.sku for job in jobs], pool.map(partial(outcome, purchase), jobs), strict=True))


def outcome(purchase: Purchase, job: Job) -> Outcome:
    """What has come of one row."""
    try:
        return purchase.get(job)
    except ENDS as error:
        return error


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV that a run has written."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def dead_process() -> tuple[int, float]:
    """The pid and the start time of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = psutil.Process(child.pid).create_time()
    return child.pid, started


def put_owner(ledger: Ledger, owner: Owner, *, pid: int, started: float, alive_until: float = 0.0) -> Owner:
    """Put a holder into the ledger."""
    values = {"owner": owner.id, "run": owner.run, "host": owner.host}
    with ledger._database.writing() as connection:
        connection.execute(insert(owners).values(**values, pid=pid, pid_started=started, alive_until=alive_until))
    return owner


def put_state(ledger: Ledger, state: State, **more: Any) -> None:
    """Put every image of the ledger into a state."""
    with ledger._database.writing() as connection:
        connection.execute(update(images).values(state=state, **more))


class FileServer(HttpDouble):
    """A provider's file server: `files` by path, and what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        super().__init__(self._answer)

    def _answer(self, asked: Asked) -> Answer:
        self.asked.append(asked.path)
        found = self.files.get(asked.path)
        return Answer(b"", 404) if found is None else Answer(found)
