"""The command, as scripts hold on to it: exit codes, what is bought, what is said; on a Prefect server that is up."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from anycap_server import AnyCapServer
from command import (
    ROWSHOT,
    anycap_variables,
    by_sku,
    environment,
    rowshot,
    rowshot_here,
    start_rowshot,
    table,
    until,
    write_csv,
)
from recorded import Recorded

pytestmark = pytest.mark.usefixtures("prefect_server")
NAMES = {"a": "양말", "b": "모자", "c": "장갑", "d": "목도리"}


def test_a_csv_from_its_first_run_to_its_last(tmp_path: Path, prefect_server: str, recorded: Recorded) -> None:
    """What is bought is never bought again: in parts by --limit, again unchanged, then with a changed and a new row."""
    write_csv(tmp_path / "shop.csv", NAMES)

    part = rowshot(tmp_path, "run", "shop.csv", "--limit", "3")
    assert part.returncode == 0, part
    assert f"Prefect server: {prefect_server}" in part.stderr
    assert "3 of 4 rows have their image, 1 pending; 3 bought" in part.stdout
    assert [row["status"] for row in table(tmp_path / "output/manifest.csv")] == ["stored"] * 3 + ["pending"]
    assert len(recorded.task_runs(_newest("shop.csv", prefect_server), 3)) == 3

    rest = rowshot_here(tmp_path, "run", "shop.csv")
    assert rest.returncode == 0, rest
    assert "4 of 4 rows have their image; 1 bought" in rest.stdout

    first = by_sku(tmp_path / "output/manifest.csv")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "output/images").rglob("*.*")}
    assert len(files) == 4
    unchanged = rowshot_here(tmp_path, "run", "shop.csv")
    assert unchanged.returncode == 0
    assert "Nothing to buy" in unchanged.stdout
    assert "4 of 4 rows have their image; nothing was bought" in unchanged.stdout
    assert by_sku(tmp_path / "output/manifest.csv") == first
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert recorded.artifacts(_newest("shop.csv", prefect_server))["rowshot-progress"].data == 100

    write_csv(tmp_path / "shop.csv", {**NAMES, "b": "비니", "e": "부츠"})
    planned = rowshot_here(tmp_path, "plan", "shop.csv")
    assert planned.returncode == 0
    assert [line.split()[:2] for line in planned.stdout.splitlines()[1:4]] == [
        ["1", "new"],
        ["1", "changed,"],
        ["3", "bought"],
    ]
    changed = rowshot_here(tmp_path, "run", "shop.csv")
    assert changed.returncode == 0
    assert "5 of 5 rows have their image; 2 bought" in changed.stdout
    now = by_sku(tmp_path / "output/manifest.csv")
    assert {sku for sku in first if now[sku]["path"] != first[sku]["path"]} == {"b"}
    assert (tmp_path / "output" / first["b"]["path"]).exists()
    assert {row["attempts"] for row in now.values()} == {"1"}
    assert now["b"]["prompt"].startswith("이커머스 사진: 비니")


def test_an_image_made_again_on_purpose(tmp_path: Path) -> None:
    """A redo is a new image beside the old one; reports and later runs show the new one, and it is bought once."""
    write_csv(tmp_path / "redo.csv", NAMES)
    assert rowshot_here(tmp_path, "run", "redo.csv").returncode == 0
    before = by_sku(tmp_path / "output/manifest.csv")
    redone = rowshot(tmp_path, "redo", "--sku", "a,c", "--add", "softer light")
    assert redone.returncode == 0, redone
    assert "2 of 2 rows have their image; 2 bought" in redone.stdout
    after = by_sku(tmp_path / "output/manifest.csv")
    assert {sku for sku in NAMES if after[sku]["path"] != before[sku]["path"]} == {"a", "c"}
    assert all((tmp_path / "output" / row["path"]).is_file() for row in [*before.values(), *after.values()])
    assert after["a"]["prompt"] == f"{before['a']['prompt']}, softer light"
    assert by_sku(tmp_path / "output/results.csv")["a"]["image_path"] == after["a"]["path"]

    unchanged = rowshot_here(tmp_path, "run", "redo.csv")
    assert (unchanged.returncode, "nothing was bought" in unchanged.stdout) == (0, True)
    assert by_sku(tmp_path / "output/manifest.csv") == after

    unknown = rowshot_here(tmp_path, "redo", "--sku", "a,zz")
    assert unknown.returncode == 2
    assert "'zz'" in unknown.stderr
    assert "manifest.csv" in unknown.stderr


def test_a_bad_csv_starts_nothing_and_names_every_problem(tmp_path: Path, recorded: Recorded) -> None:
    """All problems are told at once with line, column and mend, nothing is written, and no flow run begins; with
    --skip-invalid the good rows go on.
    """
    (tmp_path / "bad.csv").write_text(
        'sku,name,color,template\na,"socks\nof wool",red,\nb,,red,\nc,cap,blue,nosuch\n'
        ",scarf,red,\nd,boots,red,\nd,shoes,red,\n",
        encoding="utf-8",
    )
    bad = rowshot(tmp_path, "run", "bad.csv")
    assert bad.returncode == 2
    assert bad.stdout == ""
    for where, mend in (
        ("line 4, column 'name'", "Fill it in"),
        ("line 5, column 'template'", "product_hero"),
        ("line 6, column 'sku'", "Give the row a name"),
        ("line 8, column 'sku'", "Give one of them another"),
    ):
        (told,) = [line for line in bad.stderr.splitlines() if where in line]
        assert mend in told
    assert "nothing was bought" in bad.stderr
    assert not (tmp_path / "output").exists()
    assert recorded.flow_runs("generate-images / bad.csv") == []

    skipped = rowshot_here(tmp_path, "run", "bad.csv", "--skip-invalid")
    assert skipped.returncode == 1, skipped
    rows = table(tmp_path / "output/manifest.csv")
    assert [(row["line"], row["sku"], row["status"]) for row in rows if row["status"] != "invalid"] == [
        ("2", "a", "stored"),
        ("7", "d", "stored"),
    ]
    failed = table(tmp_path / "output/failures.csv")
    assert [row["sku"] for row in failed] == ["b", "c", "", "d"]
    assert failed[0]["template"] == ""
    assert "Fill it in" in failed[0]["rowshot_error"]

    (tmp_path / "mended.csv").write_text(
        (tmp_path / "output/failures.csv").read_text(encoding="utf-8-sig").splitlines()[0] + "\nb,cap,red,,was empty\n",
        encoding="utf-8",
    )
    mended = rowshot_here(tmp_path, "plan", "mended.csv")
    assert (mended.returncode, mended.stdout.splitlines()[0]) == (0, "mended.csv: 1 row, 1 image")


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (["run", "shop.csv", "--nonsense"], "--nonsense"),
        (["run", "nowhere.csv"], "Check the name"),
        (["run", "shop.csv", "--generator", "nonsense"], "proof, anycap"),
        (["run", "shop.csv", "--generator", "anycap/nobody"], "type-slug/name"),
        (["run", "shop.csv", "--output", "/proc/nowhere"], "--output"),
        (["run", "shop.csv", "--ledger", "nonsense://x"], "sqlite:///"),
        (["plan", "shop.csv", "--concurrency", "0"], "--concurrency"),
        (["plan", "shop.csv", "--map", "name"], "VARIABLE=COLUMN"),
        (["plan", "shop.csv", "--template", "nosuch"], "product_hero"),
        (["plan", "shop.csv", "--model", "nano-bananas"], "nano-banana-2"),
        (["redo", "--sku", ","], "--sku"),
        (["redo", "--sku", "a", "--concurrency", "999"], "--concurrency"),
    ],
)
def test_what_cannot_start_is_exit_code_2(tmp_path: Path, arguments: list[str], mend: str) -> None:
    """A wrong option or a missing part is told with its mend, without a traceback and without an output folder."""
    write_csv(tmp_path / "shop.csv", NAMES)
    told = rowshot_here(tmp_path, *arguments)
    assert told.returncode == 2, told
    assert mend in told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "output").exists()


def test_another_output_gets_its_images_for_nothing(tmp_path: Path) -> None:
    """What one output has is copied into another, and an image whose file is gone there is copied back."""
    write_csv(tmp_path / "shop.csv", NAMES)
    assert rowshot_here(tmp_path, "run", "shop.csv").returncode == 0
    second = rowshot_here(tmp_path, "run", "shop.csv", "--output", "other")
    assert second.returncode == 0
    assert "4 of 4 rows have their image; nothing was bought" in second.stdout
    images = {
        path.relative_to(tmp_path / "other"): path.read_bytes() for path in (tmp_path / "other/images").rglob("*.*")
    }
    assert len(images) == 4
    assert all((tmp_path / "output" / path).read_bytes() == image for path, image in images.items())

    for path in images:
        (tmp_path / "output" / path).unlink()
    again = rowshot_here(tmp_path, "run", "shop.csv")
    assert "4 of 4 rows have their image; nothing was bought" in again.stdout
    assert all((tmp_path / "output" / path).read_bytes() == image for path, image in images.items())


def test_two_runs_of_one_csv_at_once_share_the_work(tmp_path: Path, anycap_server: AnyCapServer) -> None:
    """A second run of the same file while the first goes on buys nothing twice, and both end with every image."""
    write_csv(tmp_path / "twice.csv", [f"t{number}" for number in range(12)])
    anycap_server.delay_s = 2.0
    command = ("run", "twice.csv", "--generator", "anycap", "--concurrency", "2")
    variables = anycap_variables(anycap_server, tmp_path)
    first = start_rowshot(tmp_path, *command, **variables)
    until(lambda: anycap_server.counts()["calls"] > 0)
    second = rowshot_here(tmp_path, *command, **variables)
    said, _ = first.communicate(timeout=300)
    for code, text in ((first.returncode, said), (second.returncode, second.stdout)):
        assert code == 0, text
        assert "12 of 12 rows have their image" in text
    assert anycap_server.charges.total() == anycap_server.calls.total() == 12
    assert anycap_server.max_in_flight > 2  # they did overlap
    assert {row["attempts"] for row in table(tmp_path / "output/manifest.csv")} == {"1"}


def test_a_reader_that_goes_away_is_no_success(tmp_path: Path) -> None:
    """With nobody left to read its plan a run buys nothing, and does not claim that every row has its image."""
    write_csv(tmp_path / "shop.csv", NAMES)
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [ROWSHOT, "run", "shop.csv"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(theirs)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "output").exists()


def test_an_address_without_its_api_is_told(tmp_path: Path, prefect_server_url: str) -> None:
    """A web server that is no Prefect API is not taken for one."""
    write_csv(tmp_path / "shop.csv", NAMES)
    told = rowshot(tmp_path, "run", "shop.csv", PREFECT_API_URL=prefect_server_url.removesuffix("/api"))
    assert told.returncode == 2
    assert "/api at the end" in told.stderr


@pytest.mark.parametrize("arguments", [["run", "shop.csv"], ["plan", "shop.csv", "--generator", "anycap/team"]])
def test_a_server_that_does_not_answer_is_exit_code_2(
    tmp_path: Path, arguments: list[str], unused_address: str
) -> None:
    """A configured server is used or the command ends: it never quietly takes another."""
    write_csv(tmp_path / "shop.csv", NAMES)
    told = rowshot(tmp_path, *arguments, PREFECT_API_URL=unused_address)
    assert told.returncode == 2
    assert unused_address in told.stderr
    assert "prefect server start" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_profile_that_names_a_server_that_is_gone_is_told_with_its_mend(
    tmp_path: Path, unused_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect leaves such a profile behind once its server has ended; after the command that is named, the run goes."""
    monkeypatch.delenv("PREFECT_API_URL")
    home = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_PROFILES_PATH": str(tmp_path / "profiles.toml")}
    profile = f'active = "local"\n[profiles.local]\nPREFECT_API_URL = "{unused_address}"\n'
    (tmp_path / "profiles.toml").write_text(profile)
    write_csv(tmp_path / "shop.csv", ["a"])
    told = rowshot(tmp_path, "run", "shop.csv", **home)
    assert told.returncode == 2
    mend = "prefect profile use ephemeral"
    assert f"`{mend}`" in told.stderr
    subprocess.run(
        [sys.executable, "-m", *mend.split()], env=environment(tmp_path, **home), capture_output=True, check=True
    )
    done = rowshot(tmp_path, "run", "shop.csv", **home)
    assert done.returncode == 0, done


def test_the_help_tells_the_exit_codes_as_the_readme_does(tmp_path: Path) -> None:
    """Both say that 0 is about the rows that were asked for: with --limit others are pending."""
    told = " ".join(rowshot_here(tmp_path, "run", "--help").stdout.split())
    codes = told.partition("exit codes: ")[2].partition("; 3")[0]
    assert codes.startswith("0 every row asked for has its image; 1 ")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"Exit codes: {codes}" in " ".join(readme.split())


@pytest.fixture
def unused_address() -> str:
    """An address on the loopback that nothing answers at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/api"


def _newest(csv: str, api: str) -> UUID:
    return Recorded(api).flow_runs(f"generate-images / {csv}")[0].id
