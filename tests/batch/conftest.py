"""The ledger's databases: its tests run on SQLite and on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small_batch import SmallBatch

if TYPE_CHECKING:
    from postgres import Postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator["Postgres"]:
    """A PostgreSQL for the whole session."""
    from postgres import postgres  # noqa: PLC0415 - only tests that need it start it

    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty ledger: a test that takes it runs on each database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
        return
    with request.getfixturevalue("postgres_server").database() as url:
        yield url


@pytest.fixture
def shop(tmp_path: Path, ledger_url: str) -> SmallBatch:
    """A place for files, whose ledger is on each database."""
    return SmallBatch(tmp_path, ledger_url=ledger_url)
