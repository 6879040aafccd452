"""1,000 rows of 2 s, 64 at once, with the real AnyCap CLI: Rowshot beside 64 bare threads, in turn on one machine.

    python benchmarks/thousand_rows.py [--rows 1000] [--delay 2] [--wide 64] [--rounds 3] [--store]

With --store Rowshot with an S3 (SeaweedFS, started here) stands beside Rowshot without one, in place of the threads.

A provider of our own answers each call after `--delay` seconds. The threads call the CLI and keep nothing: no
ledger, no verified image, no report. Both are measured where the calls arrive: from the first call to the last image,
which for Rowshot is the last one verified and written down in the ledger. The Prefect server runs beforehand.
"""

import argparse
import contextlib
import csv
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

REPO = Path(__file__).parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests" / "doubles")]

from cli import anycap_executable  # noqa: E402 - the double's folder is put on the path first

SERVER_READY_S = 120


@dataclass(frozen=True)
class Figures:
    """One round. Seconds; `recorded` are task runs that the Prefect server has as completed."""

    threads_s: float
    rowshot_s: float
    command_s: float
    recorded: int
    client_mb: float


@contextlib.contextmanager
def provider(folder: Path, delay_s: float) -> Iterator[tuple[str, Path]]:
    """The AnyCap double as a process of its own; gives its address and its log of calls."""
    log = folder / "requests.jsonl"
    log.touch()
    command = [
        sys.executable,
        str(REPO / "tests/doubles/anycap_server.py"),
        "--delay",
        str(delay_s),
        "--requests-log",
        str(log),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout
            yield child.stdout.readline().strip(), log
        finally:
            child.terminate()


@contextlib.contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """A Prefect server with the repository's own settings, on SQLite."""
    port = 4299
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(folder / "prefect")
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(
        command, env=environment, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        try:
            url = f"http://127.0.0.1:{port}/api"
            deadline = time.monotonic() + SERVER_READY_S
            while time.monotonic() < deadline:
                with contextlib.suppress(requests.ConnectionError):
                    if requests.get(f"{url}/health", timeout=5).ok:
                        break
                time.sleep(0.2)
            yield url
        finally:
            child.terminate()


def bare_threads(program: Path, url: str, rows: int, wide: int, folder: Path) -> float:
    """What people write today: a thread pool around the CLI."""
    environment = os.environ | {"ANYCAP_API_KEY": "test-key", "ANYCAP_NO_UPDATE": "1", "ANYCAP_NO_KEYRING": "1"}

    def call(number: int) -> None:
        arguments = [
            "image",
            "generate",
            f"--prompt=bare {number}",
            "--model=nano-banana-2",
            "-o",
            str(folder / f"{number}.png"),
        ]
        done = subprocess.run(
            [program, *arguments, "--endpoint", url], env=environment, capture_output=True, check=True
        )
        json.loads(done.stdout)

    began = time.time()
    with ThreadPoolExecutor(wide) as pool:
        list(pool.map(call, range(rows)))
    return time.time() - began


def rowshot(  # noqa: PLR0913 - what one round is made of
    program: Path, url: str, api: str, rows: int, wide: int, folder: Path, log: Path, *, store: str = ""
) -> tuple[float, float, float]:
    """First call to last image (with a store: until it is there), the whole command, and the client's peak MB."""
    sheet = folder / "rows.csv"
    with sheet.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "name", "color"])
        writer.writerows([f"sku-{number}", f"product {number} of {folder.name}", "red"] for number in range(rows))
    environment = os.environ | {
        "ANYCAP_API_KEY": "test-key",
        "ANYCAP_API_ENDPOINT": url,
        "ROWSHOT_ANYCAP": str(program),
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(folder / "client"),
    }
    before = log.stat().st_size
    command = [sys.executable, "-m", "flows", "run", str(sheet), "--generator", "anycap", "--concurrency", str(wide)]
    command += ["--output", str(folder / "out"), "--ledger", str(folder / "ledger.sqlite3")]
    command += ["--store", store] if store else []
    began, peak = time.time(), 0
    with subprocess.Popen(
        command, env=environment, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        with contextlib.suppress(psutil.NoSuchProcess):
            watched = psutil.Process(child.pid)
            while child.poll() is None:
                peak = max(peak, watched.memory_info().rss)
                time.sleep(0.2)
        assert child.stderr
        told = child.stderr.read()
    command_s = time.time() - began
    if child.returncode:
        raise SystemExit(told)
    with log.open() as lines:
        lines.seek(before)
        first = min(json.loads(line)["begun"] for line in lines)
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite3")) as ledger:
        (last,) = ledger.execute("select max(bought_at) from images where state = 'bought'").fetchone()
        if store:
            stored, end = ledger.execute("select count(*), max(at) from deliveries where state = 'stored'").fetchone()
            assert stored == rows, f"{stored} of {rows} images are in the store"
            last = max(last, end)
    return last - first, command_s, peak / 1e6


def recorded_runs(api: str) -> int:
    """Completed task runs, once the server has caught up."""
    count = -1
    while True:
        answer = requests.post(
            f"{api}/task_runs/count", json={"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}, timeout=30
        )
        now = int(answer.json())
        if now == count:
            return count
        count = now
        time.sleep(3)


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
