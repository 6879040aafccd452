import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from team_server import TeamServer, team_server


@pytest.fixture(scope="session")
def team() -> Iterator[TeamServer]:
    """The server of deploy/compose.yaml out of native processes.

    It has a folder apart from pytest's, as PostgreSQL is another user where root runs the tests.
    """
    with tempfile.TemporaryDirectory(prefix="rowshot-team-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with team_server(folder) as server:
            yield server
