"""How a run is getting on, told from the ledger: on a terminal while it goes on, and by `rowshot status`."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows.batch.batch_rows import Run, Spent
from flows.batch.ledger import Ledger
from flows.batch.prices import dollars
from flows.batch.problems import LedgerUnavailable
from flows.batch.row_report import Status

TERMINAL_EVERY_S = 0.5
PLAIN_EVERY_S = 10.0
COUNT_SHARE = 0.03  # of the time at most goes into counting: it takes longer the more rows there are


@dataclass(frozen=True, slots=True)
class Moment:
    """A run at one moment."""

    run: Run
    counts: Mapping[Status, int]
    spent: Spent

    @property
    def rows(self) -> int:
        """All rows of the run."""
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """Rows that ended without an image."""
        return sum(count for status, count in self.counts.items() if status.is_failure)

    @property
    def done(self) -> int:
        """Rows that have ended."""
        return sum(count for status, count in self.counts.items() if status.has_image or status.is_failure)

    @property
    def per_minute(self) -> float:
        """Images bought a minute since the run began."""
        seconds = (self.run.ended_at or time.time()) - self.run.started_at
        return 60 * self.spent.bought / seconds if seconds > 0 else 0.0

    def __str__(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        return (
            f"{self.done:,} of {self.rows:,} rows{failed}, {self.per_minute:.0f} images/min, spent {money(self.spent)}"
        )


def money(spent: Spent) -> str:
    """What was spent, with what is in doubt of it."""
    doubt = f" ({dollars(spent.in_doubt_usd)} of it in doubt)" if spent.in_doubt_usd else ""
    unpriced = ", and calls whose price nobody knows" if spent.has_unpriced else ""
    return f"{dollars(spent.usd) if spent.usd else 'nothing'}{doubt}{unpriced}"


def moment(ledger: Ledger, output: str, since: float = 0.0) -> Moment | None:
    """The newest run of an output; None where there was none since then."""
    run = ledger.rows.newest_run(output)
    if run is None or run.started_at < since:
        return None
    return Moment(run, ledger.rows.counts(output, run.id), ledger.rows.spent(run.id))


def status_lines(ledger: Ledger, output: str) -> Iterator[str]:
    """What `rowshot status` prints of an output."""
    now = moment(ledger, output)
    if now is None:
        yield f"Nothing was run into {output} yet. Start with: rowshot run FILE.csv --output {output}"
        return
    yield f"{output}"
    for status, count in ledger.rows.counts(output).items():
        yield f"  {count:>7,}  {status}"
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(now.run.started_at))
    what = f"run of {now.run.csv}" if now.run.csv else "redo"
    running = "under way" if ledger.is_held(now.run.id) else "cut off, or about to end"
    ended = {"running": running, "ended": "ended", "stopped": f"ended early: {now.run.reason}"}[now.run.outcome]
    yield f"  newest: {what}, began {began}, {ended}"
    yield f"  {now}"


def rest_s(took_s: float, least_s: float) -> float:
    """How many seconds to rest after a count that took so many, so that counting stays a small part of the time."""
    return max(least_s, took_s / COUNT_SHARE)


@contextmanager
def shown(ledger: Ledger, output: str) -> Iterator[None]:
    """Show how the run of the body gets on: a bar on a terminal, else a plain line now and then."""
    began, done = time.time(), threading.Event()
    show = _bar if sys.stderr.isatty() else _plain_lines
    watcher = threading.Thread(target=show, args=(ledger, output, began, done), name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _moments(ledger: Ledger, output: str, began: float, done: threading.Event, every_s: float) -> Iterator[Moment]:
    pause_s = every_s
    while not done.wait(pause_s):
        at = time.monotonic()
        try:
            now = moment(ledger, output, since=began)
        except LedgerUnavailable:
            continue  # the run itself meets the same and says so
        pause_s = rest_s(time.monotonic() - at, every_s)
        if now is not None:
            yield now


def _plain_lines(ledger: Ledger, output: str, began: float, done: threading.Event) -> None:
    for now in _moments(ledger, output, began, done, PLAIN_EVERY_S):
        sys.stderr.write(f"{now}\n")
        sys.stderr.flush()


def _bar(ledger: Ledger, output: str, began: float, done: threading.Event) -> None:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("", total=None)
        for now in _moments(ledger, output, began, done, TERMINAL_EVERY_S):
            failed = f"[red]{now.failed:,} failed[/], " if now.failed else ""
            told = f"{failed}{now.per_minute:.0f}/min, {money(now.spent)}"
            bar.update(line, total=now.rows, completed=now.done, description=told)
