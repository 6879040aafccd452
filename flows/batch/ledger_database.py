"""The ledger's database: SQLite in a file of the user's, or another through its SQLAlchemy URL."""

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoneFree

from flows.batch.files import sync
from flows.batch.ledger_upgrade import prepare
from flows.batch.problems import LedgerUnavailable, NotStarted, Problem

VARIABLE = "ROWSHOT_LEDGER"
LOCK_WAIT_S = 60
CONNECT_WAIT_S = 20
MOST_TOGETHER = 16  # rows that share a transaction while none is urgent: one that is may come at any moment

Result = TypeVar("Result")

_KNOWN = {"sqlite", "postgresql", "postgres"}
_URLS = "Give one like sqlite:////path/ledger.sqlite3 or postgresql://user@host/rowshot."


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
        if parsed.get_backend_name() not in _KNOWN:
            raise NotStarted([Problem(f"No ledger can be kept on {parsed.get_backend_name()}.", _URLS)])
        engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _server(parsed)
        with engine.connect().execution_options(writes=True) as connection, connection.begin():
            prepare(connection)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        mend = _URLS
        if isinstance(error, ModuleNotFoundError):
            mend = f"Install the driver (for PostgreSQL: pip install 'rowshot[postgres]'). {mend}"
        raise NotStarted([Problem(f"The ledger's URL can't be used: {error}.", mend)]) from error
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


def _server(url: URL) -> Engine:
    """A database with a server of its own. PostgreSQL goes by psycopg, whatever driver SQLAlchemy would take."""
    arguments: dict[str, object] = {}
    if url.drivername in {"postgres", "postgresql"}:
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername == "postgresql+psycopg" and "options" not in url.query:
        arguments = {"connect_timeout": CONNECT_WAIT_S, "options": f"-c lock_timeout={1000 * LOCK_WAIT_S:.0f}"}
    return create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=64, connect_args=arguments)


def _sqlite(url: URL) -> Engine:
    """A file; `?timeout=` in its URL says how many seconds to wait for one that something else has locked."""
    database = url.database or ""
    if database and database != ":memory:":
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    waits = {} if "timeout" in url.query else {"timeout": LOCK_WAIT_S}
    engine = create_engine(url, connect_args=waits, pool_size=8, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: Any) -> None:
        connection.isolation_level = (
            None  # the driver's own BEGIN is deferred: two writers would then deadlock into an error
        )
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous=FULL")  # what was bought must survive a power cut, not only a crash

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine


def _write_ahead(connection: Any) -> None:
    """Switch to a write-ahead log: for this SQLite does not wait its turn where several make a new ledger at once."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@dataclass(frozen=True, slots=True)
class _Write:
    """One row's part of a transaction that several share."""

    work: Callable[[Connection], Any]
    done: Future[Any]


class Database:
    """Transactions on the ledger, for many threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        # SQLite has one writer at a time, and its own waiting is a poll that starves some: take turns instead.
        self._turn = threading.Lock()
        self._urgent: deque[_Write] = deque()
        self._waiting: deque[_Write] = deque()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._unsafe: deque[tuple[Sequence[Path], _Write]] = deque()
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="ledger-files")

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
        with self._turn if self._is_sqlite else nullcontext(), self._begun() as connection:
            yield connection

    def write(
        self, work: Callable[[Connection], Result], files: Sequence[Path] = (), *, urgent: bool = False
    ) -> Result:
        """Do one row's work in a transaction, and return once it is safe on disk; `files` are so before it.

        On SQLite the rows that wait meanwhile share the next transaction: a commit waits for the disk, and many rows
        that end together would otherwise wait for as many. Those that are `urgent`, for a call waits for them, go
        before the others. Raises: LedgerUnavailable, and what `work` raises.
        """
        if not self._is_sqlite:
            sync(files)
            with self._begun() as connection:
                return work(connection)
        done: Future[Result] = Future()
        one = _Write(work, done)
        if files:  # by a thread of its own, so that no other row's transaction waits for them
            self._unsafe.append((files, one))
            self._syncer.submit(self._sync_waiting)
        elif urgent:  # by this thread, or by another that comes to write before it
            self._urgent.append(one)
            self._write_waiting()
        else:
            self._put(one)
        return done.result()

    def _put(self, one: _Write) -> None:
        self._waiting.append(one)
        self._writer.submit(self._write_waiting)

    def _sync_waiting(self) -> None:
        several = [self._unsafe.popleft() for _ in range(len(self._unsafe))]
        self._sync_together(several)

    def _sync_together(self, several: Sequence[tuple[Sequence[Path], _Write]]) -> None:
        try:
            sync(path for files, _ in several for path in files)
        except OSError as error:
            if len(several) > 1:  # one of them failed: the others must not suffer by it
                for one in several:
                    self._sync_together([one])
                return
            for _, write in several:
                write.done.set_exception(error)
        else:
            for _, write in several:
                self._put(write)

    def _write_waiting(self) -> None:
        """One turn. There are as many turns as writes, so whoever has to let others go first has a turn left."""
        with self._turn:
            waiting, most = (self._urgent, len(self._urgent)) if self._urgent else (self._waiting, MOST_TOGETHER)
            several = [waiting.popleft() for _ in range(min(most, len(waiting)))]
            if several:  # else an earlier turn took them along
                self._write_together(several)

    def _write_together(self, several: Sequence[_Write]) -> None:
        try:
            with self._begun() as connection:
                results = [one.work(connection) for one in several]
        except Exception as error:  # noqa: BLE001 - it is raised again where the row's own thread waits
            if len(several) > 1 and not isinstance(error, LedgerUnavailable):
                for one in several:  # one of them failed: the others must not suffer by it
                    self._write_together([one])
                return
            for one in several:
                one.done.set_exception(error)
        else:
            for one, result in zip(several, results, strict=True):
                one.done.set_result(result)

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        with _told(), self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, NoneFree) as error:
        why = str(error.orig if isinstance(error, DBAPIError) else error).strip().partition("\n")[0].rstrip(".")
        raise LedgerUnavailable(
            f"The ledger can't be used: {why}. What was bought is kept; once it is back, run the command again."
        ) from error


def insert_into(table: Table, connection: Connection) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can be told what to do where the row is there already, as this database has it."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
