import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from directus import USER, Directus, directus

from blocks import CmsSite
from flows.batch.ledger import Ledger

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directus]:
    """A real Directus; each test has skus of its own in it."""
    with directus(tmp_path_factory.mktemp("directus")) as server:
        yield server


@pytest.fixture
def site(cms: Directus) -> CmsSite:
    """The block, with the token of a user who may only read and update."""
    return CmsSite(base_url=cms.url, token=USER)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger of the test's own."""
    return Ledger.open(str(tmp_path / "ledger.sqlite3"))


@pytest.fixture
def prefix() -> str:
    """What the test's own skus begin with."""
    return f"t{next(_numbers)}"
