"""The ledger's database: SQLite in a file of the user's, or another through its SQLAlchemy URL."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import platformdirs
from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from flows.batch.ledger_tables import SCHEMA_VERSION, meta, metadata
from flows.batch.problems import NotStarted, Problem

VARIABLE = "ROWSHOT_LEDGER"
LOCK_WAIT_S = 60

Result = TypeVar("Result")


class LedgerUnavailable(Exception):
    """The ledger can't be read or written. Nothing may be bought without it."""


def ledger_url(given: str) -> str:
    """The URL of the ledger: the one given, ROWSHOT_LEDGER's, or the user's own file. A bare path is a SQLite file."""
    url = given or os.environ.get(VARIABLE, "")
    if not url:
        url = str(platformdirs.user_data_path("rowshot") / "ledger.sqlite3")
    return url if "://" in url else f"sqlite:///{Path(url).expanduser().absolute()}"


def connect(url: str) -> Engine:
    """Open the ledger and make its tables where they are missing.

    Raises: NotStarted where there is no such database, it can't be written, or a newer Rowshot made it.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            engine = _sqlite(url, parsed.database or "")
        else:
            engine = create_engine(parsed, pool_pre_ping=True, pool_size=8, max_overflow=64)
        metadata.create_all(engine)
        _check_version(engine)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise NotStarted(
            [Problem(f"The ledger's URL can't be used: {error}.", "Give one like sqlite:////path/ledger.sqlite3.")]
        ) from error
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error)
        shown = make_url(url).render_as_string(hide_password=True)
        raise NotStarted(
            [
                Problem(
                    f"The ledger {shown} can't be opened: {reason}.",
                    "Check that it is there, writable and not held by something else, or name another with --ledger.",
                )
            ]
        ) from error
    return engine


def _sqlite(url: str, database: str) -> Engine:
    if database and database != ":memory:":
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": LOCK_WAIT_S}, pool_size=8, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = (
            None  # the driver's own BEGIN is deferred: two writers would then deadlock into an error
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # what was bought must survive a power cut, not only a crash

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine


def _check_version(engine: Engine) -> None:
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        version = connection.scalar(select(meta.c.value).where(meta.c.name == "schema"))
        if version is None:
            connection.execute(insert(meta).values(name="schema", value=str(SCHEMA_VERSION)))
        elif int(version) > SCHEMA_VERSION:
            raise NotStarted(
                [Problem("The ledger was made by a newer Rowshot.", "Update this one, or name another ledger.")]
            )


class _Work(Generic[Result]):
    """One thread's piece of a shared transaction."""

    def __init__(self, work: Callable[[Connection], Result]) -> None:
        self._work = work
        self._result: Result | None = None
        self._error: BaseException | None = None
        self.done = False

    def run(self, connection: Connection) -> None:
        """Do it, undoing this piece alone if it fails."""
        try:
            with connection.begin_nested():
                self._result = self._work(connection)
        except (SQLAlchemyError, ValueError, LookupError) as error:
            self._error = error

    def fail(self, error: BaseException) -> None:
        """The whole transaction came to nothing."""
        self._error = error

    def outcome(self) -> Result:
        """What the work gave, or its error."""
        if self._error is not None:
            raise self._error
        return cast("Result", self._result)


class Database:
    """Transactions on the ledger, for many threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # SQLite has one writer at a time, and its own waiting is a poll that starves some: queue for it fairly instead.
        self._turn = threading.Lock() if engine.dialect.name == "sqlite" else None
        self._waiting: deque[_Work[Any]] = deque()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the ledger."""
        with _told(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is kept whole or not at all.

        Raises: LedgerUnavailable where the database can't be reached or stays locked for over a minute.
        """
        with self._turn or nullcontext(), self._begun() as connection:
            yield connection

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Do one row's work in a transaction, and return once it is safe on disk.

        On SQLite the rows that wait meanwhile share the next transaction: a commit waits for the disk, and many rows
        that end together would otherwise wait for as many. Raises: LedgerUnavailable, and what `work` raises.
        """
        if self._turn is None:
            with self._begun() as connection:
                return work(connection)
        mine = _Work(work)
        self._waiting.append(mine)
        with self._turn:
            if not mine.done:  # whoever had the turn before may have done it along with its own
                self._do_waiting()
        return mine.outcome()

    def _do_waiting(self) -> None:
        several = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            with self._begun() as connection:
                for one in several:
                    one.run(connection)
        except LedgerUnavailable as error:
            for one in several:
                one.fail(error)
        finally:
            for one in several:
                one.done = True

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        with _told(), self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise LedgerUnavailable(
            f"The ledger can't be used: {error.orig}. What was bought is kept; once it is back, run the command again."
        ) from error
