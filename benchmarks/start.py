"""The start taken apart: what a run without a server of one's own waits for, with Prefect's embedded server and ours.

    python benchmarks/start.py [--rounds 3] [--keep]

Prefect's own (a flow that says hello, with no PREFECT_API_URL) is taken apart by its parts, each in a process of its
own; ours (flows/tasks/embedded_server.py) is measured from the command to the server's first answer and to the first
image on disk. "First" has an empty PREFECT_HOME, so its database is built too; "later" has one. In turn; medians.
"""

import argparse
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from parts import REPO, clean, machine, run_to_end, told, write_sheet

HELLO = "from prefect import flow\n@flow\ndef hello():\n    print('hello')\nhello()\n"
SERVER = """
import time
began = time.monotonic()
from flows.tasks.embedded_server import embedded_server
with embedded_server() as server:
    server.wait()
    print(time.monotonic() - began)
"""
FLOW_ALONE = """
import time
from flows.tasks.embedded_server import embedded_server
with embedded_server() as server:
    server.wait()
    from prefect import flow
    from prefect.settings import PREFECT_API_URL, temporary_settings
    @flow
    def hello():
        pass
    with temporary_settings({PREFECT_API_URL: server.url}):
        began = time.monotonic()
        hello()
        print(time.monotonic() - began)
"""

FIRST_IMAGE = """
import subprocess, sys, time
from pathlib import Path
sheet, output, ledger = sys.argv[1:]
began = time.monotonic()
command = [sys.executable, "-P", "-m", "flows", "run", sheet, "--output", output, "--ledger", ledger]
with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
    seen = 0.0
    while not seen and child.poll() is None:
        time.sleep(0.01)
        seen = time.monotonic() - began if any(Path(output, "images").glob("*/*.png")) else 0.0
    child.wait()
if child.returncode or not seen:
    raise SystemExit(f"rowshot ended with {child.returncode}")
print(seen)
"""


def seconds(folder: Path, *code: str) -> float:
    """How long Python takes for this code, started and ended; the number that the code prints, where it prints one."""
    environment = clean(
        PREFECT_HOME=str(folder / "prefect"),
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",  # 20 by default, which a busy machine does not keep
        PYTHONPATH=str(REPO),
    )
    done = run_to_end([sys.executable, "-P", *code], environment, folder)
    if done.code:
        raise SystemExit(done.told)
    told_s = re.findall(r"^\d+\.\d+$", done.told, re.MULTILINE)  # the log's lines may come after it
    return float(told_s[-1]) if told_s else done.wall_s


def first_image(folder: Path, number: int) -> float:
    """From the command to the first proof in the output folder."""
    output = folder / f"out-{number}"
    script = folder / "first.py"
    script.write_text(FIRST_IMAGE)
    write_sheet(folder / "few.csv", [f"sku-{number}-{row}" for row in range(8)])
    return seconds(folder, str(script), str(folder / "few.csv"), str(output), str(folder / f"{number}.sqlite3"))


def one_round(root: Path, number: int) -> dict[str, float]:
    """Each part once, first with an empty home and then with the one that this has left."""
    found: dict[str, float] = {}
    home = root / "prefect"
    hello = root / "hello.py"
    hello.write_text(HELLO)
    found["import_prefect_s"] = seconds(root, "-c", "import prefect")
    found["import_prefect_server_s"] = seconds(root, "-c", "import prefect.server.api.server")
    for when in ("first", "later"):
        if when == "first":
            shutil.rmtree(home, ignore_errors=True)
        found[f"prefects_own_{when}_s"] = seconds(root, str(hello))
    for when in ("first", "later"):
        if when == "first":
            shutil.rmtree(home, ignore_errors=True)
        found[f"our_server_{when}_s"] = seconds(root, "-c", SERVER)
    found["flow_on_a_server_s"] = seconds(root, "-c", FLOW_ALONE)
    for when in ("first", "later"):
        if when == "first":
            shutil.rmtree(home, ignore_errors=True)
        found[f"our_image_{when}_s"] = first_image(root, 2 * number + (when == "later"))
    found["database_built_s"] = found["our_server_first_s"] - found["our_server_later_s"]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="write results/start.json")
    options = parser.parse_args()
    where = machine()
    found: defaultdict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        for number in range(options.rounds):
            began = time.monotonic()
            for part, took in one_round(Path(name), number).items():
                found[part].append(took)
            print(f"round {number + 1} of {options.rounds}: {time.monotonic() - began:.0f} s", flush=True)
    figures = {part: round(statistics.median(took), 2) for part, took in found.items()}
    told("start", where, {"rounds": options.rounds, **figures}, keep=options.keep)


if __name__ == "__main__":
    main()
