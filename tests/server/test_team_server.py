"""What deploy/compose.yaml describes, done by native processes with the same variables and commands."""

import re
from contextlib import AbstractContextManager
from pathlib import Path

import requests
from command import by_sku, rowshot, write_csv
from prefect import flow, task
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, Settings, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner
from recorded import Recorded
from sqlalchemy import create_engine, text
from team_server import TeamServer

TASK_RUNS = 300
# An error by its name at the start of a line; a busy machine may time out, and a client that has ended is gone.
COMPLAINS = re.compile(r"^(?!.*(Timeout|Cancel|ConnectionClosed|Disconnect))[\w.]+(Error|Exception)\b|dropping")


def test_all_of_a_burst_is_recorded(team: TeamServer) -> None:
    """Task runs that come as fast as one process makes them are all there in the end, each completed."""

    @task
    def row(number: int) -> int:
        return number

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=8), flow_run_name="burst")  # type: ignore[arg-type]
    def burst() -> int:
        return sum(future.result() for future in row.map(range(TASK_RUNS)))

    with _as_its_user(team):
        assert burst() == sum(range(TASK_RUNS))
        (run,) = Recorded(team.api).flow_runs("burst")
        assert Recorded(team.api).states(run.id, TASK_RUNS) == {"Completed": TASK_RUNS}


def test_a_batch_with_its_ledger_there(team: TeamServer, tmp_path: Path) -> None:
    """The command does its job on that server, with the ledger beside it."""
    skus = [f"t-{number}" for number in range(30)]
    write_csv(tmp_path / "team.csv", skus)
    variables = {**team.client, "ROWSHOT_LEDGER": team.ledger}
    done = rowshot(tmp_path, "run", "team.csv", **variables)
    assert done.returncode == 0, done
    assert {row["status"] for row in by_sku(tmp_path / "output/manifest.csv").values()} == {"stored"}
    with _as_its_user(team):
        (run,) = Recorded(team.api).flow_runs("generate-images / team.csv")
        assert Recorded(team.api).states(run.id, len(skus)) == {"Completed": len(skus)}
    engine = create_engine(team.ledger)
    with engine.connect() as connection:
        calls = connection.execute(text("select count(*) from attempts where sku like 't-%'")).scalar_one()
    engine.dispose()
    assert calls == len(skus)


def test_nobody_gets_in_without_the_password(team: TeamServer) -> None:
    """Its API tells a stranger nothing but that it is up."""
    assert requests.get(f"{team.api}/health", timeout=10).status_code == requests.codes.ok
    asked = f"{team.api}/flow_runs/count"
    assert requests.post(asked, json={}, timeout=10).status_code == requests.codes.unauthorized
    user, _, password = team.client["PREFECT_API_AUTH_STRING"].partition(":")
    assert requests.post(asked, json={}, auth=(user, password), timeout=10).status_code == requests.codes.ok


def test_its_processes_have_nothing_to_complain_of(team: TeamServer) -> None:
    """Nothing broke web or services, on this database and by these settings, and neither drops the other's tasks."""
    logs = [(team.folder / name / "log").read_text(errors="replace") for name in ("web", "services")]
    assert any("2 worker processes" in log for log in logs), "these are not the logs"
    assert [line for log in logs for line in log.splitlines() if COMPLAINS.search(line)] == []


def _as_its_user(team: TeamServer) -> AbstractContextManager[Settings]:
    return temporary_settings(
        {PREFECT_API_URL: team.api, PREFECT_API_AUTH_STRING: team.client["PREFECT_API_AUTH_STRING"]}
    )
