"""What the page of a flow run shows: its name, its progress, its log, its last word and its artifacts."""

import base64
import re
from io import BytesIO
from pathlib import Path

import pytest
from anycap_faults import rejected
from anycap_server import AnyCapServer
from command import anycap_variables, until, write_csv
from deployed import Deployed
from PIL import Image
from recorded import Recorded

from flows.batch.row_report import RowReport, Status
from flows.batch.small_sheet import MOST_BYTES, small_pictures
from flows.tasks.progress_artifact import Pace, told

pytestmark = pytest.mark.usefixtures("prefect_server")
PICTURE = re.compile(r"!\[([^\]]*)\]\(data:image/webp;base64,([^)]+)\)")


@pytest.fixture
def deployed(tmp_path: Path, anycap_server: AnyCapServer) -> Deployed:
    """A deployment that draws against the provider."""
    return Deployed(tmp_path, anycap_variables(anycap_server, tmp_path))


@pytest.mark.parametrize("anycap_server", [{"faults": {"#no": [rejected()] * 6}}], indirect=True)
def test_a_run_tells_its_story(tmp_path: Path, deployed: Deployed, recorded: Recorded) -> None:
    """The run is called by its file's name, its state is a sentence, its log is no longer for failing rows, and its
    artifacts have the sums, the costs, the failures with their reasons, and a small contact sheet.
    """
    skus = [f"good-{number}" for number in range(6)]
    (tmp_path / "a folder").mkdir()
    names = dict.fromkeys(skus, "sock") | {f"bad-{number}": "sock #no" for number in range(6)}
    write_csv(tmp_path / "a folder/story.csv", names)
    run = deployed.start(csv="a folder/story.csv", generator="anycap")
    ended = deployed.work(run)
    assert (ended.name, ended.message) == ("Completed", "6 of 12, 6 refused")
    assert deployed.flow_run(run).name == "generate-images / story.csv"
    assert {one.name for one in recorded.task_runs(run, 12)} >= set(skus)

    until(lambda: any(line.startswith("Finished in state") for line in recorded.logs(run)))
    log = "\n".join(recorded.logs(run))
    assert "6 of 12 rows have their image, 6 rejected" in log
    assert len(recorded.logs(run)) < 12
    assert "Traceback" not in log
    assert not [sku for sku in skus if sku in log]

    shown = recorded.artifacts(run)
    assert shown["rowshot-progress"].data == 100.0
    assert str(shown["rowshot-progress"].description).startswith("12 of 12 rows, 6 of them failed, $0.03 spent")
    assert "| bought now | 6 |" in str(shown["rowshot-summary"].data)
    assert '"images": 6' in str(shown["rowshot-costs"].data)
    failures = str(shown["rowshot-failures"].data)
    assert (failures.count("bad-"), failures.count("prompt rejected by the model")) == (6, 6)
    sheet = str(shown["rowshot-contact-sheet"].data)
    assert str(tmp_path / "output/index.html") in sheet
    pictures = dict(PICTURE.findall(sheet))
    assert sorted(pictures) == sorted(skus)
    assert all(max(Image.open(BytesIO(base64.b64decode(data))).size) <= 128 for data in pictures.values())


def test_a_stopped_run_does_not_count_rows_that_were_never_begun(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer, recorded: Recorded
) -> None:
    """Where the credit runs out, progress stops at the rows that have ended."""
    write_csv(tmp_path / "early.csv", [f"s{number}" for number in range(10)])
    anycap_server.credit = 3
    run = deployed.start(csv="early.csv", generator="anycap", concurrency=1)
    ended = deployed.work(run)
    assert ended.name == "EndedEarly"
    assert str(ended.message).startswith("3 of 10, 7 pending. ")
    shown = recorded.artifacts(run)["rowshot-progress"]
    assert str(shown.description).startswith(("3 of 10 rows", "4 of 10 rows, 1 of them failed"))


def test_progress_in_words() -> None:
    """Rows, failures, money, pace and time left; what isn't known is left out."""
    assert told(312, 2, 500, "$4.68 spent", 64.2) == (
        "312 of 500 rows, 2 of them failed, $4.68 spent, 64 rows a minute, about 3 min left"
    )
    assert told(0, 0, 12_000, "", 0) == "0 of 12,000 rows"
    assert told(500, 0, 500, "nothing spent", 640) == "500 of 500 rows, nothing spent, 640 rows a minute"
    pace = Pace()
    for minute in range(10):
        pace.look(60.0 * minute, 10 * minute**2)
    assert pace.per_minute == (810 - 490) / 2


def test_a_small_sheet_stays_small(tmp_path: Path) -> None:
    """However large the images are and however many, their copies fit into one artifact; a spoilt file is left out."""
    Image.effect_noise((1200, 1600), 120).convert("RGB").save(tmp_path / "noise.png")
    (tmp_path / "spoilt.png").write_bytes(b"no image")
    rows = [RowReport(2, "spoilt", "product", Status.STORED, path="spoilt.png")]
    rows += [RowReport(line, f"s{line}", "product", Status.STORED, path="noise.png") for line in range(3, 103)]
    rows.append(RowReport(103, "late", "product", Status.PENDING))
    pictures = list(small_pictures(rows, tmp_path))
    assert 30 < len(pictures) <= 48
    assert pictures[0].sku == "s3"
    assert sum(len(picture.address) for picture in pictures) <= MOST_BYTES
