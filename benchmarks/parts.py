"""What the benchmarks share: servers, the ways to call the real CLI, and how figures are taken and kept."""

import contextlib
import csv
import json
import os
import platform
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import requests

REPO = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
DOUBLES = REPO / "tests" / "doubles"
sys.path[:0] = [str(REPO), str(DOUBLES)]

from processes import end  # noqa: E402 - it is found by the line above

SERVER_READY_S = 120
STOP_S = 30
DRAIN_POLL_S = 3


@dataclass(frozen=True)
class Ended:
    """A process that has ended. `peak_mb` is its own largest memory; `cpu_s` is with all that it started.

    `gave_up` says that it was ended because its time was over.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    code: int
    told: str
    gave_up: bool = False


def clean(**variables: str) -> dict[str, str]:
    """This process's environment without the caller's Prefect and Rowshot, and these variables on top."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ROWSHOT_"))}
    return {**mine, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", **variables}


def run_to_end(
    command: Sequence[str | Path], environment: Mapping[str, str], folder: Path, *, patience_s: float | None = None
) -> Ended:
    """Run a process to its end, or for so many seconds at most; what it prints is in `told`."""
    log = folder / "told.log"
    began = time.monotonic()
    gave_up = threading.Event()
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, env=dict(environment), cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )

        def end_it() -> None:
            gave_up.set()
            os.killpg(child.pid, signal.SIGKILL)

        deadline = threading.Timer(patience_s or 0, end_it)
        if patience_s:
            deadline.start()
        try:
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            raise
        finally:
            deadline.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
    return Ended(
        time.monotonic() - began,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss / 1000,
        child.returncode,
        log.read_text(errors="replace"),
        gave_up.is_set(),
    )


def cpu_of(pids: Sequence[int]) -> float:
    """Seconds of CPU of these processes and of all that they have started, ended ones too."""
    used = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(pid)
            for one in (first, *first.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = one.cpu_times()
                    used += times.user + times.system + times.children_user + times.children_system
    return used


@contextlib.contextmanager
def provider(folder: Path, delay_s: float, *more: str) -> Iterator[tuple[str, Path]]:
    """The AnyCap double as a process of its own, with more options; gives its address and its log of calls."""
    log = folder / "requests.jsonl"
    log.touch()
    double = str(DOUBLES / "anycap_server.py")
    command = [sys.executable, double, "--delay", str(delay_s), "--requests-log", str(log), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout
            yield child.stdout.readline().strip(), log
        finally:
            child.terminate()


@contextlib.contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """A Prefect server with the repository's own settings, on SQLite in folder/prefect; gives its API's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    environment = clean(PREFECT_HOME=str(folder / "prefect"))
    with subprocess.Popen(
        command, env=environment, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        try:
            url = f"http://127.0.0.1:{port}/api"
            deadline = time.monotonic() + SERVER_READY_S
            while time.monotonic() < deadline and child.poll() is None:
                with contextlib.suppress(requests.ConnectionError):
                    if requests.get(f"{url}/health", timeout=5).ok:
                        yield url
                        return
                time.sleep(0.2)
            raise SystemExit(f"No Prefect server came up at {url} within {SERVER_READY_S} s")
        finally:
            end(child, STOP_S)


def cli_environment(url: str) -> dict[str, str]:
    """What the real CLI needs to draw against the provider at this address."""
    return {
        "ANYCAP_API_KEY": "test-key",
        "ANYCAP_API_ENDPOINT": url,
        "ANYCAP_NO_UPDATE": "1",
        "ANYCAP_NO_KEYRING": "1",
    }


def call_cli(program: Path, number: int, folder: Path, url: str) -> None:
    """One image, as people call the CLI from a script; nothing is verified, kept or written down."""
    arguments = ["image", "generate", f"--prompt=bare {number}", "--model=nano-banana-2", "--endpoint", url]
    done = subprocess.run(
        [program, *arguments, "-o", folder / f"{number}.png"],
        env=os.environ | cli_environment(url),
        capture_output=True,
        check=True,
    )
    json.loads(done.stdout)


def bare_threads(program: Path, url: str, rows: int, wide: int, folder: Path) -> float:
    """What people write today, a thread pool around the CLI; gives its seconds."""
    began = time.time()
    with ThreadPoolExecutor(wide) as pool:
        list(pool.map(lambda number: call_cli(program, number, folder, url), range(rows)))
    return time.time() - began


def write_sheet(path: Path, skus: Sequence[str]) -> Path:
    """A CSV for the default template."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "name", "color"])
        writer.writerows([sku, f"product {sku}", "red"] for sku in skus)
    return path


def rowshot(  # noqa: PLR0913 - what one round is made of
    program: Path, url: str, api: str, rows: int, wide: int, folder: Path, log: Path, *, store: str = ""
) -> tuple[float, float, float]:
    """First call to last image (with a store: until it is there), the whole command, and the client's peak MB."""
    sheet = write_sheet(folder / "rows.csv", [f"sku-{folder.name}-{number}" for number in range(rows)])
    environment = clean(
        ROWSHOT_ANYCAP=str(program),
        PREFECT_API_URL=api,
        PREFECT_HOME=str(folder / "client"),
        PYTHONPATH=str(REPO),
        **cli_environment(url),
    )
    before = log.stat().st_size
    command = [sys.executable, "-m", "flows", "run", str(sheet), "--generator", "anycap", "--concurrency", str(wide)]
    command += ["--output", str(folder / "out"), "--ledger", str(folder / "ledger.sqlite3")]
    command += ["--store", store] if store else []
    done = run_to_end(command, environment, folder)
    if done.code:
        raise SystemExit(done.told)
    first = min(call["begun"] for call in calls_since(log, before))
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite3")) as ledger:
        (last,) = ledger.execute("select max(bought_at) from images where state = 'bought'").fetchone()
        if store:
            stored, end = ledger.execute("select count(*), max(at) from deliveries where state = 'stored'").fetchone()
            assert stored == rows, f"{stored} of {rows} images are in the store"
            last = max(last, end)
    return last - first, done.wall_s, done.peak_mb


def calls_since(log: Path, place: int) -> list[dict[str, Any]]:
    """The provider's calls that its log has from this place on; `begun` and `ended` are seconds since the epoch."""
    with log.open() as lines:
        lines.seek(place)
        return [json.loads(line) for line in lines]


def recorded_runs(api: str, *, named: str = "", headers: Mapping[str, str] | None = None) -> int:
    """Completed task runs (whose names have this in them), once the server has caught up."""
    wanted: dict[str, Any] = {"state": {"type": {"any_": ["COMPLETED"]}}}
    if named:
        wanted["name"] = {"like_": named}
    count = -1
    while True:
        answer = requests.post(
            f"{api}/task_runs/count", json={"task_runs": wanted}, headers=dict(headers or {}), timeout=60
        )
        answer.raise_for_status()
        now = int(answer.json())
        if now == count:
            return count
        count = now
        time.sleep(DRAIN_POLL_S)


def machine() -> dict[str, Any]:
    """When, where and what: without it a figure says nothing."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPO, capture_output=True, check=True)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": commit.stdout.decode().strip(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def told(name: str, where: Mapping[str, Any], figures: Mapping[str, Any], *, keep: bool) -> None:
    """Print the figures, and keep them as one line of JSON in results/ where that is asked for."""
    print(json.dumps(figures, indent=2))
    line = json.dumps({"benchmark": name, **where, "figures": figures})
    print(line, flush=True)
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(line + "\n")
