"""The provider's limit, held across runs and machines: a run leases its share of a global concurrency limit.

One thread a run leases slots in blocks and tells the run's `Slots` how many it has.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from threading import Event, Thread
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from blocks import ImageGenerator
from flows.batch.problems import NotStarted, Problem
from flows.batch.run import BatchRun
from flows.batch.slots import Slots
from flows.tasks.embedded_server import OWN_SERVER
from flows.tasks.final_states import this_run
from flows.tasks.limit_share import LimitShare, Log, make_demand, read_limit
from flows.tasks.run_state import UNREACHABLE

ANSWER_S = 15.0
FIRST_LOOK_S = 3.0


def limit_name(provider: str) -> str:
    """The limit that a provider's calls keep to where the settings name none."""
    return f"rowshot-{provider}"


def check_limit(named: str, generator: ImageGenerator) -> str:
    """The limit that a run keeps to; empty where only its own concurrency holds, which is said.

    Raises: NotStarted for a named limit that isn't there.
    """
    if found := find_limit(named, generator):
        with suppress(*UNREACHABLE), get_client(sync_client=True) as client:
            make_demand(client, found)  # before its shards would, all at once
        return found
    if named:
        mend = "Make it (`rowshot setup` makes rowshot-anycap, `prefect gcl create NAME --limit N` any), or name none."
        raise NotStarted([Problem(f"The Prefect server has no global concurrency limit {named!r}.", mend)])
    if not (generator.capabilities.free or OWN_SERVER.get()):
        get_run_logger().info(
            "The server has no limit %s, so other runs don't count: only this run's own concurrency holds. "
            "`rowshot setup` makes it.",
            limit_name(generator.capabilities.provider),
        )
    return ""


def find_limit(named: str, generator: ImageGenerator) -> str:
    """The limit that a run keeps to: the one it names, else the provider's own; empty where the server has it not.

    A server that doesn't answer may have it: the run then waits until it is told.
    """
    if not named and (generator.capabilities.free or OWN_SERVER.get()):
        return ""
    name = named or limit_name(generator.capabilities.provider)
    try:
        with get_client(sync_client=True) as client:
            return name if read_limit(client, name) else ""
    except UNREACHABLE as error:  # between two shards, say: a run doesn't end because the server is away for a while
        get_run_logger().warning("The server doesn't tell yet whether it has the limit %s: %r", name, error)
        return name


def limit_of(run: BatchRun, generator: ImageGenerator) -> str:
    """The limit that this run keeps to, as it was found when the run was checked."""
    return find_limit(run.request.global_limit, generator) if run.limit is None else run.limit


@contextmanager
def leased(slots: Slots, limit: str, calls: int) -> Iterator[None]:
    """Let the body make calls only in slots of this limit, of which it wants at most `calls`. No limit: no lease."""
    if not limit or not calls:
        yield
        return
    slots.allow(0)
    slots.grant(0, 0)  # or the first calls would start before it is known how many may in a minute
    looked, done = Event(), Event()
    here = copy_context()  # which server it is stands in there
    arguments = (_follow, slots, limit, min(calls, slots.limit), this_run(), get_run_logger(), looked, done)
    follower = Thread(target=here.run, args=arguments, name="limit", daemon=True)
    follower.start()
    looked.wait(FIRST_LOOK_S)  # rows that begin meanwhile would keep the server busy
    try:
        yield
    finally:
        done.set()
        follower.join(timeout=2 * ANSWER_S)
        slots.allow(slots.limit)
        slots.grant_freely()  # nobody is left who would grant a start


def _follow(slots: Slots, limit: str, calls: int, run: UUID | None, log: Log, looked: Event, done: Event) -> None:
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": ANSWER_S}) as client,
        ):
            LimitShare(slots, limit, calls, client, run, log).follow(looked, done)
    except BaseException as error:  # nobody would wake the rows that wait for slots
        slots.stop(error)
        raise
