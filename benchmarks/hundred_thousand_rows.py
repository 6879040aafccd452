"""1,000, 10,000 and 100,000 rows with a generator that answers at once, in shards on two workers, and reruns of them.

    python benchmarks/hundred_thousand_rows.py --folder FOLDER [--sizes 1000,10000,100000] [--keep]

Prefect's server is that of deploy/compose.yaml out of native processes (PostgreSQL, Valkey, two web processes, the
services), and the ledger is on the same PostgreSQL. It needs the system's PostgreSQL, and where root runs it FOLDER has
to be open to the user postgres. It can be ended at any time: the same command goes on from there, and sizes that are
done are not done again. Seconds of several sittings are added up. One that was killed hard, and not by Ctrl-C or
SIGTERM, takes with it what its processes had not told the server yet: fewer task runs are recorded then, but nothing is
bought twice.
"""

import argparse
import base64
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from large import Large, prefix
from parts import STOP_S, machine, recorded_runs, told
from processes import end
from team_server import TeamServer, team_server
from watching import LeftBehind, Watch

POOL = "rowshot"
WORKERS = 2
WIDE = 16  # calls at once of a shard: the generator answers at once, so more would only wait for the cores
SETTLE_S = 60  # a queue that has stood still for so long is drained


@dataclass(frozen=True)
class Place:
    """A server, a clone and two workers that run."""

    large: Large
    server: TeamServer
    workers: list[int]

    @property
    def database_bytes(self) -> int:
        """How large the ledger is."""
        return int(self._ledger("select pg_database_size(current_database())"))

    def images(self, rows: int) -> int:
        """How many images of the file of so many rows the ledger has as bought."""
        if not self._ledger("select count(*) from pg_tables where tablename = 'images'"):
            return 0
        like = f"{prefix(rows)}%"
        return int(self._ledger("select count(*) from images where state = 'bought' and sku like :like", like=like))

    def recorded(self, rows: int) -> int:
        """Task runs of the file of so many rows that the server has as completed, once its queue is drained."""
        login = base64.b64encode(self.server.client["PREFECT_API_AUTH_STRING"].encode()).decode()
        headers, count, since = {"Authorization": f"Basic {login}"}, -1, time.monotonic()
        while count < rows and time.monotonic() - since < SETTLE_S:
            before = count
            count = recorded_runs(self.server.api, named=prefix(rows), headers=headers)
            since = time.monotonic() if count > before else since
        return count

    def _ledger(self, statement: str, **values: Any) -> Any:
        engine = sqlalchemy.create_engine(self.large.ledger)
        with engine.connect() as connection:
            found = connection.execute(sqlalchemy.text(statement), values).scalar_one()
        engine.dispose()
        return found


@contextlib.contextmanager
def place(folder: Path, server: TeamServer) -> Iterator[Place]:
    """All that a run needs on a server, going on from what an earlier sitting has left in the folder."""
    large = Large(folder, server.ledger, server.client)
    large.prepare()
    prefect(large, "work-pool", "create", "--overwrite", "--type", "process", POOL)
    prefect(large, "deploy", "--all")
    with contextlib.ExitStack() as stack:
        yield Place(large, server, [stack.enter_context(worker(large, number)) for number in range(WORKERS)])


def prefect(large: Large, *arguments: str) -> None:
    """Run one of Prefect's own commands in the clone."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(
        command,
        cwd=large.clone,
        env=large.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


@contextlib.contextmanager
def worker(large: Large, number: int) -> Iterator[int]:
    """A process worker that takes one shard at a time; gives its pid."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--limit", "1"]
    environment = large.environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    with (large.folder / f"worker-{number}.log").open("ab") as log:
        child = subprocess.Popen(
            [*command, "--name", f"worker-{number}"], cwd=large.clone, env=environment, stdout=log, stderr=log
        )
        try:
            yield child.pid
        finally:
            end(child, STOP_S)


class State:
    """What is known so far, in a file: a list of sittings and the figures of each size."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def of(self, rows: int) -> dict[str, Any]:
        """What is known of the file of so many rows; to be changed and kept."""
        known: dict[str, Any] = self.known.setdefault(str(rows), {"sittings": [], "figures": {}})
        return known

    def keep(self) -> None:
        """Write it whole."""
        beside = self._path.with_suffix(".part")
        beside.write_text(json.dumps(self.known))
        beside.replace(self._path)


def measured(at: Place, state: State, rows: int, shard_rows: int) -> dict[str, Any]:
    """Run the file of so many rows to its end, then again when all is done; gives its figures."""
    known = state.of(rows)
    settings: dict[str, Any] = {"wide": WIDE, "delay_s": 0, "shard_rows": shard_rows, "shards_at_once": WORKERS}
    settings["shard_deployment"] = "generate-shard/generate-shard"
    if not known["figures"]:
        known.setdefault("ledger_before", at.database_bytes)
        known["sittings"].append({})

        def write(spent: dict[str, float]) -> None:
            known["sittings"][-1] = spent
            state.keep()

        with Watch(at.large.folder, at.workers, list(at.server.pids.values()), write) as watch:
            watch.ended(at.large.run(rows, **settings))
        assert at.images(rows) == rows, f"{at.images(rows)} of {rows} images are in the ledger"
        known["figures"] = figures_of(at, rows, known)
        state.keep()
    if "rerun_s" not in known["figures"]:
        before = at.large.calls(rows)
        again = at.large.run(rows, **settings)
        known["figures"] |= {
            "rerun_s": round(again.wall_s, 1),
            "rerun_peak_mb": round(again.peak_mb),
            "rerun_calls": at.large.calls(rows) - before,
        }
        state.keep()
    figures: dict[str, Any] = known["figures"]
    print(figures, flush=True)
    return figures


def figures_of(at: Place, rows: int, known: dict[str, Any]) -> dict[str, Any]:
    """The figures of a finished file, out of its sittings."""
    sittings = [one for one in known["sittings"] if one]
    total = {name: sum(one[name] for one in sittings) for name in ("seconds", "client_cpu_s", "server_cpu_s")}
    ended = time.monotonic()
    recorded = at.recorded(rows)
    return {
        "rows": rows,
        "sittings": len(sittings),
        "seconds": round(total["seconds"], 1),
        "rows_a_second": round(rows / total["seconds"], 1),
        "client_cpu_ms_a_row": round(1000 * total["client_cpu_s"] / rows, 2),
        "server_cpu_ms_a_row": round(1000 * total["server_cpu_s"] / rows, 2),
        **{
            name: round(max(one[name] for one in sittings))
            for name in ("client_peak_mb", "shard_peak_mb", "worker_peak_mb")
        },
        "task_runs_recorded": recorded,
        "drained_after_s": round(time.monotonic() - ended),
        "ledger_kb_a_row": round((at.database_bytes - known["ledger_before"]) / rows / 1000, 2),
        "calls": at.large.calls(rows),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where all of it is kept, for a later sitting")
    parser.add_argument("--sizes", default="1000,10000,100000", help="how many rows, one after the other")
    parser.add_argument("--shard-rows", type=int, default=1000, help="a file with no more rows is not cut")
    parser.add_argument("--keep", action="store_true", help="write results/hundred_thousand_rows.json")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what it has started, as Ctrl-C does
    LeftBehind(folder).end()
    where, state = machine(), State(folder / "state.json")
    with team_server(folder / "server") as server, place(folder, server) as at:
        figures = {rows: measured(at, state, int(rows), options.shard_rows) for rows in options.sizes.split(",")}
    told("hundred_thousand_rows", where, figures, keep=options.keep)


if __name__ == "__main__":
    main()
