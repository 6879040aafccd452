"""A run of over 100 rows: what it says while it goes on, what the server has of it, and rows that change in bulk."""

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

from anycap_server import AnyCapServer
from command import ROWSHOT, anycap_variables, by_sku, environment, rowshot_here, start_rowshot, until, write_csv
from recorded import Recorded

ROWS = 104
RUN = ("run", "many.csv", "--generator", "anycap", "--concurrency", "8")
PROGRESS = re.compile(rf"^\d+ of {ROWS} rows, \d+ images/min, spent", re.MULTILINE)


def test_a_run_of_many_rows_is_seen_and_recorded_and_not_bought_anew_by_a_slip(
    tmp_path: Path, recorded: Recorded, anycap_server: AnyCapServer
) -> None:
    """While it goes on, status and plain lines tell how far it is; each row is a task run on the server. When over 100
    rows have changed, nothing is bought unless somebody says yes.
    """
    write_csv(tmp_path / "many.csv", [f"m{number}" for number in range(ROWS)])
    variables = anycap_variables(anycap_server, tmp_path)
    anycap_server.delay_s = 5.0
    begun = time.monotonic()
    run = start_rowshot(tmp_path, *RUN, **variables)
    until(lambda: anycap_server.max_in_flight >= 8)
    anycap_server.delay_s = 1.0
    until(lambda: anycap_server.counts()["calls"] > 20)
    under_way = rowshot_here(tmp_path, "status")
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert time.monotonic() - begun > ROWS / 8  # so many rounds of a second, or more than 8 were in the making
    assert anycap_server.max_in_flight == 8

    assert "under way" in under_way.stdout
    (pending,) = re.findall(r"(\d+)  pending", under_way.stdout)
    assert 0 < int(pending) < ROWS - 10
    assert PROGRESS.search(said), said
    assert "\x1b" not in said
    assert f"{ROWS} of {ROWS} rows have their image; {ROWS} bought" in said
    assert "ended" in rowshot_here(tmp_path, "status").stdout

    (flow_run,) = recorded.flow_runs("generate-images / many.csv")
    task_runs = recorded.task_runs(flow_run.id, ROWS)
    assert sorted(run.name for run in task_runs) == sorted(f"m{number}" for number in range(ROWS))
    assert {run.state_name for run in task_runs} == {"Completed"}

    write_csv(tmp_path / "many.csv", {f"m{number}": f"changed {number}" for number in range(ROWS)})
    refused = rowshot_here(tmp_path, *RUN, **variables)
    assert refused.returncode == 2
    assert f"{ROWS} rows that had an image have changed" in refused.stderr
    assert "--yes" in refused.stderr
    code, told = _on_a_terminal(tmp_path, [*RUN], b"n\n", variables)
    assert code == 2, told
    assert "Buy them anew? [y/N]" in told
    assert anycap_server.counts()["charges"] == ROWS

    anycap_server.delay_s = 0.0
    confirmed = rowshot_here(tmp_path, *RUN, "--yes", **variables)
    assert confirmed.returncode == 0, confirmed
    assert anycap_server.counts()["charges"] == 2 * ROWS
    assert {row["status"] for row in by_sku(tmp_path / "output/manifest.csv").values()} == {"stored"}


def _on_a_terminal(folder: Path, arguments: list[str], typed: bytes, variables: dict[str, str]) -> tuple[int, str]:
    """Exit code and all that is shown, when the command runs on a terminal where somebody types ahead."""
    ours, theirs = pty.openpty()
    os.write(ours, typed)
    child = subprocess.Popen(
        [ROWSHOT, *arguments],
        cwd=folder,
        env=environment(folder, **variables),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while child.poll() is None or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the terminal's other end is closed
                break
    child.wait(timeout=180)
    os.close(ours)
    return child.returncode, shown.decode(errors="replace")
