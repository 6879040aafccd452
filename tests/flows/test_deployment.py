"""`prefect deploy --all`, a process worker and `prefect deployment run` do the same job as the command."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import by_sku, environment, write_csv
from recorded import Recorded

from flows.batch.settings import BatchSettings

REPO = Path(__file__).parents[2]
NAME = "generate-images/generate-images"


@pytest.fixture(scope="module")
def clone(prefect_server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repo, under a path with spaces, deployed to the session's server; its own template shows whose code
    ran.
    """
    folder = tmp_path_factory.mktemp("a clone of it")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPO,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    template = folder / "templates/product.jinja"
    template.write_text(template.read_text(encoding="utf-8") + ", of the clone", encoding="utf-8")
    prefect(folder, prefect_server_url, "work-pool", "create", "--type", "process", "rowshot")
    prefect(folder, prefect_server_url, "deploy", "--all")
    return folder


def prefect(folder: Path, api: str, *arguments: str) -> str:
    """Run one of Prefect's own commands in `folder`; gives what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=folder,
        env=environment(folder, PREFECT_API_URL=api),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


def test_a_deployed_run_does_the_job(clone: Path, prefect_server: str) -> None:
    """A run that is asked for with its parameters as JSON is done by a process worker, in the clone, once."""
    write_csv(clone / "deployed.csv", {"a": "양말", "b": "모자"})
    batch = {"csv": "deployed.csv", "output": "made", "concurrency": 2}
    prefect(clone, prefect_server, "deployment", "run", NAME, "--param", f"batch={json.dumps(batch)}")
    prefect(clone, prefect_server, "worker", "start", "--pool", "rowshot", "--run-once")
    (run,) = Recorded(prefect_server).flow_runs("generate-images / deployed.csv")
    assert run.state is not None
    assert (run.state.name, run.state.message) == ("Completed", "2 of 2 rows have their image")
    rows = by_sku(clone / "made/manifest.csv")
    assert {sku: row["status"] for sku, row in rows.items()} == {"a": "stored", "b": "stored"}
    assert all((clone / "made" / row["path"]).is_file() for row in rows.values())
    assert all(row["prompt"].endswith(", of the clone") for row in rows.values())
    states = Recorded(prefect_server).states(run.id, 2)
    assert states == {"Completed": 2}


def test_deploying_again_changes_nothing(clone: Path, prefect_server: str) -> None:
    """The deployment keeps its id, its version and all its settings, and the clone its files."""
    before = Recorded(prefect_server).deployment(NAME)
    prefect(clone, prefect_server, "deploy", "--all")
    after = Recorded(prefect_server).deployment(NAME)
    assert before.model_dump(exclude={"updated"}) == after.model_dump(exclude={"updated"})
    assert (clone / "prefect.yaml").read_bytes() == (REPO / "prefect.yaml").read_bytes()


@pytest.mark.usefixtures("clone")
def test_the_run_form_is_fit_for_people(prefect_server: str) -> None:
    """Every parameter has a title, a description and its place, none draws as a choice of types, and what has a default
    needs no filling in.
    """
    schema = Recorded(prefect_server).deployment(NAME).parameter_openapi_schema
    assert schema is not None
    assert "anyOf" not in json.dumps(schema)
    assert sorted(schema["definitions"]["BatchSettings"]["properties"]) == sorted(BatchSettings.model_fields)
    for group in ("BatchSettings", "Money", "Delivery", "Rows", "Advanced"):
        fields = schema["definitions"][group]["properties"]
        assert all(field["title"] and field["description"].endswith(".") for field in fields.values())
        assert [field["position"] for field in fields.values()] == list(range(len(fields)))
        assert "required" not in schema["definitions"][group]
