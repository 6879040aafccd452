"""Money on the command line and on a schedule: caps, a canary, and what was spent, with the real CLI."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import anycap_faults as faults
import pytest
from anycap_server import AnyCapServer
from cli import anycap_executable
from command import anycap_variables, by_sku, environment, rowshot_here, write_csv
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from recorded import Recorded

from blocks import AnyCap

REPO = Path(__file__).parents[2]
SKUS = [f"s{number}" for number in range(8)]
RUN = ("products.csv", "--generator", "anycap", "--output", "out")
SCHEDULED_WITHIN_S = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a CSV."""
    write_csv(tmp_path / "products.csv", SKUS)
    return tmp_path


@pytest.mark.usefixtures("prefect_server")
def test_an_estimate_over_the_cap_is_exit_code_2(folder: Path, anycap_server: AnyCapServer) -> None:
    """A plan and a run that would cost more than their cap tell it after the plan, and start nothing."""
    variables = anycap_variables(anycap_server, folder)
    for command in (("plan",), ("run",), ("run", "--dry-run")):
        refused = rowshot_here(folder, command[0], *RUN, *command[1:], "--max-cost", "0.03", **variables)
        assert refused.returncode == 2, refused
        assert "To buy: 8 images, $0.04" in refused.stdout
        assert "would cost $0.04, and the run's cap is $0.03. Raise --max-cost, or buy the first 6 with --limit 6." in (
            refused.stderr
        )
    day = rowshot_here(folder, "run", *RUN, "--max-cost-per-day", "0.01", **variables)
    assert (day.returncode, "the day's cap" in day.stderr) == (2, True)
    slip = rowshot_here(folder, "run", *RUN, "--max-cost", "$5", **variables)
    assert (slip.returncode, "--max-cost: Write US dollars such as 25" in slip.stderr) == (2, True)
    unpriced = rowshot_here(
        folder, "plan", *RUN, "--max-cost", "5", "--model", "next-year", "--allow-unknown-model", **variables
    )
    assert (unpriced.returncode, "no price is known for next-year" in unpriced.stderr) == (2, True)
    assert anycap_server.counts()["calls"] == 0
    assert not (folder / "out").exists()


def test_a_cap_stops_a_run_and_its_money_is_told(folder: Path, recorded: Recorded, anycap_server: AnyCapServer) -> None:
    """Where an account pays more than the list says, the run ends at its cap with exit code 3 and keeps what it has;
    `rowshot spend` tells the same as the provider has counted, estimated beside settled.
    """
    block = AnyCap(
        api_key=anycap_server.key,
        executable=str(anycap_executable()),
        endpoint=anycap_server.url,
        usd_per_credit="0.01",
    )
    block.save("dear", overwrite=True)
    command = ("run", "products.csv", "--generator", "anycap/dear", "--output", "out", "--concurrency", "2")
    early = rowshot_here(folder, *command, "--max-cost", "0.06")
    assert early.returncode == 3, early
    assert "Ended early: The run's cap of $0.06 is reached" in early.stdout
    assert "Raise --max-cost" in early.stdout
    rows = by_sku(folder / "out/manifest.csv")
    assert sorted(row["status"] for row in rows.values()) == ["pending"] * 2 + ["stored"] * 6
    assert anycap_server.charges.total() == 6
    assert not (folder / "out/failures.csv").exists()
    run = recorded.flow_runs("generate-images / products.csv")[0]
    assert (run.state_name, "cap of $0.06" in str(run.state and run.state.message)) == ("EndedEarly", True)
    assert "1,000" in str(recorded.artifacts(run.id)["rowshot-comparison"].data)

    rest = rowshot_here(folder, *command, "--max-cost-per-day", "0.08")
    assert rest.returncode == 0, rest
    assert anycap_server.charges.total() == 8
    told = json.loads(rowshot_here(folder, "spend", "--by", "model", "--json").stdout)
    assert [row["what"] for row in told["rows"]] == ["anycap nano-banana-2"]
    assert {name: told["total"][name] for name in ("images", "estimate_usd", "spent_usd", "settled_usd")} == {
        "images": 8,
        "estimate_usd": "0.04",
        "spent_usd": "0.08",
        "settled_usd": "0.08",
    }
    table = rowshot_here(folder, "spend", "--by", "run").stdout.splitlines()
    assert [line.split()[-5:] for line in table[1:]] == [
        ["6", "6", "$0.03", "$0.06", "$0.06"],
        ["2", "2", "$0.01", "$0.02", "$0.02"],
        ["8", "8", "$0.04", "$0.08", "$0.08"],
    ]


@pytest.mark.parametrize("anycap_server", [{"faults": {"#no": [faults.rejected()] * 8}}], indirect=True)
def test_a_canary_that_fails_ends_the_run(folder: Path, recorded: Recorded, anycap_server: AnyCapServer) -> None:
    """When too many of the first rows fail, no other is asked for: exit code 3, and a contact sheet of those rows."""
    write_csv(folder / "canary.csv", {sku: f"product {sku} #no" for sku in SKUS})
    command = ("run", "canary.csv", "--generator", "anycap", "--output", "out", "--canary", "3")
    ended = rowshot_here(folder, *command, **anycap_variables(anycap_server, folder))
    assert ended.returncode == 3, ended
    assert "The canary failed: 3 of its 3 rows have no image (100%; 20% may)" in ended.stdout
    assert anycap_server.calls.total() == 3
    statuses = [row["status"] for row in by_sku(folder / "out/manifest.csv").values()]
    assert statuses == ["rejected"] * 3 + ["pending"] * 5
    sheet = (folder / "out/canary.html").read_text(encoding="utf-8")
    assert [sku for sku in SKUS if f"product {sku} " in sheet] == SKUS[:3]
    run = recorded.flow_runs("generate-images / canary.csv")[0]
    assert len(recorded.task_runs(run.id, 3)) == 3


def test_a_plan_as_json_is_all_that_is_printed(folder: Path) -> None:
    """The plan's JSON can be piped as it is, with a price book of one's own, and no server is asked."""
    header = "generator,model,resolution,usd,credits,date,retires,source\n"
    (folder / "own.csv").write_text(f"{header}anycap,nano-banana-2,*,0.067,,2026-11-01,,a list\n", encoding="utf-8")
    for options, variables in ((["--prices", "own.csv"], {}), ([], {"ROWSHOT_PRICES": "own.csv"})):
        done = rowshot_here(folder, "plan", *RUN, "--json", *options, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["cost_usd"] == "0.536"


@contextmanager
def scheduled(api: str, parameters: dict[str, object]) -> Iterator[UUID]:
    """A flow run that a schedule has made, of a deployment that is gone after the body."""
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        soon = IntervalSchedule(interval=timedelta(seconds=30), anchor_date=datetime.now(UTC))
        deployment = client.create_deployment(
            client.create_flow_from_name("generate-images"),
            "by-the-clock",
            parameters={"batch": parameters},
            schedules=[DeploymentScheduleCreate(schedule=soon, active=True)],
            path=str(REPO),
            entrypoint="flows/generate_images.py:generate_images",
        )
        try:
            deadline = time.monotonic() + SCHEDULED_WITHIN_S
            of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
            while not (runs := client.read_flow_runs(deployment_filter=of_it)):
                assert time.monotonic() < deadline, "no run was scheduled"
                time.sleep(0.3)
            first = min(runs, key=lambda run: run.expected_start_time or datetime.max.replace(tzinfo=UTC))
            assert first.auto_scheduled
            yield first.id
        finally:
            client.delete_deployment(deployment)


def test_a_schedule_needs_a_cap(folder: Path, prefect_server: str, anycap_server: AnyCapServer) -> None:
    """A run that a schedule has started, that would cost money and has no cap, starts nothing and says so."""
    batch: dict[str, object] = {
        "csv": str(folder / "products.csv"),
        "output": str(folder / "out"),
        "generator": "anycap",
        "advanced": {"ledger": str(folder / "ledger.sqlite3")},
    }
    with scheduled(prefect_server, batch) as run:
        subprocess.run(
            [sys.executable, "-m", "prefect", "flow-run", "execute", str(run)],
            env=environment(folder, **anycap_variables(anycap_server, folder)),
            cwd=REPO,
            capture_output=True,
            timeout=240,
            check=False,
        )
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run).state
    assert state is not None
    assert (state.type.value, "no cap" in str(state.message), "max_cost_usd" in str(state.message)) == (
        "FAILED",
        True,
        True,
    ), state.message
    assert anycap_server.counts()["calls"] == 0
    assert not (folder / "out").exists()
