"""Runs that an account ends: no credit, a key that is refused, no key. What is bought stays bought."""

import re
from pathlib import Path

import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, rowshot, rowshot_here, write_csv
from recorded import Recorded

pytestmark = pytest.mark.usefixtures("prefect_server")
SKUS = [f"s{number}" for number in range(6)]
RUN = ("run", "products.csv", "--generator", "anycap", "--output", "out")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a CSV."""
    write_csv(tmp_path / "products.csv", SKUS)
    return tmp_path


def test_an_account_that_runs_dry_goes_on_where_it_stopped(
    folder: Path, recorded: Recorded, anycap_server: AnyCapServer
) -> None:
    """Without credit the run ends early and says so, its rows stay pending and its reports are whole; topped up, the
    same command buys the rest, and nothing twice.
    """
    command = (*RUN, "--concurrency", "2")
    variables = anycap_variables(anycap_server, folder)
    anycap_server.credit = 3
    early = rowshot(folder, *command, **variables)
    assert early.returncode == 3
    assert "no credit left" in early.stdout
    assert "Top it up, then run again" in early.stdout
    rows = by_sku(folder / "out/manifest.csv")
    assert sorted(row["status"] for row in rows.values()) == ["pending"] * 3 + ["stored"] * 3
    assert (
        sum(1 for row in by_sku(folder / "out/results.csv").values() if (folder / "out" / row["image_path"]).is_file())
        == 3
    )
    assert not (folder / "out/failures.csv").exists()
    assert anycap_server.charges.total() == 3
    assert anycap_server.calls.total() <= 3 + 2

    run = recorded.flow_runs("generate-images / products.csv")[0]
    assert run.state is not None
    assert (run.state.type.value, run.state.name) == ("FAILED", "EndedEarly")
    assert "no credit left" in (run.state.message or "")

    status = rowshot_here(folder, "status", "--output", "out")
    assert status.returncode == 0
    assert "ended early" in status.stdout

    anycap_server.credit = 10
    again = rowshot_here(folder, *command, **variables)
    assert again.returncode == 0
    assert "6 of 6 rows have their image; 3 bought" in again.stdout
    assert anycap_server.credit == 7
    assert set(anycap_server.charges.values()) == {1}
    assert len(anycap_server.charges) == 6


def test_a_redo_that_runs_dry_goes_on_where_it_stopped(folder: Path, anycap_server: AnyCapServer) -> None:
    """The same command makes again only what is left, under a cap that has room for no more, and names the others."""
    variables = anycap_variables(anycap_server, folder)
    assert rowshot_here(folder, *RUN, "--limit", "3", **variables).returncode == 0
    redo = ("redo", "--sku", "s0,s1,s2", "--add", "softer light", "--output", "out", "--concurrency", "1")
    anycap_server.credit = 2
    assert rowshot_here(folder, *redo, **variables).returncode == 3
    anycap_server.credit = None
    on = rowshot_here(folder, *redo, "--max-cost", "0.005", **variables)
    assert on.returncode == 0, on
    assert "3 of 3 rows have their image; 1 bought" in on.stdout
    assert re.search(r"Made already, when this redo was begun before: s\d, s\d\. ", on.stdout)
    assert sorted(anycap_server.charges.values()) == [1] * 6
    assert {sku: row["prompt"].count("softer light") for sku, row in by_sku(folder / "out/manifest.csv").items()} == {
        **dict.fromkeys(SKUS, 0),
        **dict.fromkeys(SKUS[:3], 1),
    }


def test_a_key_that_is_refused_ends_the_run_at_once(folder: Path, anycap_server: AnyCapServer) -> None:
    """A refused key is exit code 3 after no more calls than were under way, with every row pending."""
    variables = {**anycap_variables(anycap_server, folder), "ANYCAP_API_KEY": "another-key"}
    refused = rowshot_here(folder, *RUN, "--concurrency", "2", **variables)
    assert refused.returncode == 3
    assert "ANYCAP_API_KEY" in refused.stdout
    assert "another-key" not in refused.stdout + refused.stderr
    assert {row["status"] for row in by_sku(folder / "out/manifest.csv").values()} == {"pending"}
    assert anycap_server.counts()["charges"] == 0


def test_without_a_key_or_a_program_nothing_starts(folder: Path, anycap_server: AnyCapServer) -> None:
    """A missing key and a missing program are told with their mend before anything is sent or written."""
    variables = anycap_variables(anycap_server, folder)
    keyless = rowshot_here(folder, *RUN, **{**variables, "ANYCAP_API_KEY": ""})
    assert keyless.returncode == 2
    assert "ANYCAP_API_KEY" in keyless.stderr
    missing = rowshot_here(folder, *RUN, **{**variables, "ROWSHOT_ANYCAP": str(folder / "nowhere")})
    assert missing.returncode == 2
    assert "npm install" in missing.stderr
    assert anycap_server.counts()["calls"] == 0
    assert not (folder / "out").exists()
