"""prefect.yaml and what it is deployed to: each entry leads to a flow, fits it and starts when it should.

Pools of containers can't be run here: their job variables are held against the schemas that the worker types themselves
publish, which come with Prefect.
"""

import asyncio
import inspect
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints
from zoneinfo import ZoneInfo

import jsonschema
import prefect.server.api
import pytest
import yaml
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.server.schemas.schedules import CronSchedule
from pydantic import TypeAdapter

from flows.batch.settings import BatchSettings

REPO = Path(__file__).parents[1]
PAGE: dict[str, Any] = yaml.safe_load((REPO / "prefect.yaml").read_text(encoding="utf-8"))
ENTRIES: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in PAGE["deployments"]}
POOLS: dict[str, dict[str, Any]] = PAGE["definitions"]["work_pools"]
KINDS = Path(prefect.server.api.__file__).parent / "collections_data/views/aggregate-worker-metadata.json"


def flow_of(entry: dict[str, Any]) -> Flow[..., Any]:
    """The flow that an entry leads to."""
    return load_flow_from_entrypoint(str(REPO / entry["entrypoint"]), use_placeholder_flow=False)


def variables_of(kind: str) -> dict[str, Any]:
    """The schema of the job variables that a type of work pool takes."""
    packages = json.loads(KINDS.read_text(encoding="utf-8"))
    (found,) = [workers[kind] for workers in packages.values() if kind in workers]
    return dict(found["default_base_job_configuration"]["variables"])


def test_the_entries_are_those_that_the_docs_name() -> None:
    """From the form, every night, for free, for shards, and to try the doors."""
    assert set(ENTRIES) == {"generate-images", "nightly-catalog", "plan-batch", "generate-shard", "check-setup"}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_leads_to_a_flow_that_takes_its_parameters(name: str) -> None:
    """The flow loads, each parameter that the entry gives is one of its own and is valid, and the CSV is there."""
    entry = ENTRIES[name]
    flow = flow_of(entry)
    hints = get_type_hints(flow.fn)
    for parameter, value in entry.get("parameters", {}).items():
        assert parameter in inspect.signature(flow.fn).parameters
        read = TypeAdapter(hints[parameter]).validate_python(value)
        if isinstance(read, BatchSettings):
            assert (REPO / read.csv).is_file()
    assert entry["description"]
    assert entry["work_pool"] == POOLS["process"]


def test_the_nightly_run_is_off_and_safe() -> None:
    """It is off until somebody switches it on, has a cap, skips invalid rows, and never runs beside itself."""
    entry = ENTRIES["nightly-catalog"]
    (schedule,) = entry["schedules"]
    assert schedule["active"] is False
    assert re.match("[a-z]", schedule["slug"])
    batch = BatchSettings(**entry["parameters"]["batch"])
    assert batch.money.caps.run_usd
    assert batch.rows.skip_invalid
    assert not [name for name in ("retry_rejected", "retry_unknown", "rebuy_lost") if getattr(batch.rows, name)]
    assert entry["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_the_nightly_run_starts_at_three_in_seoul() -> None:
    """Its next times are three in the morning there, every day, which is six in the evening before in UTC."""
    (schedule,) = ENTRIES["nightly-catalog"]["schedules"]
    cron = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    times = asyncio.run(cron.get_dates(3, start=datetime(2026, 12, 30, 12, tzinfo=UTC)))
    assert [time.astimezone(UTC) for time in times] == [
        datetime(2026, 12, 30, 18, tzinfo=UTC),
        datetime(2026, 12, 31, 18, tzinfo=UTC),
        datetime(2027, 1, 1, 18, tzinfo=UTC),
    ]
    assert {time.astimezone(ZoneInfo("Asia/Seoul")).hour for time in times} == {3}


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_a_work_pool_takes_its_job_variables(kind: str) -> None:
    """Each variable is one of the worker type's own, and of its kind."""
    given = POOLS[kind].get("job_variables", {})
    schema = variables_of(kind)
    assert set(given) <= set(schema["properties"])
    jsonschema.validate(given, schema)


def test_a_wrong_job_variable_is_noticed() -> None:
    """The schema that the pools are held against refuses what a worker would stumble on."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"image_pull_policy": "Sometimes"}, variables_of("docker"))


def test_no_secret_is_written_into_a_deployment() -> None:
    """References to blocks are resolved as a deployment is made, and everybody who sees it would see the secret."""
    assert "prefect.blocks" not in (REPO / "prefect.yaml").read_text(encoding="utf-8")
    assert not [name for name, pool in POOLS.items() if "env" in pool.get("job_variables", {})]


def test_the_image_holds_what_the_flows_need() -> None:
    """What the Dockerfile copies is in the clone and let through to the build; the flows are where runs look."""
    dockerfile = (REPO / "deploy/Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (?!--)(.+)$", dockerfile, re.MULTILINE) for word in line.split()[:-1]]
    assert {"blocks", "flows", "templates", "pyproject.toml", "constraints.txt", "prefect.yaml"} <= set(copied)
    assert all((REPO / name).exists() for name in copied)
    let_through = (REPO / "deploy/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in let_through if line.startswith("!")} == set(copied)
    (pull,) = PAGE["definitions"]["pull"]["in_image"]
    (set_folder,) = pull.values()
    assert f"WORKDIR {set_folder['directory']}\n" in dockerfile
    last_user = re.findall(r"^USER (\w+)$", dockerfile, re.MULTILINE)[-1:]
    assert last_user == ["rowshot"], "runs are not root's"


def test_the_image_has_the_cli_that_the_tests_ran_with() -> None:
    """Another version of the provider's program may answer otherwise."""
    tested = re.search(r'VERSION = "([\d.]+)"', (REPO / "tests/doubles/cli.py").read_text(encoding="utf-8"))
    assert tested
    assert f"ARG ANYCAP_VERSION={tested[1]}\n" in (REPO / "deploy/Dockerfile").read_text(encoding="utf-8")
