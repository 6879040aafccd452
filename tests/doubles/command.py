"""The real rowshot command as a child process, and what it leaves behind for a test to look at."""

import contextlib
import csv
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from anycap_server import AnyCapServer
from cli import anycap_executable

from flows.__main__ import main

ROWSHOT = Path(sys.executable).with_name("rowshot")
HEADER = "sku,name,color"


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """A child's environment: this process's own, with a ledger in `folder`, and `variables` on top."""
    return {**os.environ, "ROWSHOT_LEDGER": str(folder / "ledger.sqlite3"), "COLUMNS": "200", **variables}


def anycap_variables(server: AnyCapServer, folder: Path) -> dict[str, str]:
    """What the `anycap` generator needs to draw against `server` with the real CLI and no login of whoever tests."""
    return {
        "ROWSHOT_ANYCAP": str(anycap_executable()),
        "ANYCAP_API_KEY": server.key,
        "ANYCAP_API_ENDPOINT": server.url,
        "ANYCAP_CONFIG_DIR": str(folder / "anycap"),
        "ANYCAP_NO_KEYRING": "1",
    }


def rowshot(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`, without a terminal, to its end."""
    return subprocess.run(
        [ROWSHOT, *arguments],
        cwd=folder,
        env=environment(folder, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def rowshot_here(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`, in this process: the same code, without the seconds that loading it takes."""
    before = dict(os.environ)
    os.environ.update(environment(folder, **variables))
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(arguments)
            except SystemExit as left:  # how argparse ends
                code = int(left.code or 0)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


def start_rowshot(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start the command in `folder`, without a terminal; what it says on stderr comes with what it prints."""
    return subprocess.Popen(
        [ROWSHOT, *arguments],
        cwd=folder,
        env=environment(folder, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(reached: Callable[[], bool], patience_s: float = 300) -> None:
    """Wait until it is so; raises AssertionError where it doesn't come to that."""
    deadline = time.monotonic() + patience_s
    while not reached():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def write_csv(path: Path, rows: Mapping[str, str] | Iterable[str]) -> Path:
    """A CSV of rows for the default template: sku to the product's name, or skus alone."""
    names = rows if isinstance(rows, Mapping) else {sku: f"product {sku}" for sku in rows}
    lines = [HEADER, *(f"{sku},{name},red" for sku, name in names.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV that a run has left."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def by_sku(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a CSV that a run has left, by their sku."""
    return {row["sku"]: row for row in table(path)}
