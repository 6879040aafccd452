import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from decimal import Decimal
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from scripted_generator import Draws, ScriptedGenerator
from small_batch import SmallBatch, buy, dead_process
from sqlalchemy import Connection, create_engine, event, insert, select
from sqlalchemy.exc import IntegrityError

from flows.batch import ledger_database
from flows.batch.finish import Finish
from flows.batch.ledger import Ledger
from flows.batch.ledger_database import Database, ledger_url
from flows.batch.ledger_images import CHUNK, Cost, Place
from flows.batch.ledger_tables import SCHEMA_VERSION, Exact, State, images, plain, runs
from flows.batch.problems import LedgerUnavailable, NotStarted


@pytest.fixture
def batch(tmp_path: Path) -> SmallBatch:
    """A place for files."""
    return SmallBatch(tmp_path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds the ledger for writing."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def refused(url: str) -> str:
    """Why a ledger can't be opened."""
    with pytest.raises(NotStarted) as told:
        Ledger.open(url)
    (problem,) = told.value.problems
    assert problem.mend
    return str(problem)


def open_at_once(url: str, all_ready: Barrier, errors: "multiprocessing.Queue[str]") -> None:
    """Open a ledger when the others do, in a process of its own."""
    all_ready.wait(60)
    try:
        Ledger.open(url)
        errors.put("")
    except NotStarted as error:
        errors.put(str(error))


def test_the_ledger_survives_a_power_cut(batch: SmallBatch) -> None:
    """Every connection writes ahead and waits for the disk."""
    with batch.ledger()._database.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    with batch.ledger()._database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_url_is_found_in_the_order_option_variable_own_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The option comes before ROWSHOT_LEDGER, and that before the user's own file; a bare path is a SQLite file."""
    monkeypatch.setenv("ROWSHOT_LEDGER", "postgresql://somewhere/ledger")
    assert ledger_url("sqlite:////a/b") == "sqlite:////a/b"
    assert ledger_url(str(tmp_path / "l")) == f"sqlite:///{tmp_path / 'l'}"
    assert ledger_url("") == "postgresql://somewhere/ledger"
    monkeypatch.delenv("ROWSHOT_LEDGER")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert Path(ledger_url("").removeprefix("sqlite:///")).name == "ledger.sqlite3"


def test_the_folder_of_a_new_ledger_is_made(tmp_path: Path) -> None:
    """The first run needs no folder to be there, and a second opens the same ledger."""
    path = tmp_path / "a" / "b" / "ledger.sqlite3"
    Ledger.open(str(path))
    Ledger.open(f"sqlite:///{path}")
    assert path.is_file()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nosuchbase://host/x", "No ledger can be kept on nosuchbase"),
        ("://", "URL can't be used"),
        ("mysql://127.0.0.1:1/x", "No ledger can be kept on mysql"),
        ("postgresql+nosuchdriver://127.0.0.1:1/x", "URL can't be used"),
    ],
)
def test_a_bad_url_stops_before_anything_is_bought(url: str, told: str) -> None:
    """A ledger that can't be had is told with an example of a good one."""
    text = refused(url)
    assert told in text
    assert "sqlite:////" in text


def test_a_ledger_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A file of another kind, a folder, and a path below a file are told, and the file stays as it is."""
    other = tmp_path / "notes.txt"
    other.write_text("my notes, and more than a hundred bytes of them " * 10)
    assert "can't be opened" in refused(str(other))
    assert other.read_text().startswith("my notes")
    assert "can't be opened" in refused(str(tmp_path))
    assert "can't be opened" in refused(str(other / "ledger.sqlite3"))


def test_a_newer_rowshots_ledger_is_refused(batch: SmallBatch) -> None:
    """An older program does not write into what it can't know."""
    batch.ledger()
    with closing(sqlite3.connect(batch.ledger_path)) as other, other:
        other.execute("UPDATE rowshot_meta SET value = ? WHERE name = 'schema'", [str(SCHEMA_VERSION + 1)])
    assert "newer Rowshot" in refused(str(batch.ledger_path))


def test_many_processes_may_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    """Runs that are started together on a machine without a ledger all find one."""
    context = multiprocessing.get_context("spawn")
    errors: multiprocessing.Queue[str] = context.Queue()
    all_ready = context.Barrier(3)
    given = (str(tmp_path / "new"), all_ready, errors)
    children = [context.Process(target=open_at_once, args=given) for _ in range(3)]
    for child in children:
        child.start()
    told = [errors.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert told == [""] * len(children)


def test_threads_may_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    """The same in one process, many times over."""
    for number in range(10):
        told: list[str] = []

        def open_one(path: str = str(tmp_path / f"new{number}"), told: list[str] = told) -> None:
            try:
                Ledger.open(path)
            except NotStarted as error:
                told.append(str(error))

        threads = [threading.Thread(target=open_one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == []


def test_a_ledger_locked_by_another_is_told_after_a_while(batch: SmallBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading goes on, a write that can't be had ends in words, and the next one works again."""
    monkeypatch.setattr(ledger_database, "LOCK_WAIT_S", 0.1)
    batch.products("A")
    (job,) = batch.jobs()
    ledger = batch.ledger()
    assert ledger.standings([job.key]) == {}
    with locked(batch.ledger_path):
        assert ledger.standings([job.key]) == {}
        with pytest.raises(LedgerUnavailable, match=r"database is locked.*bought is kept.*run the command again"):
            ledger.lose(job.key, "x")
    ledger.lose(job.key, "x")


def test_writers_wait_for_their_turn(batch: SmallBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is given back in time is no error."""
    monkeypatch.setattr(ledger_database, "LOCK_WAIT_S", 10)
    ledger = batch.ledger()
    done = threading.Event()

    def write() -> None:
        ledger.lose(("a", "b", "c"), "x")
        done.set()

    writer = threading.Thread(target=write)
    with locked(batch.ledger_path):
        writer.start()
        assert not done.wait(0.1)
    writer.join()
    assert done.is_set()


def at_once(database: Database, works: Sequence[Callable[[Connection], int]]) -> list[int | Exception]:
    """Let several threads' work wait for one turn, so that it shares a transaction; gives what each is told."""

    def until(waiting: int) -> None:
        deadline = time.monotonic() + 10
        while len(database._waiting) != waiting:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    with ThreadPoolExecutor(len(works)) as pool:
        with database.writing():  # so nobody has the turn
            asked = []
            for work in works:
                asked.append(pool.submit(database.write, work))
                until(len(asked))
        return [error if isinstance(error := one.exception(), Exception) else one.result() for one in asked]


def put_run(name: str) -> Callable[[Connection], int]:
    """Work that puts a run into the ledger."""

    def work(connection: Connection) -> int:
        values = {"output": "o", "csv": "c", "columns": "x" * 4000, "generator": "g", "started_at": 1.0}
        return connection.execute(insert(runs).values(run=name, **values)).rowcount

    return work


def test_a_piece_of_a_shared_transaction_fails_alone(batch: SmallBatch) -> None:
    """What one row's work raises is told to it alone, and is undone alone."""
    ledger = batch.ledger()

    def broken(connection: Connection) -> int:
        put_run("broken")(connection)
        raise LookupError("mine")

    told = at_once(ledger._database, [put_run("a"), broken, put_run("a"), put_run("b")])
    assert told[0] == told[3] == 1
    assert isinstance(told[1], LookupError)
    assert isinstance(told[2], IntegrityError)
    with ledger._database.reading() as connection:
        assert set(connection.execute(select(runs.c.run)).scalars()) == {"a", "b"}


def test_when_the_database_fails_nobody_in_the_transaction_is_told_of_success(batch: SmallBatch) -> None:
    """A full disk makes SQLite undo the whole transaction: each of its rows is told so, and what is told is kept."""
    ledger = batch.ledger()
    full: list[int] = []

    def fill(connection: Connection) -> int:
        pages = int(connection.exec_driver_sql("PRAGMA page_count").scalar() or 0)
        full.append(int(connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar() or 0))
        return sum(put_run(f"more {number}")(connection) for number in range(20))

    told = at_once(ledger._database, [put_run("a"), fill, put_run("b")])
    assert full
    kept = {name for name, result in zip(("a", "b"), (told[0], told[2]), strict=True) if result == 1}
    assert isinstance(told[1], LedgerUnavailable)
    with closing(sqlite3.connect(batch.ledger_path)) as other:
        assert {name for (name,) in other.execute("SELECT run FROM runs")} == kept


def test_standings_and_places_are_found_for_any_number_of_keys(shop: SmallBatch) -> None:
    """More keys than one statement takes are asked in several, and unknown keys are left out."""
    shop.products("A", "B")
    shop.run(ScriptedGenerator())
    keys = [job.key for job in shop.jobs()]
    many = [("x", "product", f"{number:064}") for number in range(2 * CHUNK)]
    ledger = shop.ledger()
    statements: list[str] = []
    event.listen(ledger._database._engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    standings = ledger.standings([keys[0], *many, keys[1]])
    assert set(standings) == set(keys)
    assert sum("FROM images" in statement for statement in statements) == 3
    places = ledger.places([keys[0], *many, keys[1]], str(shop.output))
    assert set(places) == set(keys)
    assert ledger.places(keys, "elsewhere") == {}
    assert [place.output for place in ledger.places_anywhere(keys)[keys[0]]] == [str(shop.output)]


def test_one_fingerprint_is_kept_apart_by_sku_and_template(shop: SmallBatch) -> None:
    """Two skus with the same prompt have an image each, and asking for one does not give the other."""
    shop.csv("sku,name,color\nA,Shirt,blue\nB,Shirt,blue\n")
    first, second = shop.jobs()
    assert first.fingerprint == second.fingerprint
    generator = ScriptedGenerator()
    shop.run(generator, limit=1)
    assert set(shop.ledger().standings([first.key, second.key])) == {first.key}
    shop.run(generator)
    assert len(generator.calls) == 2


def test_a_place_is_put_in_place_of_the_older_one(shop: SmallBatch) -> None:
    """An image has one place in each output."""
    ledger = shop.ledger()
    key = ("A", "product", "f")
    place = Place("out", "images/a.png", "", "", "thumbs/a.webp")
    ledger.put_place(key, place)
    newer = Place("out", "images/a.png", "images/a.png", "100x100", "thumbs/a.webp")
    ledger.put_place(key, newer)
    ledger.put_place(key, Place("other", "x", "", "", ""))
    assert ledger.places([key], "out") == {key: newer}
    assert {found.output for found in ledger.places_anywhere([key])[key]} == {"out", "other"}


def test_only_a_bought_image_can_get_lost(shop: SmallBatch) -> None:
    """A row that was not bought keeps its state."""
    shop.products("A")
    (job,) = shop.jobs()
    generator = ScriptedGenerator()
    run = shop.open(shop.settings())
    run.begin("anycap")
    run.slots.stop(ValueError("not yet"))
    buy(run, generator, [job])
    run.ledger.lose(job.key, "gone")
    assert run.ledger.standings([job.key]) == {}
    shop.run(generator)
    run.ledger.lose(job.key, "gone")
    standing = run.ledger.standings([job.key])[job.key]
    assert (standing.state, standing.error) == (State.LOST, "gone")


def test_a_job_comes_back_as_it_was_asked_for(shop: SmallBatch) -> None:
    """The ledger holds all of a job but its line and what its template makes of the original."""
    shop.csv("sku,name,color,variant,param.seed\nA,셔츠,blue,2,7\n")
    (job,) = shop.jobs()
    shop.run(ScriptedGenerator())
    (found,) = shop.ledger().jobs([job.key])
    assert found.finish == Finish()
    assert (found.key, found.prompt, found.model, found.mode, found.params, found.variant, found.account) == (
        job.key,
        job.prompt,
        job.model,
        job.mode,
        job.params,
        job.variant,
        job.account,
    )


def test_figures_are_exact() -> None:
    """Money goes in and comes out to the billionth, and adds up as decimals do."""
    exact = Exact()
    dialect = create_engine("sqlite://").dialect
    for text in ("0.005", "0.000000001", "123456789.123456789", "0", "10"):
        kept = exact.process_bind_param(Decimal(text), dialect)
        assert isinstance(kept, int)
        assert f"{exact.process_result_value(kept, dialect):f}" == text
    assert exact.process_bind_param(None, dialect) is None
    assert exact.process_result_value(None, dialect) is None
    assert [str(plain(Decimal(text))) for text in ("0.0050", "1E+1", "0.00", "1.10")] == ["0.005", "10", "0", "1.1"]


def test_many_small_prices_add_up(shop: SmallBatch) -> None:
    """A tenth added ten times is one, in the sum of a run too."""
    shop.products(*"ABCDEFGHIJ")
    ran = shop.run(ScriptedGenerator(), usd_per_credit=Decimal("0.1"))
    assert ran.summary.spent_usd == Decimal(1)
    assert Cost(Decimal(1)).is_estimated


def test_the_newest_bought_redo_is_found(shop: SmallBatch) -> None:
    """Redos are known by the fingerprint of the row they stand for, whatever output they were made in."""
    shop.products("A")
    shop.run(ScriptedGenerator())
    (job,) = shop.jobs()
    assert shop.ledger().redos() == {}
    shop.redo(ScriptedGenerator(), "A", add="softer")
    shop.redo(ScriptedGenerator({"A": [Draws(data=b"broken"), Draws(data=b"broken")]}), "A", add="harder")
    ledger = shop.ledger()
    ((base, (_, prompt, variant)),) = ledger.redos().items()
    assert base == job.key
    assert (prompt, variant) == (f"{job.prompt}, softer", "redo 1")
    calls = ledger.redo_calls([job.key])
    assert [(call.variant, call.brought) for call in calls] == [("redo 1", True), *[("redo 2", False)] * 2]


def test_dead_processes_are_what_they_say() -> None:
    """The double that these tests build on gives a pid nobody has."""
    pid, started = dead_process()
    assert pid > 0
    assert 0 < started <= time.time()


@pytest.fixture
def on_postgresql(postgres_server: Any) -> Iterator[str]:
    """The URL of an empty ledger on PostgreSQL."""
    with postgres_server.database() as url:
        yield url


def test_a_plain_postgresql_url_needs_no_driver_named(on_postgresql: str) -> None:
    """What every other program calls the database will do."""
    plain_url = on_postgresql.replace("postgresql+psycopg://", "postgresql://")
    assert plain_url != on_postgresql
    Ledger.open(plain_url).lose(("a", "b", "c"), "x")
    Ledger.open(plain_url.replace("postgresql://", "postgres://")).lose(("a", "b", "c"), "x")


def test_a_row_that_postgresql_keeps_locked_is_told_after_a_while(
    on_postgresql: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A row that somebody else holds and does not give back ends in words, and the next write works again."""
    monkeypatch.setattr(ledger_database, "LOCK_WAIT_S", 0.2)
    shop = SmallBatch(tmp_path, ledger_url=on_postgresql)
    shop.products("A")
    shop.run(ScriptedGenerator())
    (job,) = shop.jobs()
    ledger, other = shop.ledger(), shop.ledger()
    with other._database.writing() as connection:
        connection.execute(select(images).with_for_update())
        with pytest.raises(LedgerUnavailable, match=r"lock timeout.*bought is kept"):
            ledger.lose(job.key, "gone")
    ledger.lose(job.key, "gone")
    assert ledger.standings([job.key])[job.key].state is State.LOST


def test_a_ledger_whose_server_goes_away_is_told_and_found_again(on_postgresql: str) -> None:
    """A connection that the database's server has closed is an error in words, or is made anew unseen."""
    ledger, other = Ledger.open(on_postgresql), Ledger.open(on_postgresql)

    def write() -> None:
        with ledger._database.writing() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with other._database.writing() as killer:
                killer.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
            connection.execute(select(images))

    with pytest.raises(LedgerUnavailable, match="bought is kept"):
        write()
    assert ledger.standings([("a", "b", "c")]) == {}
