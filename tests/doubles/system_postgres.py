"""The system's PostgreSQL in a folder: Prefect's server needs its extension pg_trgm, which the wheel's lacks."""

import getpass
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGED = Path("/usr/lib/postgresql")
READY_S = 60
STOP_S = 60


@dataclass(frozen=True)
class SystemPostgres:
    """A server that runs; `new` says that its data was made just now."""

    pid: int
    new: bool


def program(name: str) -> Path:
    """One of PostgreSQL's programs. Raises FileNotFoundError that says what to install."""
    packaged = sorted(PACKAGED.glob(f"*/bin/{name}"), key=lambda path: int(path.parents[1].name))
    found = packaged[-1] if packaged else shutil.which(name)
    if not found:
        raise FileNotFoundError(f"PostgreSQL's {name} is missing. On Debian: apt-get install postgresql")
    return Path(found)


@contextmanager
def system_postgres(folder: Path, port: int, password: str, options: Sequence[str] = ()) -> Iterator[SystemPostgres]:
    """Run a server on the loopback while the body runs; its data stays in `folder`.

    It never runs as root: called by root it runs as the user postgres, who must be able to get to `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new = not (folder / "data" / "PG_VERSION").exists()
    with (folder / "server.log").open("ab") as log:
        if new:
            _initialise(folder, password, log)
        command = [
            str(program("postgres")),
            "-D",
            str(folder / "data"),
            "-p",
            str(port),
            "-c",
            "listen_addresses=127.0.0.1",
        ]
        command += ["-c", f"unix_socket_directories={folder}", *options]
        with subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **_not_root()) as server:
            try:
                _wait_until_ready(folder, port)
                yield SystemPostgres(server.pid, new)
            finally:
                server.send_signal(signal.SIGINT)  # its fast way to end: sessions are closed, all is written
                server.wait(STOP_S)


def run_script(script: Path, port: int, variables: Mapping[str, str]) -> None:
    """Run a shell script that calls psql, on the server at this port."""
    path = f"{program('psql').parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PGHOST": "127.0.0.1", "PGPORT": str(port), **variables}
    subprocess.run(["/bin/sh", script], env=environment, check=True, capture_output=True)


def _initialise(folder: Path, password: str, log: Any) -> None:
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if os.geteuid() == 0:
        for path in (folder, secret):
            shutil.chown(path, _not_root()["user"])
    command = [str(program("initdb")), "-D", str(folder / "data"), "--username", "postgres", "--auth", "scram-sha-256"]
    command += ["--pwfile", str(secret), "--encoding", "UTF8", "--locale", "C.UTF-8"]
    try:
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=True, **_not_root())
    except subprocess.CalledProcessError as error:
        told = (folder / "server.log").read_text(errors="replace")
        raise RuntimeError(f"initdb failed in {folder} for the user {_user()}:\n{told}") from error
    finally:
        secret.unlink()


def _not_root() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": "postgres", "group": pwd.getpwnam("postgres").pw_gid, "extra_groups": []}


def _user() -> str:
    return "postgres" if os.geteuid() == 0 else getpass.getuser()


def _wait_until_ready(folder: Path, port: int) -> None:
    deadline = time.monotonic() + READY_S
    asked = [str(program("pg_isready")), "--host", "127.0.0.1", "--port", str(port), "--quiet"]
    while subprocess.run(asked, check=False).returncode:
        if time.monotonic() > deadline:
            told = (folder / "server.log").read_text(errors="replace")
            raise RuntimeError(f"PostgreSQL did not come up within {READY_S} s:\n{told}")
        time.sleep(0.1)
