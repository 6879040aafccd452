"""`prefect deploy --all`, a process worker and `prefect deployment run` do the same job as the command."""

import json
from pathlib import Path
from typing import Any

import pytest
from command import by_sku, write_csv
from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.utilities.callables import parameter_schema
from recorded import Recorded
from served import Served, copy_of_repo

from flows.generate_images import generate_images

REPO = Path(__file__).parents[2]
NAME = "generate-images/generate-images"
NAMES = (
    NAME,
    "generate-images/nightly-catalog",
    "plan-batch/plan-batch",
    "generate-shard/generate-shard",
    "check-setup/check-setup",
)


@pytest.fixture(scope="module")
def clone(prefect_server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repo, under a path with spaces, deployed to the session's server; its own template shows whose code
    ran.
    """
    folder = copy_of_repo(tmp_path_factory.mktemp("a clone of it"))
    template = folder / "templates/product.jinja"
    template.write_text(template.read_text(encoding="utf-8") + ", of the clone", encoding="utf-8")
    Served(folder, prefect_server_url).deploy()
    return folder


def prefect(folder: Path, api: str, *arguments: str) -> str:
    """Run one of Prefect's own commands in `folder`; gives what it prints."""
    return Served(folder, api).prefect(*arguments)


def test_a_deployed_run_does_the_job(clone: Path, prefect_server: str, recorded: Recorded) -> None:
    """A run that is asked for with its parameters as JSON is done by a process worker, in the clone, once. It waits to
    be approved, which needs no process; then a worker does the rest of the same run.
    """
    write_csv(clone / "deployed.csv", {"a": "양말", "b": "모자"})
    batch = {"csv": "deployed.csv", "output": "made", "concurrency": 2, "approve": "before-buying"}
    prefect(clone, prefect_server, "deployment", "run", NAME, "--param", f"batch={json.dumps(batch)}")
    prefect(clone, prefect_server, "worker", "start", "--pool", "rowshot", "--run-once")
    (waiting,) = recorded.flow_runs("generate-images / deployed.csv")
    assert waiting.state_name == "Suspended"
    assert not (clone / "made/manifest.csv").exists()
    with get_client(sync_client=True) as client:
        client.resume_flow_run(waiting.id, run_input={"answer": "approve"})
    prefect(clone, prefect_server, "worker", "start", "--pool", "rowshot", "--run-once")
    (run,) = recorded.flow_runs("generate-images / deployed.csv")
    assert run.id == waiting.id
    assert run.state is not None
    assert (run.state.name, run.state.message) == ("Completed", "2 of 2")
    rows = by_sku(clone / "made/manifest.csv")
    assert {sku: row["status"] for sku, row in rows.items()} == {"a": "stored", "b": "stored"}
    assert all((clone / "made" / row["path"]).is_file() for row in rows.values())
    assert all(row["prompt"].endswith(", of the clone") for row in rows.values())
    states = recorded.states(run.id, 2)
    assert states == {"Completed": 2}


def test_deploying_again_changes_nothing(clone: Path, prefect_server: str, recorded: Recorded) -> None:
    """Each deployment keeps its id, its version, its schedule and all its settings, and the clone its files."""
    before = [settled(recorded.deployment(name)) for name in NAMES]
    prefect(clone, prefect_server, "deploy", "--all")
    assert [settled(recorded.deployment(name)) for name in NAMES] == before
    assert (clone / "prefect.yaml").read_bytes() == (REPO / "prefect.yaml").read_bytes()


def settled(deployment: DeploymentResponse) -> dict[str, Any]:
    """All of a deployment but when it was last written, and whether a worker polls for it now."""
    found = deployment.model_dump(exclude={"updated", "status", "last_polled"})
    return found | {"schedules": [one | {"updated": None} for one in found["schedules"]]}


@pytest.mark.usefixtures("clone")
def test_the_nightly_run_waits_to_be_switched_on(recorded: Recorded) -> None:
    """Deployed as it stands it starts nothing by itself, and one at a time once it is switched on."""
    nightly = recorded.deployment("generate-images/nightly-catalog")
    (schedule,) = nightly.schedules
    assert not schedule.active
    assert schedule.slug == "nightly"
    assert isinstance(schedule.schedule, CronSchedule)
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 3 * * *", "Asia/Seoul")
    assert nightly.global_concurrency_limit
    assert nightly.global_concurrency_limit.limit == 1


@pytest.mark.usefixtures("clone")
def test_the_server_has_the_form_of_the_flow(recorded: Recorded) -> None:
    """What is deployed is the form that the flow has, and the server holds what is sent against it."""
    deployment = recorded.deployment(NAME)
    assert deployment.parameter_openapi_schema == parameter_schema(generate_images.fn).model_dump_for_openapi()
    assert deployment.enforce_parameter_schema
