"""What a long run's processes use, looked at from outside and written down as it goes."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import psutil
from parts import STOP_S, Ended, cpu_of

LOOK_EVERY_S = 1.0
HIGH_WATER = "VmHWM:"


class LeftBehind:
    """The processes of a sitting, by pid and start time, in a file: one that was killed hard leaves them running."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "processes.json"

    def note(self) -> None:
        """Write down what this process has started so far."""
        found = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append((child.pid, child.create_time()))
        beside = self._path.with_suffix(".part")
        beside.write_text(json.dumps(found))
        beside.replace(self._path)

    def end(self) -> None:
        """End what an earlier sitting has left: PostgreSQL in good order, all else at once."""
        left = []
        for pid, started in json.loads(self._path.read_text()) if self._path.exists() else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                child = psutil.Process(pid)
                if child.create_time() == started:
                    child.send_signal(signal.SIGINT if child.name() == "postgres" else signal.SIGKILL)
                    left.append(child)
        _, still = psutil.wait_procs(left, STOP_S)
        if still:
            raise SystemExit(f"An earlier sitting's processes do not end: {still}. End them, and run this again.")


class Watch:
    """Looks at the processes every second, so that what a killed sitting has used is not lost."""

    def __init__(
        self, folder: Path, workers: Sequence[int], servers: Sequence[int], write: Callable[[dict[str, float]], None]
    ) -> None:
        self._workers, self._servers, self._write = workers, servers, write
        self._peaks = {"client_peak_mb": 0.0, "shard_peak_mb": 0.0, "worker_peak_mb": 0.0}
        self._run_cpu_s = 0.0
        self._left_behind = LeftBehind(folder)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._began = time.monotonic()
        self._before = self._used()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        self._tell()

    def ended(self, run: Ended) -> None:
        """Take the run's own account of itself."""
        self._run_cpu_s = run.cpu_s
        self._peaks["client_peak_mb"] = run.peak_mb

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self._left_behind.note()
            for child in psutil.Process().children():
                if "run_batch.py" in " ".join(_command(child)):
                    self._peak("client_peak_mb", child)
                    self._run_cpu_s = max(self._run_cpu_s, cpu_of([child.pid]))
            for pid in self._workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    first = psutil.Process(pid)
                    self._peak("worker_peak_mb", first)
                    for shard in first.children(recursive=True):
                        self._peak("shard_peak_mb", shard)
            self._tell()

    def _peak(self, name: str, child: psutil.Process) -> None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
                if line.startswith(HIGH_WATER):
                    self._peaks[name] = max(self._peaks[name], int(line.split()[1]) / 1000)

    def _used(self) -> dict[str, float]:
        """Seconds of CPU so far: of the clients (the run, its workers and shards) and of the server."""
        return {
            "client_cpu_s": self._run_cpu_s + cpu_of(self._workers),
            "server_cpu_s": cpu_of(self._servers),
        }

    def _tell(self) -> None:
        used = self._used()
        spent = {name: used[name] - self._before[name] for name in used}
        self._write({"seconds": time.monotonic() - self._began, **spent, **self._peaks})


def _command(child: psutil.Process) -> list[str]:
    try:
        command: list[str] = child.cmdline()
    except psutil.NoSuchProcess:
        return []
    return command
