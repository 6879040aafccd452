"""How soon something is seen: the plan of 100,000 rows, and the first proof of a fresh output.

    python benchmarks/plan_and_start.py [--rows 100000] [--rounds 3]

The start is measured from the command to the first image in the output folder, on an embedded server whose database has
been built before, beside a bare Prefect flow that says hello, in turn.
"""

import argparse
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).parents[1]
HELLO = "from prefect import flow\n@flow\ndef hello():\n    print('hello')\nhello()\n"


def environment(folder: Path) -> dict[str, str]:
    """Nothing of the caller's Prefect; a home and a ledger in the folder."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ROWSHOT_"))}
    return mine | {
        "PREFECT_HOME": str(folder / "prefect"),
        "ROWSHOT_LEDGER": str(folder / "ledger.sqlite3"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }


def write_sheet(path: Path, rows: int) -> None:
    """Rows of eight columns, with words of a usual length."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "name", "color", "scene", "price", "category", "stock", "note"])
        for number in range(rows):
            scene = "창가의 나무 식탁 위, 김이 오르는 아침 커피"
            writer.writerow(
                [f"SKU-{number:06}", f"핸드드립 도자기 머그 {number}", "코랄 레드", scene, 24000, "주방", 12, "new"]
            )


def timed(command: list[str], folder: Path, *, first_image: bool = False) -> tuple[float, float]:
    """Seconds until it ended (or until its first image), and its peak memory in MB."""
    began = time.monotonic()
    with subprocess.Popen(command, env=environment(folder), cwd=folder, stdout=subprocess.DEVNULL) as child:
        seen = 0.0
        while first_image and not seen and child.poll() is None:
            time.sleep(0.01)
            seen = time.monotonic() - began if any((folder / "fresh" / "images").glob("*/*.png")) else 0.0
        child.wait()
    if child.returncode:
        raise SystemExit(f"{command} ended with {child.returncode}")
    return seen or time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rowshot = [sys.executable, "-P", "-m", "flows"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sheet(folder / "large.csv", options.rows)
        plans = [timed([*rowshot, "plan", "large.csv"], folder) for _ in range(options.rounds)]
        hello = folder / "hello.py"
        hello.write_text(HELLO)
        timed([sys.executable, str(hello)], folder)  # builds the embedded server's database
        starts = []
        for number in range(options.rounds):
            bare, _ = timed([sys.executable, str(hello)], folder)
            write_sheet(folder / "small.csv", 8)
            run = [*rowshot, "run", "small.csv", "--output", "fresh", "--ledger", str(folder / f"{number}.sqlite3")]
            first, _ = timed(run, folder, first_image=True)
            (folder / "fresh").rename(folder / f"output-{number}")
            starts.append((bare, first))
            print(f"hello {bare:.1f} s, first proof {first:.1f} s", flush=True)
    figures = {
        "plan_rows": options.rows,
        "plan_s": statistics.median(seconds for seconds, _ in plans),
        "plan_mb": max(mb for _, mb in plans),
        "hello_s": statistics.median(bare for bare, _ in starts),
        "first_proof_s": statistics.median(first for _, first in starts),
        "more_than_hello_s": statistics.median(first - bare for bare, first in starts),
    }
    print(f"{platform.machine()}, {os.cpu_count()} cores; medians of {options.rounds}")
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
