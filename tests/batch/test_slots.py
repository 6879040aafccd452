import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from flows.batch.slots import Call, RunStopped, Slots

SHORT_S = 0.15


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_never_more_at_once_than_the_limit_and_as_many_as_it_lets() -> None:
    """The limit is kept, and used."""
    slots = Slots(3)
    lock = threading.Lock()
    now = 0
    most: list[int] = []

    def call(_number: int) -> None:
        nonlocal now
        with slots.hold():
            with lock:
                now += 1
                most.append(now)
            time.sleep(0.005)
            with lock:
                now -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(call, range(60)))
    assert max(most) == 3
    assert len(most) == 60


def test_a_slot_comes_back_after_an_error() -> None:
    """A call that raises gives its slot up."""
    slots = Slots(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), slots.hold():
            _ = 1 / 0
    with slots.hold():
        pass


def test_a_pause_holds_for_all_and_ends() -> None:
    """While a pause lasts nobody begins, however many slots are free; after it all of them are used."""
    slots = Slots(4)
    began: list[float] = []

    def call(_number: int) -> None:
        with slots.hold():
            began.append(time.monotonic())
            time.sleep(0.01)

    paused = time.monotonic()
    slots.pause(SHORT_S)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    assert len(began) == 8
    assert min(began) - paused >= SHORT_S
    assert max(began) - paused < SHORT_S + 5


def test_calls_under_way_go_on_in_a_pause() -> None:
    """A pause is for what begins: who holds a slot is not disturbed."""
    slots = Slots(2)
    with slots.hold():
        slots.pause(10)
    assert slots.stopped is None


def test_the_longer_pause_counts() -> None:
    """A second, shorter word of the provider does not cut the first one short."""
    slots = Slots(1)
    began = time.monotonic()
    slots.pause(SHORT_S)
    slots.pause(0)
    with slots.hold():
        assert time.monotonic() - began >= SHORT_S


def test_a_pause_asked_for_meanwhile_holds_for_those_who_wait() -> None:
    """Who waits for a slot waits for the pause too that its holder asked for."""
    slots = Slots(1)
    began: list[float] = []

    def call() -> None:
        with slots.hold():
            began.append(time.monotonic())

    waiter = threading.Thread(target=call)
    with slots.hold():
        waiter.start()
        time.sleep(0.02)
        slots.pause(SHORT_S)
        paused = time.monotonic()
    waiter.join(10)
    assert began[0] - paused >= SHORT_S * 0.99


def test_a_stop_reaches_those_who_wait_and_those_who_come() -> None:
    """From a stop on nobody begins, and the first reason given is the one that is told."""
    slots = Slots(1)
    told: list[BaseException] = []

    def call() -> None:
        try:
            with slots.hold():
                told.append(AssertionError("it began"))
        except RunStopped as stopped:
            told.append(stopped)

    waiters = [threading.Thread(target=call) for _ in range(3)]
    reason = ValueError("no credit")
    with slots.hold():
        for waiter in waiters:
            waiter.start()
        time.sleep(0.02)
        slots.stop(reason)
        slots.stop(ValueError("another"))
        for waiter in waiters:
            waiter.join(10)
    call()
    assert [str(one) for one in told] == ["no credit"] * 4
    assert all(isinstance(one, RunStopped) and one.__cause__ is reason for one in told)
    assert slots.stopped is reason


def test_a_stop_ends_a_pause() -> None:
    """Nobody sits out a long pause of a run that is ending."""
    slots = Slots(1)
    slots.pause(60)
    done = threading.Event()

    def call() -> None:
        with pytest.raises(RunStopped), slots.hold():
            pass
        done.set()

    waiter = threading.Thread(target=call)
    waiter.start()
    time.sleep(0.02)
    slots.stop(ValueError("no credit"))
    assert done.wait(10)
    waiter.join()


def test_no_waiter_is_forgotten_after_pauses() -> None:
    """Through many pauses every slot is used again and every waiter gets its turn."""
    slots = Slots(2)
    done: list[int] = []

    def call(number: int) -> None:
        with slots.hold():
            if number % 5 == 0:
                slots.pause(0.005)
            done.append(number)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(100)))
    assert sorted(done) == list(range(100))
    until(lambda: slots.in_flight == 0)


def holding(
    slots: Slots, threads: int, begun: list[float] | None = None
) -> tuple[list[threading.Thread], threading.Semaphore]:
    """Threads that each hold a slot until the semaphore lets one of them go, and then ask for the next.

    `begun` is told when each slot was had.
    """
    go = threading.Semaphore(0)
    moments = [] if begun is None else begun

    def calls() -> None:
        try:
            while True:
                with slots.hold():
                    moments.append(time.monotonic())
                    go.acquire()
        except RunStopped:
            return

    some = [threading.Thread(target=calls) for _ in range(threads)]
    for thread in some:
        thread.start()
    return some, go


def end(slots: Slots, threads: list[threading.Thread], go: threading.Semaphore) -> None:
    """Let them all come home."""
    slots.stop(ValueError("over"))
    go.release(1000)
    for thread in threads:
        thread.join(10)


def test_what_is_allowed_may_change_while_calls_are_in_flight() -> None:
    """Less is kept to as calls end, more is used at once, and never more than the limit."""
    slots = Slots(6)
    slots.allow(0)
    threads, go = holding(slots, 12)
    try:
        until(lambda: slots.wanted == 6)
        assert slots.in_flight == 0
        slots.allow(4)
        until(lambda: slots.in_flight == 4)
        slots.allow(2)
        assert slots.in_flight == 4
        go.release(2)
        until(lambda: slots.in_flight == 2)
        go.release(5)
        until(lambda: slots.in_flight == 2 and slots.wanted == 6)
        slots.allow(100)
        until(lambda: slots.in_flight == 6)
    finally:
        end(slots, threads, go)
    assert (slots.in_flight, slots.wanted) == (0, 0)


def test_each_start_needs_a_grant_once_there_are_any() -> None:
    """So many calls begin as were granted, however many slots are free; without grants all may begin again."""
    slots = Slots(8)
    slots.grant(0, 60)
    threads, go = holding(slots, 8)
    try:
        slots.grant(3, 60)
        until(lambda: slots.in_flight == 3)
        assert slots.starts_left == 0
        slots.grant(1, 60)
        until(lambda: slots.in_flight == 4)
        slots.grant_freely()
        until(lambda: slots.in_flight == 8)
    finally:
        end(slots, threads, go)


def test_a_grant_that_is_not_used_runs_out() -> None:
    """Starts can't be saved up for a burst."""
    slots = Slots(2)
    slots.grant(2, SHORT_S)
    assert slots.starts_left == 2
    until(lambda: slots.starts_left == 0)
    began = threading.Event()

    def call() -> None:
        with slots.hold():
            began.set()

    caller = threading.Thread(target=call)
    caller.start()
    assert not began.wait(SHORT_S)
    slots.grant(1, 60)
    assert began.wait(10)
    caller.join(10)


def test_a_refusal_pauses_and_narrows_the_pool() -> None:
    """After a refusal nobody begins for as long as the provider said, and then fewer are in flight than before."""
    slots = Slots(8)
    begun: list[float] = []
    threads, go = holding(slots, 7, begun)
    try:
        until(lambda: len(begun) == 7)
        with slots.hold() as call:
            refused = time.monotonic()
            slots.refused(call, SHORT_S)
        go.release(7)
        until(lambda: len(begun) == 13)  # nine tenths of the seven that were taken
        assert min(begun[7:]) - refused >= SHORT_S
        assert slots.in_flight == 6
    finally:
        end(slots, threads, go)


def test_answers_of_a_full_pool_widen_it_again() -> None:
    """Those who wait are let in as the pool gets wider."""
    slots = Slots(4)
    threads, go = holding(slots, 8)
    try:
        until(lambda: slots.in_flight == 4)
        go.release(1)
        until(lambda: slots.in_flight == 4)
        slots.refused(Call(0), 0)
        assert slots.in_flight == 4
        go.release(4)
        until(lambda: slots.in_flight == 2)
        for _ in range(200):
            slots.answered()
        until(lambda: slots.in_flight == 3)
    finally:
        end(slots, threads, go)
