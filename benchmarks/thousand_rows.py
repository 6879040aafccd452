"""1,000 rows of 2 s, 64 at once, with the real AnyCap CLI: Rowshot beside 64 bare threads, in turn on one machine.

    python benchmarks/thousand_rows.py [--rows 1000] [--delay 2] [--wide 64] [--rounds 3] [--store]

With --store Rowshot with an S3 (SeaweedFS, started here) stands beside Rowshot without one, in place of the threads.

A provider of our own answers each call after `--delay` seconds. The threads call the CLI and keep nothing: no
ledger, no verified image, no report. Both are measured where the calls arrive: from the first call to the last image,
which for Rowshot is the last one verified and written down in the ledger. The Prefect server runs beforehand.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from parts import bare_threads, prefect_server, provider, recorded_runs, rowshot


@dataclass(frozen=True)
class Figures:
    """One round. Seconds; `recorded` are task runs that the Prefect server has as completed."""

    threads_s: float
    rowshot_s: float
    command_s: float
    recorded: int
    client_mb: float


def beside_a_store(options: argparse.Namespace, program: Path, root: Path) -> None:
    """Rounds without and with a store, in turn."""
    from documents import s3_bucket  # noqa: PLC0415 - it loads Prefect, which reads its settings then
    from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: PLC0415 - as above
    from seaweed import seaweed  # noqa: PLC0415 - only this benchmark needs it

    found: list[tuple[tuple[float, float, float], ...]] = []
    with provider(root, options.delay) as (url, log), prefect_server(root) as api, seaweed(root / "seaweed") as server:
        with temporary_settings({PREFECT_API_URL: api}):
            store = s3_bucket(server, server.bucket("benchmark"), "benchmark")
        for number in range(options.rounds):
            both = []
            for block in ("", store):
                folder = root / f"round-{number}-{'s3' if block else 'folder'}"
                folder.mkdir()
                recorded_runs(api)
                both.append(rowshot(program, url, api, options.rows, options.wide, folder, log, store=block))
            found.append(tuple(both))
            print(both, flush=True)
    middle = {
        "ratio": statistics.median(stored[0] / folder[0] for folder, stored in found),
        "command_ratio": statistics.median(stored[1] / folder[1] for folder, stored in found),
        "folder_s": statistics.median(folder[0] for folder, _ in found),
        "store_s": statistics.median(stored[0] for _, stored in found),
        "client_mb": max(stored[2] for _, stored in found),
    }
    print(json.dumps({name: round(value, 3) for name, value in middle.items()}, indent=2))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--delay", type=float, default=2.0)
    parser.add_argument("--wide", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", action="store_true", help="with an S3 beside without one")
    options = parser.parse_args()
    from cli import anycap_executable  # noqa: PLC0415 - the first call installs it

    program = anycap_executable()
    if options.store:
        with tempfile.TemporaryDirectory() as name:
            beside_a_store(options, program, Path(name))
        return
    rounds: list[Figures] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with provider(root, options.delay) as (url, log), prefect_server(root) as api:
            for number in range(options.rounds):
                before = recorded_runs(api)
                folder = root / f"round-{number}"
                (folder / "bare").mkdir(parents=True)
                threads_s = bare_threads(program, url, options.rows, options.wide, folder / "bare")
                rowshot_s, command_s, mb = rowshot(program, url, api, options.rows, options.wide, folder, log)
                rounds.append(Figures(threads_s, rowshot_s, command_s, recorded_runs(api) - before, mb))
                print(rounds[-1], flush=True)
    middle = {
        "ratio": statistics.median(one.rowshot_s / one.threads_s for one in rounds),
        "threads_s": statistics.median(one.threads_s for one in rounds),
        "rowshot_s": statistics.median(one.rowshot_s for one in rounds),
        "command_more_s": statistics.median(one.command_s - one.threads_s for one in rounds),
        "recorded": min(one.recorded for one in rounds),
        "client_mb": max(one.client_mb for one in rounds),
    }
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; {options.rows} rows, {options.wide} at once; "
        f"medians of {options.rounds}"
    )
    print(json.dumps({name: round(value, 3) for name, value in middle.items()}, indent=2))


if __name__ == "__main__":
    main()
