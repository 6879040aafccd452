"""A run with the real CLI on a bad day: every fault has its own end, its own calls and its own charges."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import anycap_faults as faults
import pytest
from anycap_server import AnyCapServer
from cli import anycap_executable
from command import by_sku, rowshot, rowshot_here, table, write_csv
from PIL import Image
from prefect.settings import PREFECT_API_URL, temporary_settings
from recorded import Recorded

from blocks import AnyCap

FLOW_RUN = "generate-images / faults.csv"
TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Row:
    """What one row meets, and what must come of it: in a first run, in a second with the same command, in a third that
    allows refused, unknown and lost rows to be bought again. Calls and charges are the server's counts up to then.
    """

    fault: list[faults.Fault]
    status: str
    calls: int
    charges: int
    kind: str = ""
    second: tuple[str, int, int] | None = None
    third: tuple[str, int, int] | None = None

    def after(self, run: int) -> tuple[str, int, int]:
        """Status, calls and charges after the run of this number, counted from 0."""
        first = (self.status, self.calls, self.charges)
        second = self.second or first
        return (first, second, self.third or second)[run]


ROWS = {
    "fine": Row([], "stored", 1, 1),
    "busy": Row([faults.rate_limited(1)], "stored", 2, 1),
    "down": Row([faults.unavailable()], "stored", 2, 1),
    "down-thrice": Row([faults.unavailable()] * 3, "failed", 3, 0, "ServiceUnavailable", second=("stored", 4, 1)),
    "refused": Row([faults.rejected()], "rejected", 1, 0, "ContentRejected", third=("stored", 2, 1)),
    "html": Row([faults.not_json()], "unknown", 1, 0, "NoImage", third=("stored", 2, 1)),
    "broke": Row([faults.internal_error()], "unknown", 1, 0, "OutcomeUnknown", third=("stored", 2, 1)),
    "nothing-free": Row([faults.no_outputs_free()], "stored", 2, 1),
    "nothing-paid": Row([faults.no_outputs()], "stored", 2, 2),
    "nothing-twice": Row([faults.no_outputs()] * 2, "lost", 2, 2, "NoImage", third=("stored", 3, 3)),
    "cut-once": Row([faults.truncated(1)], "stored", 1, 1),
    "cut-always": Row([faults.truncated()], "stored", 2, 2),
    "cut-twice": Row([faults.truncated()] * 2, "lost", 2, 2, "SpoiltImage", third=("stored", 3, 3)),
    "jpeg": Row([faults.jpeg_under_png()], "stored", 1, 1),
    "gone": Row([faults.image_gone()], "unknown", 1, 1, "OutcomeUnknown", third=("stored", 2, 2)),
    "hangs": Row([faults.hang(60)], "unknown", 1, 1, "OutcomeUnknown", third=("stored", 2, 2)),
}


@dataclass(frozen=True)
class Run:
    """One of the three runs: what the command said, what the manifest holds, what the server had counted by then."""

    said: CompletedProcess[str]
    manifest: dict[str, dict[str, str]]
    counts: dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Story:
    """Three runs of one CSV."""

    folder: Path
    runs: list[Run]


@pytest.fixture(scope="module")
def story(prefect_server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The runs, made once: the generator is a block with a short time-out, on the Prefect server."""
    folder = tmp_path_factory.mktemp("faults")
    write_csv(folder / "faults.csv", {sku: f"#{sku}#" for sku in ROWS})
    command = ["run", "faults.csv", "--generator", "anycap/faulty", "--concurrency", "8", "--output", "out"]
    with AnyCapServer(faults={f"#{sku}#": row.fault for sku, row in ROWS.items()}) as server:
        block = AnyCap(
            api_key=server.key, executable=str(anycap_executable()), endpoint=server.url, timeout_s=TIMEOUT_S
        )
        with temporary_settings({PREFECT_API_URL: prefect_server_url}):
            block.save("faulty", overwrite=True)
            runs = []
            for call, more in (
                (rowshot, []),
                (rowshot_here, []),
                (rowshot_here, ["--retry-rejected", "--retry-unknown", "--rebuy-lost"]),
            ):
                said = call(folder, *command, *more, PREFECT_API_URL=prefect_server_url)
                runs.append(Run(said, by_sku(folder / "out/manifest.csv"), counts(server)))
        yield Story(folder, runs)


def counts(server: AnyCapServer) -> dict[str, tuple[int, int, int]]:
    """Calls, charges and downloads by sku."""
    found = {}
    for sku in ROWS:
        prompt = next((prompt for prompt in server.calls if f"#{sku}#" in prompt), "")
        found[sku] = (server.calls[prompt], server.charges[prompt], server.downloads[prompt])
    return found


@pytest.mark.parametrize("run", [0, 1, 2])
@pytest.mark.parametrize("sku", ROWS)
def test_each_fault_has_its_end_its_calls_and_its_charges(story: Story, sku: str, run: int) -> None:
    """A row ends as its fault demands, and only what may be taken up is called again, counted by the provider."""
    now = story.runs[run]
    assert (now.manifest[sku]["status"], *now.counts[sku][:2]) == ROWS[sku].after(run)
    assert int(now.manifest[sku]["attempts"]) == ROWS[sku].after(run)[1]


def test_one_bad_row_is_one_bad_row(story: Story) -> None:
    """Some rows without an image are exit code 1, and once each has its image it is 0."""
    assert [run.said.returncode for run in story.runs] == [1, 1, 0]
    assert (
        "8 of 16 rows have their image, 1 failed, 1 rejected, 4 unknown, 2 lost; 8 bought" in story.runs[0].said.stdout
    )
    assert "9 of 16 rows have their image, 1 rejected, 4 unknown, 2 lost; 1 bought" in story.runs[1].said.stdout
    assert "16 of 16 rows have their image; 7 bought" in story.runs[2].said.stdout


@pytest.mark.parametrize("sku", [sku for sku, row in ROWS.items() if row.kind])
def test_a_failure_says_what_it_is_and_what_to_do(story: Story, sku: str) -> None:
    """The manifest has each failure's kind and a text that names the mend, and nothing of either once it is mended."""
    row = story.runs[0].manifest[sku]
    assert row["error_kind"] == ROWS[sku].kind
    assert len(row["error"].split()) > 8
    assert (story.runs[2].manifest[sku]["error_kind"], story.runs[2].manifest[sku]["error"]) == ("", "")


def test_what_was_paid_for_twice_shows(story: Story) -> None:
    """An image whose first purchase brought nothing has both charges in its row."""
    manifest = story.runs[0].manifest
    once, twice = manifest["fine"], manifest["cut-always"]
    assert (once["credits_used"], once["price_usd"]) == ("1", "0.005")
    assert (twice["credits_used"], twice["price_usd"]) == ("2", "0.01")
    assert "paid for more than once" in (story.folder / "out/index.html").read_text(encoding="utf-8")


def test_broken_bytes_are_fetched_again_before_anything_is_paid(story: Story) -> None:
    """An image that was cut off on its way costs a second download and no second call."""
    assert story.runs[0].counts["cut-once"] == (1, 1, 2)


def test_bytes_decide_what_a_file_is_called(story: Story) -> None:
    """A JPEG under a .png address is kept as .jpg, and every delivered file decodes as what it is called."""
    for sku, row in story.runs[2].manifest.items():
        with Image.open(story.folder / "out" / row["path"]) as image:
            image.load()
            expected = ("JPEG", ".jpg") if sku == "jpeg" else ("PNG", ".png")
            assert (image.format, Path(row["path"]).suffix) == expected


def test_failed_rows_are_a_csv_of_their_own_while_there_are_some(story: Story) -> None:
    """The first run's failures.csv holds just the rows that failed with their reasons; the last run leaves none."""
    first = min((story.folder / "out/runs").iterdir())
    failed = table(first / "failures.csv")
    assert [row["sku"] for row in failed] == [sku for sku, row in ROWS.items() if row.kind]
    assert all(row["name"] == f"#{row['sku']}#" and row["rowshot_error"] for row in failed)
    assert not (story.folder / "out/failures.csv").exists()


def test_no_call_leaves_its_folder_behind_once_all_is_well(story: Story) -> None:
    """A folder of a call stays only where its content may still be worth something."""
    kept = [path for path in (story.folder / "out/.rowshot/calls").iterdir() if (path / "answer.json").exists()]
    paid_for_nothing = {"nothing-paid": 1, "nothing-twice": 2, "cut-always": 1, "cut-twice": 2}
    in_doubt = {"html": 1, "broke": 1, "gone": 1, "hangs": 1}
    assert len(kept) == sum({**paid_for_nothing, **in_doubt}.values())


@pytest.mark.usefixtures("story")
def test_the_server_knows_every_row(prefect_server_url: str) -> None:
    """Each row is a task run named by its sku, completed if it has its image and failed if not; the run's own state
    tells its sum.
    """
    recorded = Recorded(prefect_server_url)
    third, second, first = recorded.flow_runs(FLOW_RUN)
    states = {run.name: run.state_name for run in recorded.task_runs(first.id, len(ROWS))}
    assert states == {sku: "Failed" if row.kind else "Completed" for sku, row in ROWS.items()}
    assert first.state_name == "Completed"
    assert first.state is not None
    assert first.state.message == "8 of 16, 1 failed, 1 refused, 4 in doubt, 2 lost"
    assert third.state_name == second.state_name == "Completed"
    taken_up = {run.name for run in recorded.task_runs(second.id, 1)}
    assert "down-thrice" in taken_up
    assert not taken_up & {"fine", "refused", "hangs"}


@pytest.mark.usefixtures("story")
def test_people_find_the_run_in_artifacts(prefect_server_url: str) -> None:
    """Progress, the plan's costs, a summary and a table of failures are on the server, escaped."""
    recorded = Recorded(prefect_server_url)
    third, _, first = recorded.flow_runs(FLOW_RUN)
    found = recorded.artifacts(first.id)
    assert found["rowshot-progress"].data == 100.0
    assert "nano-banana-2" in str(found["rowshot-plan"].data)
    assert '"images": 16' in str(found["rowshot-plan"].data)
    assert "8 of 16 rows have their image" in str(found["rowshot-summary"].data)
    failures = str(found["rowshot-failures"].data)
    assert all((f'"{sku}"' in failures) == bool(row.kind) for sku, row in ROWS.items())
    assert "rowshot-failures" not in recorded.artifacts(third.id)
