import os
import subprocess
import sys
import time

import psutil
import pytest
from small_batch import SmallBatch, dead_process, put_owner
from sqlalchemy import select, update

from flows.batch import owners as owners_module
from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import owners
from flows.batch.owners import Owner, is_alive, process_lives


@pytest.fixture
def ledger(shop: SmallBatch) -> Ledger:
    """A ledger."""
    return shop.ledger()


def alive(ledger: Ledger, owner: str) -> bool:
    """Whether the ledger takes this holder for alive."""
    with ledger._database.reading() as connection:
        return is_alive(connection, owner)


def test_a_process_is_known_by_its_pid_and_its_start() -> None:
    """A pid alone proves nothing: it may be another process's by now."""
    mine = psutil.Process().create_time()
    assert process_lives(os.getpid(), mine)
    assert process_lives(os.getpid(), mine + 1)
    assert not process_lives(os.getpid(), mine - 10)
    assert not process_lives(*dead_process())


def test_a_process_that_ended_and_was_not_waited_for_is_dead() -> None:
    """A zombie works on nothing any more."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        found = psutil.Process(child.pid)
        started = found.create_time()
        assert process_lives(child.pid, started)
        child.stdin.close()
        while found.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert not process_lives(child.pid, started)


def test_a_holder_lives_while_its_body_runs(ledger: Ledger) -> None:
    """From the first line of the body to its end, and after an error too."""
    with ledger.owning("run 1") as owner:
        assert alive(ledger, owner.id)
        with ledger.owning("run 1") as second:
            assert second.id != owner.id
    assert not alive(ledger, owner.id)
    with pytest.raises(ZeroDivisionError), ledger.owning("run 2") as third:
        _ = 1 / 0
    assert not alive(ledger, third.id)


def test_nobody_is_not_alive(ledger: Ledger) -> None:
    """An empty or unknown name holds nothing."""
    assert not alive(ledger, "")
    assert not alive(ledger, "unknown")


def test_a_dead_process_of_this_machine_is_dead_at_once(ledger: Ledger) -> None:
    """Here nobody waits for a lease to run out: the process is looked at."""
    with ledger.owning("run 1") as owner:
        pid, started = dead_process()
        put_owner(ledger, Owner("gone", "run 0", owner.host), pid=pid, started=started, alive_until=time.time() + 60)
        put_owner(ledger, Owner("slow", "run 0", owner.host), pid=os.getpid(), started=psutil.Process().create_time())
        assert not alive(ledger, "gone")
        assert alive(ledger, "slow"), "a lease that ran out says nothing of a process that is seen to live"


def test_elsewhere_the_lease_tells(ledger: Ledger) -> None:
    """Of another machine's holder only the lease is known, whatever its pid means here."""
    pid, started = dead_process()
    put_owner(ledger, Owner("far", "r", "elsewhere"), pid=pid, started=started, alive_until=time.time() + 60)
    put_owner(ledger, Owner("late", "r", "elsewhere"), pid=os.getpid(), started=0.0, alive_until=time.time() - 1)
    assert alive(ledger, "far")
    assert not alive(ledger, "late")


def test_the_lease_is_renewed_while_the_body_runs(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long run stays alive for the others."""
    monkeypatch.setattr(owners_module, "RENEW_S", 0.02)

    def lease() -> float:
        with ledger._database.reading() as connection:
            return float(connection.execute(select(owners.c.alive_until)).scalar_one())

    with ledger.owning("run 1"):
        with ledger._database.writing() as connection:
            connection.execute(update(owners).values(alive_until=1.0))
        deadline = time.monotonic() + 10
        while lease() < time.time():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert lease() > time.time() + owners_module.LEASE_S / 2
