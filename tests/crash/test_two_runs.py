"""Several runs of one CSV at the same moment: each image is bought once, and every run has all of them."""

import subprocess
from pathlib import Path

import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, start_rowshot, until, write_csv

SKUS = [f"s{number}" for number in range(60)]
RUN = ("run", "both.csv", "--generator", "anycap", "--concurrency", "8")
PATIENCE_S = 240.0

pytestmark = pytest.mark.usefixtures("prefect_server")


def ends_well(run: subprocess.Popen[str]) -> None:
    """Every row has its image, as this run says."""
    said, _ = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, said
    assert f"{len(SKUS)} of {len(SKUS)} rows have their image" in said


def is_whole(report: Path, output: Path) -> None:
    """A manifest tells every row as stored, and the files are there."""
    rows = by_sku(report)
    assert sorted(rows) == sorted(SKUS)
    assert {row["status"] for row in rows.values()} == {"stored"}
    assert all((output / row["path"]).is_file() for row in rows.values())


def test_runs_of_one_file_at_the_same_moment_buy_each_image_once(tmp_path: Path, anycap_server: AnyCapServer) -> None:
    """Two runs into one output and one into another wait for each other's rows; all end well, and each run's report and
    each output's is whole.
    """
    write_csv(tmp_path / "both.csv", SKUS)
    variables = anycap_variables(anycap_server, tmp_path)
    anycap_server.delay_s = 0.5
    outputs = [tmp_path / "one", tmp_path / "one", tmp_path / "other"]
    for run in [start_rowshot(tmp_path, *RUN, "--output", str(output), **variables) for output in outputs]:
        ends_well(run)
    assert len(anycap_server.calls) == len(SKUS)
    assert set(anycap_server.calls.values()) == {1}
    for output, runs in ((tmp_path / "one", 2), (tmp_path / "other", 1)):
        is_whole(output / "manifest.csv", output)
        reports = list((output / "runs").iterdir())
        assert len(reports) == runs
        for report in reports:
            is_whole(report / "manifest.csv", output)
        assert list((output / ".rowshot/calls").iterdir()) == []


def test_a_run_takes_over_the_rows_of_one_that_died_beside_it(tmp_path: Path, anycap_server: AnyCapServer) -> None:
    """Of two runs one is killed in its calls; the other waits for them, adopts their images, and buys none anew."""
    write_csv(tmp_path / "both.csv", SKUS)
    variables = anycap_variables(anycap_server, tmp_path)
    anycap_server.delay_s = 1.5
    dies = start_rowshot(tmp_path, *RUN, **variables)
    until(lambda: anycap_server.counts()["calls"] >= 8)
    lives = start_rowshot(tmp_path, *RUN, **variables)
    until(lambda: anycap_server.counts()["calls"] >= 24)
    dies.kill()
    dies.communicate()
    ends_well(lives)
    assert len(anycap_server.calls) == len(SKUS)
    assert set(anycap_server.calls.values()) == {1}
    is_whole(tmp_path / "output/manifest.csv", tmp_path / "output")
