"""Runs that are killed at moments picked by a seed, with the money counted at the provider's side.

ROWSHOT_CRASH_SEED repeats the moments of an earlier run of these tests (each test's name begins with its seed), and
ROWSHOT_CRASH_MOMENTS says how many there are; `make crashtest` takes 20.
"""

import os
import random
import sqlite3
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, rowshot_here, start_rowshot, write_csv

ROWS = 200
IN_FLIGHT = 16
RUN_OF_TESTS = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
MOMENTS = int(os.environ.get("ROWSHOT_CRASH_MOMENTS", "4"))
# Where tests run side by side, each process must find the same ones: they share the name of their run.
SEED = int(os.environ.get("ROWSHOT_CRASH_SEED") or zlib.crc32(RUN_OF_TESTS.encode()) % 10**6)
RUN = ("run", "crash.csv", "--generator", "anycap", "--concurrency", str(IN_FLIGHT))
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Moment:
    """When a run is killed: so long after its provider has got so many calls. `whole`: its children die with it."""

    calls: int
    seconds: float
    whole: bool

    def __str__(self) -> str:
        who = "group" if self.whole else "process"
        return f"{SEED}-{who}-{self.seconds:.3f}s-after-{self.calls}-calls"


def moments() -> list[Moment]:
    """The seed's moments: two of ten before the first call, the others anywhere between the first and the last."""
    dice = random.Random(SEED)  # noqa: S311 - moments are no secrets
    found = []
    for number in range(MOMENTS):
        early = number % 10 in {8, 9}
        calls, seconds = (0, dice.uniform(0, 4)) if early else (dice.randint(1, ROWS), dice.uniform(0, 0.6))
        found.append(Moment(calls, seconds, whole=number % 2 == 1))
    return found


def wait_for(moment: Moment, run: subprocess.Popen[str], server: AnyCapServer) -> None:
    """Sleep until the moment has come, or the run has ended before it."""
    deadline = time.monotonic() + PATIENCE_S
    while server.counts()["calls"] < moment.calls and run.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    with suppress(subprocess.TimeoutExpired):
        run.wait(moment.seconds)


def kill(run: subprocess.Popen[str], *, whole: bool) -> None:
    """Kill a run without a warning; where its machine dies, all its children with it at the same moment."""
    family = []
    if whole and run.poll() is None:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(run.pid)
            parent.suspend()  # it starts no child while the others are looked for
            family = parent.children(recursive=True)
    for child in family:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    run.kill()
    run.communicate()


def under_way(ledger: Path) -> dict[str, bool]:
    """The rows that were in a call when their run died, and whether the call's child had been noted."""
    if not ledger.exists():
        return {}
    with closing(sqlite3.connect(ledger)) as database:
        tables = database.execute("select count(*) from sqlite_master where name = 'attempts'").fetchone()
        wanted = "select sku, pid is not null from attempts where outcome = 'submitted'"
        return {sku: bool(noted) for sku, noted in database.execute(wanted)} if tables[0] else {}


def by_row(counted: Mapping[str, int]) -> dict[str, int]:
    """What the provider counted by prompt, by the sku that each prompt names."""
    return {prompt.split("#")[1]: number for prompt, number in counted.items()}


@pytest.mark.parametrize("moment", moments(), ids=str)
@pytest.mark.usefixtures("prefect_server")
def test_a_kill_costs_nothing(moment: Moment, tmp_path: Path, anycap_server: AnyCapServer) -> None:
    """The next run of the same command adopts what the dead one left and buys the rest; no image is bought twice, and
    what can't be told any more is named as unknown and bought again only on demand.
    """
    skus = [f"s{number}" for number in range(ROWS)]
    write_csv(tmp_path / "crash.csv", {sku: f"#{sku}#" for sku in skus})
    variables = anycap_variables(anycap_server, tmp_path)
    anycap_server.delay_s = 0.5
    run = start_rowshot(tmp_path, *RUN, **variables)
    wait_for(moment, run, anycap_server)
    kill(run, whole=moment.whole)
    was_under_way = under_way(tmp_path / "ledger.sqlite3")
    assert len(was_under_way) <= 2 * IN_FLIGHT  # those in flight, and those whose image is being kept

    anycap_server.delay_s = 0.0
    again = rowshot_here(tmp_path, *RUN, **variables)
    rows = by_sku(tmp_path / "output/manifest.csv")
    assert sorted(rows) == sorted(skus)
    delivered = {sku for sku, row in rows.items() if row["status"] == "stored"}
    unknown = {sku for sku, row in rows.items() if row["status"] == "unknown"}
    told = f"{len(was_under_way)} in a call, {len(delivered)} delivered, {len(unknown)} unknown"
    sys.stdout.write(f"\n{moment}: {told}\n")
    assert len(delivered) + len(unknown) == ROWS, again
    assert again.returncode == (1 if unknown else 0), again
    calls, charges = by_row(anycap_server.calls), by_row(anycap_server.charges)
    assert set(calls.values()) == {1}, "no row was called for twice"
    assert charges.keys() - delivered <= unknown, "what was paid for and is not there is named"
    assert delivered <= charges.keys()
    assert all((tmp_path / "output" / rows[sku]["path"]).is_file() for sku in delivered)
    if moment.whole:
        assert unknown <= was_under_way.keys()
        assert len(unknown) <= IN_FLIGHT
    else:
        assert unknown <= {sku for sku, noted in was_under_way.items() if not noted}
    assert all("--retry-unknown" in rows[sku]["error"] for sku in unknown)

    if unknown:
        careful = rowshot_here(tmp_path, *RUN, **variables)
        assert careful.returncode == 1
        assert by_row(anycap_server.calls) == calls, "nothing is bought again without the word"
        last = rowshot_here(tmp_path, *RUN, "--retry-unknown", **variables)
        assert last.returncode == 0, last
        assert {row["status"] for row in by_sku(tmp_path / "output/manifest.csv").values()} == {"stored"}
        twice = {sku for sku, number in by_row(anycap_server.charges).items() if number > 1}
        assert twice <= unknown
    folders = {path.name for path in (tmp_path / "output/.rowshot/calls").iterdir()}
    assert len(folders) == len(unknown), "only the calls that are in doubt leave something behind"
