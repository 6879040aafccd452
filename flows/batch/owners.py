"""Who holds a row: a live process. One that died gives its rows up at once on its machine, elsewhere by its lease."""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil
from sqlalchemy import Connection, delete, insert, select, update

from flows.batch.ledger_database import Database
from flows.batch.ledger_tables import State, images, owners
from flows.batch.problems import LedgerUnavailable

LEASE_S = 60.0
RENEW_S = 15.0
FORGOTTEN_S = 86_400.0
SAME_START_S = 2.0  # the start time of a process is known to a clock tick, and is noted in two ways


@dataclass(frozen=True, slots=True)
class Owner:
    """One process that buys for one run."""

    id: str
    run: str
    host: str


def process_lives(pid: int, started: float) -> bool:
    """Whether that very process still runs on this machine, and not another that was given its number."""
    try:
        found = psutil.Process(pid)
        return abs(found.create_time() - started) < SAME_START_S and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_alive(connection: Connection, owner: str) -> bool:
    """Whether a holder still works on its rows."""
    row = connection.execute(select(owners).where(owners.c.owner == owner)).one_or_none()
    if row is None:
        return False
    if row.host == socket.gethostname():
        return process_lives(row.pid, row.pid_started)
    return bool(row.alive_until > time.time())


def _forget_dead(connection: Connection) -> None:
    """Drop the holders that died here, and those of elsewhere that have not been heard of for a day."""
    for row in connection.execute(select(owners)).all():
        here = row.host == socket.gethostname()
        if not process_lives(row.pid, row.pid_started) if here else row.alive_until < time.time() - FORGOTTEN_S:
            connection.execute(delete(owners).where(owners.c.owner == row.owner))


@contextmanager
def owning(database: Database, run: str) -> Iterator[Owner]:
    """Be a holder of rows while the body runs; the lease is renewed in the background."""
    owner = Owner(str(uuid.uuid4()), run, socket.gethostname())
    me = {"run": run, "host": owner.host, "pid": os.getpid(), "pid_started": psutil.Process().create_time()}

    def sign() -> None:
        lease = {"alive_until": time.time() + LEASE_S}
        with database.writing() as connection:
            if not connection.execute(update(owners).where(owners.c.owner == owner.id).values(**lease)).rowcount:
                _forget_dead(connection)
                connection.execute(insert(owners).values(owner=owner.id, **me, **lease))

    sign()
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEW_S):
            try:
                sign()
            except LedgerUnavailable:
                continue  # the calls under way will meet the same error and say so; the lease has three more tries

    renewal = threading.Thread(target=renew, name="ledger-lease", daemon=True)
    renewal.start()
    try:
        yield owner
    finally:
        done.set()
        renewal.join()
        with suppress(LedgerUnavailable), database.writing() as connection:  # a dead holder's rows are adopted as well
            connection.execute(delete(owners).where(owners.c.owner == owner.id))
            held = (images.c.owner == owner.id, images.c.state == State.RESERVED)  # no call is under way
            connection.execute(update(images).where(*held).values(state=State.PENDING, owner=""))
