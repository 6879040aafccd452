"""1,000 rows of 2 s, 64 at once, with the real AnyCap CLI: the ways there are to do it, side by side in one go.

    python benchmarks/ways_to_map.py [--rows 1000] [--delay 2] [--wide 64] [--rounds 3] [--patience 300] [--keep]

Bare threads and Rowshot with the provider's global concurrency limit on take turns for so many rounds (medians are
told); Prefect's own `.map` is measured once a way: with no tag, with a tag that has no limit, with a second `.map` on
the first one's futures, and with a tag limit, which is given up after `--patience` seconds. From the first call to the
last image. The Prefect server (SQLite, the repository's settings) runs beforehand, and catches up between two ways.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts import (
    REPO,
    bare_threads,
    calls_since,
    clean,
    machine,
    prefect_server,
    provider,
    recorded_runs,
    rowshot,
    run_to_end,
    told,
)

HERE = Path(__file__).parent
TAG = "mapped"


@dataclass(frozen=True)
class Place:
    """What all ways share."""

    options: argparse.Namespace
    program: Path
    root: Path
    url: str
    log: Path
    api: str

    def folder(self, name: str) -> Path:
        """A new folder, once the server has caught up with what was before."""
        recorded_runs(self.api)
        path = self.root / name
        path.mkdir()
        return path

    def prefect(self, *arguments: str) -> None:
        """Run one of Prefect's own commands."""
        command = [sys.executable, "-m", "prefect", *arguments]
        subprocess.run(command, env=clean(PREFECT_API_URL=self.api), check=True, capture_output=True)


def mapped(place: Place, way: str, patience_s: float) -> dict[str, Any]:
    """Prefect's own `.map`: seconds from the first call to the last image, or how many calls had ended by then."""
    folder = place.folder(f"map-{way}")
    options, before = place.options, place.log.stat().st_size
    command: list[str | Path] = [sys.executable, HERE / "mapped.py", "--way", way.removesuffix("-limited")]
    command += ["--program", place.program, "--folder", folder, "--url", place.url]
    command += ["--rows", str(options.rows), "--wide", str(options.wide)]
    environment = clean(PREFECT_API_URL=place.api, PREFECT_HOME=str(folder / "client"), PYTHONPATH=str(REPO))
    done = run_to_end(command, environment, folder, patience_s=patience_s)
    calls = calls_since(place.log, before)
    if done.gave_up:
        return {"gave_up_after_s": round(done.wall_s), "done": len(calls)}
    if done.code:
        raise SystemExit(done.told)
    last = float(done.told.strip().splitlines()[-1])
    return {"seconds": round(last - min(call["begun"] for call in calls), 2)}


def measured(place: Place) -> dict[str, Any]:
    """All the ways."""
    options = place.options
    place.prefect("gcl", "create", "rowshot-anycap", "--limit", str(options.wide))
    turns = []
    for number in range(options.rounds):
        bare = place.folder(f"bare-{number}")
        threads_s = bare_threads(place.program, place.url, options.rows, options.wide, bare)
        ours = place.folder(f"rowshot-{number}")
        rowshot_s, command_s, _ = rowshot(
            place.program, place.url, place.api, options.rows, options.wide, ours, place.log
        )
        turns.append((threads_s, rowshot_s, command_s))
        print(f"threads {threads_s:.2f} s, Rowshot {rowshot_s:.2f} s, {rowshot_s / threads_s:.3f}", flush=True)
    figures: dict[str, Any] = {
        "rows": options.rows,
        "row_s": options.delay,
        "wide": options.wide,
        "ideal_s": options.delay * -(-options.rows // options.wide),
        "threads": {"seconds": round(statistics.median(threads for threads, _, _ in turns), 2)},
        "rowshot": {"seconds": round(statistics.median(ours for _, ours, _ in turns), 2)},
        "ratios": [round(ours / threads, 3) for threads, ours, _ in turns],
        "ratio": round(statistics.median(ours / threads for threads, ours, _ in turns), 3),
        "rowshot_command_s": round(statistics.median(command for _, _, command in turns), 2),
    }
    for way in ("untagged", "tagged", "then", "tagged-limited"):
        if way == "tagged-limited":
            place.prefect("concurrency-limit", "create", TAG, str(options.wide))
        figures[f"map_{way.replace('-', '_')}"] = found = mapped(place, way, options.patience)
        print(f".map, {way}: {found}", flush=True)
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--delay", type=float, default=2.0)
    parser.add_argument("--wide", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=300, help="seconds that a way may take")
    parser.add_argument("--keep", action="store_true", help="write results/ways_to_map.json")
    options = parser.parse_args()
    from cli import anycap_executable  # noqa: PLC0415 - the first call installs it

    where = machine()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with provider(root, options.delay) as (url, log), prefect_server(root) as api:
            figures = measured(Place(options, anycap_executable(), root, url, log, api))
    told("ways_to_map", where, figures, keep=options.keep)


if __name__ == "__main__":
    main()
