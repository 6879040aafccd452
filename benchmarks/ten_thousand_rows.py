"""10,000 rows of 1 s, 64 at once, on a server on SQLite: is every row recorded, what does it cost, and a rerun of it.

    python benchmarks/ten_thousand_rows.py [--rows 10000] [--delay 1] [--wide 64] [--keep]

The generator is in the process and only sleeps (prepared_images.py), so that the machine's two cores are not taken by
10,000 starts of a CLI; all else is as it is with a provider: ledger, prices, limit, verified images, reports. Then half
as many rows come as a burst, from a generator that answers at once: does the server keep up with that, too?
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from large import Large, prefix
from parts import machine, prefect_server, recorded_runs, told


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The run, the rerun of the finished one, and the burst."""
    rows, database = options.rows, folder / "prefect" / "prefect.db"
    with prefect_server(folder) as api:
        large = Large(folder, f"sqlite:///{folder / 'ledger.sqlite3'}", {"PREFECT_API_URL": api})
        large.prepare()
        before = _size(database)
        done = large.run(rows, wide=options.wide, delay_s=options.delay)
        first_to_last_s = large.first_to_last(rows)
        ideal_s = rows * options.delay / options.wide
        recorded = recorded_runs(api, named=prefix(rows))
        figures = {
            "rows": rows,
            "row_s": options.delay,
            "wide": options.wide,
            "ideal_s": round(ideal_s, 1),
            "first_call_to_last_image_s": round(first_to_last_s, 1),
            "efficiency": round(ideal_s / first_to_last_s, 3),
            "command_s": round(done.wall_s, 1),
            "client_cpu_ms_a_row": round(1000 * done.cpu_s / rows, 1),
            "client_peak_mb": round(done.peak_mb),
            "task_runs_recorded": recorded,
            "server_database_kb_a_row": round((_size(database) - before) / rows / 1000, 1),
            "ledger_kb_a_row": round(_size(folder / "ledger.sqlite3") / rows / 1000, 1),
            "calls": large.calls(rows),
        }
        print(figures, flush=True)
        again = large.run(rows, wide=options.wide, delay_s=options.delay)
        burst = rows // 2
        large.run(burst, wide=options.wide, delay_s=0)
        return figures | {
            "rerun_s": round(again.wall_s, 1),
            "rerun_peak_mb": round(again.peak_mb),
            "rerun_calls": large.calls(rows) - figures["calls"],
            "burst_rows": burst,
            "burst_rows_a_second": round(burst / large.first_to_last(burst), 1),
            "burst_task_runs_recorded": recorded_runs(api, named=prefix(burst)),
        }


def _size(database: Path) -> int:
    """Bytes of an SQLite file, with what is in its write-ahead log."""
    return sum(path.stat().st_size for path in database.parent.glob(f"{database.name}*") if not path.match("*-shm"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--delay", type=float, default=1.0)
    parser.add_argument("--wide", type=int, default=64)
    parser.add_argument("--keep", action="store_true", help="write results/ten_thousand_rows.json")
    options = parser.parse_args()
    where = machine()
    with tempfile.TemporaryDirectory() as name:
        figures = measured(options, Path(name))
    told("ten_thousand_rows", where, figures, keep=options.keep)


if __name__ == "__main__":
    main()
