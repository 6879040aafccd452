"""Which Prefect server a command uses: the one that is configured, or one of its own."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager

import requests

# A run's story is told by the command itself; the rest is for the server's log. Before Prefect is loaded.
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from flows.batch.problems import NotStarted, Problem
from flows.tasks.embedded_server import OWN_SERVER, EmbeddedServer, ServerNotStarted, embedded_server

ANSWER_S = 30  # a small server that is busy may take ten
LAST_WORDS_S = 120
LISTENS_S = 5
_unheard: set[Future[bool]] = set()

Ready = Callable[[], AbstractContextManager[None]]


@contextmanager
def prefect_server() -> Iterator[Ready]:
    """Have a Prefect server, started without waiting for it where none is configured.

    Gives a function whose context waits until the server answers and makes Prefect use it. Raises: NotStarted.
    """
    url = get_current_settings().api.url
    if url:
        _say(f"Prefect server: {url}")
        _check(url)
        yield lambda: _telling(url)
        return
    with embedded_server() as server:
        _say("Prefect server: starting one for this run, which takes a few seconds (PREFECT_API_URL names yours).")
        yield lambda: _using(server)


def check_server() -> None:
    """Raise NotStarted unless a Prefect server is configured and answers."""
    url = get_current_settings().api.url
    if not url:
        raise _refused(
            "Only a Prefect server that is up knows its blocks, and none is configured.",
            "Start one with `prefect server start` and set PREFECT_API_URL.",
        )
    _check(url)


@contextmanager
def _using(server: EmbeddedServer) -> Iterator[None]:
    try:
        server.wait()
    except ServerNotStarted as error:
        raise NotStarted([Problem("There is no Prefect server.", str(error))]) from error
    own = OWN_SERVER.set(True)
    try:
        with temporary_settings({PREFECT_API_URL: server.url}), _telling(server.url):
            yield
    finally:
        OWN_SERVER.reset(own)


@contextmanager
def _telling(url: str) -> Iterator[None]:
    """Afterwards, wait until the server has heard all that the body had to say, as long as it is there to hear it."""
    try:
        yield
    finally:
        for worker in (APILogWorker, EventsWorker):
            heard, waiting = worker.drain_all(timeout=0)  # type: ignore[misc]
            _unheard.update(heard | waiting)
        deadline = time.monotonic() + LAST_WORDS_S
        while unheard() and time.monotonic() < deadline and _answers(url):
            wait(_unheard, timeout=LISTENS_S)


def unheard() -> bool:
    """Whether something is still to be said to a server. Prefect would try for minutes, an event after the other."""
    return any(not told.done() for told in _unheard)


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url.rstrip('/')}/health", timeout=LISTENS_S).ok
    except requests.RequestException:
        return False


def _check(url: str) -> None:
    try:
        answer = requests.get(f"{url.rstrip('/')}/health", timeout=ANSWER_S)
    except requests.RequestException as error:
        raise _refused(
            f"The Prefect server {url} doesn't answer ({type(error).__name__}).",
            "Start it with `prefect server start`. To have one for this run instead, unset PREFECT_API_URL, or if your "
            "profile names the address: `prefect profile use ephemeral`.",
        ) from error
    if not answer.ok:
        raise _refused(f"There is no Prefect server at {url}.", "PREFECT_API_URL is its address with /api at the end.")
    try:
        with get_client(sync_client=True) as client:
            client.raise_for_api_version_mismatch_once()
    except PrefectHTTPStatusError as error:
        raise _refused(
            f"The Prefect server {url} doesn't let us in ({error.response.status_code}).",
            "Set PREFECT_API_AUTH_STRING or PREFECT_API_KEY to what it takes.",
        ) from error


def _refused(what: str, mend: str) -> NotStarted:
    return NotStarted([Problem(what, mend)])


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
