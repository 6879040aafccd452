"""What a run stands on goes away under it: the program, the disk, the ledger. It says so and loses nothing bought."""

import resource
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, rowshot_here, start_rowshot, until, write_csv

SKUS = [f"s{number}" for number in range(24)]
RUN = ("run", "trouble.csv", "--generator", "anycap", "--concurrency", "4")
PATIENCE_S = 180.0

pytestmark = pytest.mark.usefixtures("prefect_server")


class Place:
    """A run of 24 rows, 4 at a time, each taking a second."""

    def __init__(self, folder: Path, server: AnyCapServer) -> None:
        self.folder = folder
        self.server = server
        self.variables = anycap_variables(server, folder)
        server.delay_s = 1.0
        write_csv(folder / "trouble.csv", SKUS)

    def start(self, *, calls: int, **variables: str) -> subprocess.Popen[str]:
        """Start a run, and wait until its provider has got so many calls."""
        self.variables |= variables
        run = start_rowshot(self.folder, *RUN, **self.variables)
        until(lambda: self.server.counts()["calls"] >= calls)
        return run

    def ends_early(self, run: subprocess.Popen[str], *told: str) -> None:
        """The run ends in order, says why and what to do, and leaves its rows for later."""
        said, _ = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 3, said
        assert "Traceback" not in said, said
        assert all(text in said for text in told), said
        assert self.server.counts()["calls"] < len(SKUS)

    def goes_on(self, **variables: str) -> None:
        """The same command has every row's image in the end, and none was bought twice."""
        self.server.delay_s = 0.0
        again = rowshot_here(self.folder, *RUN, **{**self.variables, **variables})
        assert again.returncode == 0, again
        assert len(self.server.calls) == len(SKUS)
        assert set(self.server.calls.values()) == {1}
        rows = by_sku(self.folder / "output/manifest.csv")
        assert {row["status"] for row in rows.values()} == {"stored"}
        assert list((self.folder / "output/.rowshot/calls").iterdir()) == []


@pytest.fixture
def place(tmp_path: Path, anycap_server: AnyCapServer) -> Place:
    """A run to be troubled."""
    return Place(tmp_path, anycap_server)


def test_an_output_that_can_not_be_written_stops_before_anything_is_bought(place: Place) -> None:
    """A file where the folder should be, or above it, is told with the mend; exit 2."""
    (place.folder / "file").write_text("mine")
    for output in ("file", "file/output"):
        refused = rowshot_here(place.folder, *RUN, "--output", output, **place.variables)
        assert refused.returncode == 2, refused
        assert "can't be written" in refused.stderr
        assert "--output" in refused.stderr
    assert place.server.counts()["calls"] == 0
    assert (place.folder / "file").read_text() == "mine"


def test_a_program_that_vanishes_half_way_ends_the_run(place: Place) -> None:
    """Calls in flight are kept, the others stay pending, and what is missing is named."""
    program = place.folder / "bin" / "anycap"
    program.parent.mkdir()
    shutil.copy(place.variables["ROWSHOT_ANYCAP"], program)
    run = place.start(calls=8, ROWSHOT_ANYCAP=str(program))
    program.rename(program.with_name("gone"))
    place.ends_early(run, "npm install", "Ended early")
    rows = by_sku(place.folder / "output/manifest.csv").values()
    assert {row["status"] for row in rows} == {"stored", "pending"}
    program.with_name("gone").rename(program)
    place.goes_on()


def test_an_image_that_can_not_be_kept_is_kept_for_the_next_run(place: Place) -> None:
    """A paid image that the output can't take stays in its call's folder, and the next run takes it from there."""
    place.server.delay_s = 8.0
    run = place.start(calls=4)
    images = place.folder / "output" / "images"
    images.write_text("in the way")
    place.ends_early(run, "is paid for and can't be kept", "run the same command again")
    in_doubt = place.server.counts()["calls"]
    assert f"{in_doubt}  unknown" in rowshot_here(place.folder, "status").stdout
    images.unlink()
    place.goes_on()


def test_a_full_disk_ends_the_run_and_loses_nothing(place: Place) -> None:
    """No file can grow any more, the ledger's neither: the run says so, and once there is room the next one goes on."""
    run = place.start(calls=4)
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    place.ends_early(run, "What was bought is kept")
    place.goes_on()


def test_a_ledger_that_stays_locked_ends_the_run_and_loses_nothing(place: Place) -> None:
    """Nothing is bought that could not be written down; what was in flight is adopted by the next run."""
    ledger = place.folder / "ledger.sqlite3"
    run = place.start(calls=8, ROWSHOT_LEDGER=f"sqlite:///{ledger}?timeout=1")
    with closing(sqlite3.connect(ledger, isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        place.ends_early(run, "database is locked", "run the command again")
        locked = rowshot_here(place.folder, *RUN, **place.variables)
        assert locked.returncode == 2
        assert "locked" in locked.stderr
    place.goes_on()
