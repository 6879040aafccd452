"""Ending a run from outside: Ctrl-C, SIGTERM, or a cancellation that so far only the server knows of."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from queue import SimpleQueue
from types import FrameType
from typing import Any
from uuid import UUID

from prefect import Flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled

from flows.batch.slots import RunStopped, Slots
from flows.tasks.run_state import is_cancelled, is_paused, is_suspended, read_state

GRACE_S = 20.0  # a worker's runner kills 30 s after its SIGTERM, and the reports are still to be written
ASK_EVERY_S = 2.0
PAUSED_S = 3 * ASK_EVERY_S
IMPATIENT_S = 3.0
STOPPED_EARLY = 3

_GOES_ON = "Retry, or the same command, goes on from here."
_REASONS = {
    signal.SIGINT: f"It was interrupted. {_GOES_ON}",
    signal.SIGTERM: f"It was told to end. {_GOES_ON}",
}
_CANCELLED = f"It was cancelled on the server. {_GOES_ON}"
SUSPENDED = "It was suspended on the server; Resume goes on from here."
_PAUSED_TOO_LONG = "It was paused on the server, and nobody resumed it in time; a retry goes on from here."
_DONE = ""
Handler = Callable[[int, FrameType | None], Any] | int | None


@contextmanager
def stoppable(slots: Slots, flow_run: UUID | None, part_of: UUID | None = None) -> Iterator[None]:
    """End the run of the body in good order when somebody asks for it. A part is paused with the whole, too.

    No call starts any more, and those in flight have 20 s to come home; a second Ctrl-C waits for nothing.
    """
    asked: SimpleQueue[str] = SimpleQueue()  # a signal's handler may put into it whatever was under way
    done = threading.Event()
    threads = [threading.Thread(target=_obey, args=(asked, slots), name="stop", daemon=True)]
    if flow_run is not None:
        ask_server = (copy_context().run, (_watch, flow_run, part_of, slots, asked, done))
        threads.append(threading.Thread(target=ask_server[0], args=ask_server[1], name="server-watch", daemon=True))
    for thread in threads:
        thread.start()
    before = _listen(asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            if number != signal.SIGTERM or not slots.interrupted:  # while the end is told, a second one changes nothing
                signal.signal(number, handler)
        done.set()
        asked.put(_DONE)
        threads[0].join()


def cancelled_if_interrupted(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - a hook is called so
    """A hook for crashed runs: one that was ended before it had begun, or when all was done, was cancelled."""
    if isinstance(state.data, KeyboardInterrupt | TerminationSignal):
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelled(message=state.message), force=True)


def _listen(asked: SimpleQueue[str]) -> dict[signal.Signals, Handler]:
    """Have both signals put their reason into the queue; gives their former handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}

    def put(number: int, _frame: FrameType | None) -> None:
        asked.put(_REASONS[signal.Signals(number)])

    return {number: signal.signal(number, put) for number in _REASONS}


def _obey(asked: SimpleQueue[str], slots: Slots) -> None:
    interrupts = 0
    while reason := asked.get():
        first = not slots.interrupted
        slots.interrupt(reason, GRACE_S)
        interrupts += reason == _REASONS[signal.SIGINT]
        if interrupts > 1:
            slots.left.set()
            impatient = threading.Timer(IMPATIENT_S if interrupts == 2 else 0, os._exit, (STOPPED_EARLY,))  # noqa: PLR2004 - the second
            impatient.daemon = True
            impatient.start()
        elif first:
            sys.stderr.write(
                f"\nStopping: calls in flight have {GRACE_S:.0f} s to come home; later ones are taken up by the next "
                "run. Ctrl-C again leaves at once.\n"
            )
            sys.stderr.flush()


def _watch(flow_run: UUID, part_of: UUID | None, slots: Slots, asked: SimpleQueue[str], done: threading.Event) -> None:
    """Ask the server now and then: nobody tells a run that no worker has started, nor one that is paused."""
    log = get_run_logger()
    paused = False
    # One client for all the asking: making one costs as much as seven rows do.
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        while not done.wait(ASK_EVERY_S):
            state = read_state(client, flow_run)
            whole = read_state(client, part_of) if part_of else state
            if is_cancelled(state):
                asked.put(_CANCELLED)
                return
            if state is None or (paused and whole is None):
                if paused:  # it stays so until the server says otherwise
                    slots.pause(PAUSED_S)
                continue
            if is_suspended(state):
                log.info("Suspended: no further call starts, those in flight come home, and then it leaves.")
                slots.stop(RunStopped(SUSPENDED))
                return
            if waits := is_paused(state) or is_paused(whole):
                slots.pause(PAUSED_S)  # again and again, so that it ends by itself
                if not paused:
                    log.info("Paused: no call starts until it is resumed; those in flight come home.")
            elif paused and (state.is_final() or is_cancelled(whole) or (whole is not None and whole.is_final())):
                asked.put(_PAUSED_TOO_LONG)
                return
            elif paused:
                log.info("Resumed: it goes on.")
            paused = waits
