"""The provider's limit: two runs that share one, and a provider that takes fewer calls at once than the limit says.

    python benchmarks/shared_limit.py [--rows 400] [--delay 2] [--keep]

All is measured where the calls arrive, by a provider of our own that answers the real CLI after `--delay` seconds.
The steady middle is from ten seconds after the second run's first call until the first of the two has no more rows.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts import calls_since, clean, cli_environment, machine, prefect_server, provider, told, write_sheet

from cli import anycap_executable  # isort: skip - the part above puts the double's folder on the path

SETTLED_S = 10.0
REFUSED = 429


@dataclass(frozen=True)
class Place:
    """Where a run happens."""

    folder: Path
    url: str
    api: str


def start(place: Place, name: str, rows: int, wide: int) -> subprocess.Popen[str]:
    """Begin a run of its own file, with its own ledger."""
    sheet = write_sheet(place.folder / f"{name}.csv", [f"{name}-{number}" for number in range(rows)])
    command = [sys.executable, "-m", "flows", "run", str(sheet), "--generator", "anycap", "--concurrency", str(wide)]
    command += ["--output", str(place.folder / name), "--ledger", str(place.folder / f"{name}.sqlite3")]
    environment = clean(
        ROWSHOT_ANYCAP=str(anycap_executable()),
        PREFECT_API_URL=place.api,
        PREFECT_HOME=str(place.folder / "client"),
        **cli_environment(place.url),
    )
    repo = Path(__file__).parents[1]
    log = (place.folder / f"{name}.log").open("w")
    return subprocess.Popen(command, env=environment, cwd=repo, stdout=log, stderr=subprocess.STDOUT, text=True)


def finish(runs: Sequence[subprocess.Popen[str]], place: Place) -> None:
    """Wait for the runs; a run that failed ends the benchmark with what the runs have said."""
    codes = [run.wait() for run in runs]
    if any(codes):
        raise SystemExit("\n".join(log.read_text() for log in place.folder.glob("*.log")))


def set_limit(place: Place, limit: int) -> None:
    """Have the server hold rowshot-anycap."""
    prefect = [sys.executable, "-m", "prefect", "gcl"]
    environment = clean(PREFECT_API_URL=place.api, PREFECT_HOME=str(place.folder / "client"))
    for action in ("create", "update"):
        command = [*prefect, action, "rowshot-anycap", "--limit", str(limit)]
        if subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0:
            return
    raise SystemExit("The limit can't be made.")


def most_in_flight(calls: Sequence[dict[str, Any]]) -> int:
    """The most calls that the provider had at one time."""
    steps = sorted([(call["begun"], 1) for call in calls] + [(call["ended"], -1) for call in calls])
    now = most = 0
    for _, change in steps:
        now += change
        most = max(most, now)
    return most


def used(calls: Sequence[dict[str, Any]], begin: float, end: float, limit: int) -> float:
    """The share of the limit that was in use between two moments."""
    busy = sum(max(0.0, min(call["ended"], end) - max(call["begun"], begin)) for call in calls)
    return float(busy / ((end - begin) * limit))


def two_runs(place: Place, log: Path, rows: int, limit: int) -> dict[str, Any]:
    """Two runs started together, each of which would take the whole limit alone."""
    set_limit(place, limit)
    before, began = log.stat().st_size, time.time()
    finish([start(place, name, rows, limit) for name in ("one", "two")], place)
    calls = calls_since(log, before)
    mine = [[call for call in calls if f"product {name}-" in call["prompt"]] for name in ("one", "two")]
    first = [min(call["begun"] for call in one) for one in mine]
    last = [max(call["begun"] for call in one) for one in mine]
    middle = max(first) + SETTLED_S, min(last)
    return {
        "limit": limit,
        "most_in_flight": most_in_flight(calls),
        "used": round(used(calls, *middle, limit), 3),
        "used_by_each": [round(used(one, *middle, limit), 3) for one in mine],
        "steady_s": round(middle[1] - middle[0], 1),
        "first_call_s": [round(one - began, 1) for one in first],
        "second_waited_s": round(max(first) - min(first), 1),
    }


def too_wide(place: Place, log: Path, rows: int, takes: int, limit: int) -> dict[str, Any]:
    """A run at the limit's width against a provider that takes fewer."""
    set_limit(place, limit)
    before = log.stat().st_size
    finish([start(place, "wide", rows, limit)], place)
    calls = calls_since(log, before)
    first = min(call["begun"] for call in calls)
    late = [call for call in calls if call["begun"] > first + SETTLED_S]
    taken = [call for call in calls if call["status"] != REFUSED]
    middle = first + SETTLED_S, max(call["begun"] for call in taken)
    return {
        "takes": takes,
        "limit": limit,
        "refused": sum(call["status"] == REFUSED for call in calls),
        "refused_share_later": round(sum(call["status"] == REFUSED for call in late) / len(late), 4),
        "throughput_share": round(used(taken, *middle, takes), 3),
        "steady_s": round(middle[1] - middle[0], 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400, help="of each of the two runs; the third has twice as many")
    parser.add_argument("--delay", type=float, default=2.0)
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--takes", type=int, default=24)
    parser.add_argument("--says", type=int, default=64)
    parser.add_argument("--keep", action="store_true", help="keep the figures in results/")
    options = parser.parse_args()
    where = machine()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = stack.enter_context(prefect_server(root))
        with provider(root, options.delay) as (url, log):
            shared = two_runs(Place(root, url, api), log, options.rows, options.limit)
        with provider(root, options.delay, "--at-once", str(options.takes)) as (url, log):
            narrow = too_wide(Place(root, url, api), log, 2 * options.rows, options.takes, options.says)
    told("shared_limit", where, {"two_runs": shared, "provider_takes_fewer": narrow}, keep=options.keep)


if __name__ == "__main__":
    main()
