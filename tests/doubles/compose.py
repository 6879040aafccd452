"""What deploy/compose.yaml says, for native processes to do the same: its variables and its commands."""

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[2] / "deploy" / "compose.yaml"
SECRETS = (
    "POSTGRES_PASSWORD",
    "PREFECT_DATABASE_PASSWORD",
    "LEDGER_DATABASE_PASSWORD",
    "REDIS_PASSWORD",
    "PREFECT_AUTH_STRING",
)
REFERENCE = re.compile(r"\$\{(?P<name>[A-Z_]+):\?[^}]*\}|(?P<dollar>\$\$)")


def made_up() -> dict[str, str]:
    """Passwords for one test, by the names that deploy/server.env.example has."""
    passwords = {name: secrets.token_hex(12) for name in SECRETS}
    return passwords | {"PREFECT_AUTH_STRING": f"tester:{passwords['PREFECT_AUTH_STRING']}"}


class Compose:
    """The file with its references filled in, as Docker would: `${NAME:?mend}` has to be given, `$$` is a dollar.

    Raises KeyError where a reference is not among the given passwords.
    """

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = passwords
        self._services: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]

    def environment(self, service: str) -> dict[str, str]:
        """The variables of a service."""
        return {name: self._filled(value) for name, value in self._services[service]["environment"].items()}

    def command(self, service: str) -> list[str]:
        """The command of a service."""
        return [self._filled(part) for part in self._services[service]["command"]]

    def _filled(self, text: str) -> str:
        return REFERENCE.sub(lambda found: "$" if found["dollar"] else self._passwords[found["name"]], text)
