"""The provider's limit, held across runs and machines: a run leases its share of a global concurrency limit.

One thread a run leases slots in blocks and tells the run's `Slots` how many it has. Runs that share a limit tell each
other by a second limit how many calls they would make, as slots that they lease there; each works out its share alone.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from logging import Logger, LoggerAdapter
from threading import Event, Thread
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from blocks import ImageGenerator
from flows.batch.problems import NotStarted, Problem
from flows.batch.shares import fair_share, to_give_back
from flows.batch.slots import Slots
from flows.tasks.embedded_server import OWN_SERVER
from flows.tasks.ending import this_run
from flows.tasks.leases import Lease, Leases
from flows.tasks.starts import PER_MINUTE, Starts
from flows.tasks.stopping import UNREACHABLE

DEMAND = "-demand"
ROOM = 1_000_000_000  # the demand's own limit, which never binds; the server doubles it, and on PostgreSQL in 32 bits
RUN = 100_000  # one run in the demand; what is below it are calls
HUNGRY_S = 1.0
CONTENT_S = 5.0
RELEASING_S = 0.2
SETTLES_S = 10.0
IDLE_S = 6.0  # a dip in what a run wants is shorter: a row that waits to be tried again
LEFT_OVER_S = 3.0
ANSWER_S = 15.0

Log = Logger | LoggerAdapter[Any]


def limit_name(provider: str) -> str:
    """The limit that a provider's calls keep to where the settings name none."""
    return f"rowshot-{provider}"


def check_limit(named: str, generator: ImageGenerator) -> None:
    """Say so where only the run's own concurrency holds. Raises: NotStarted for a named limit that isn't there."""
    if find_limit(named, generator):
        return
    if named:
        mend = "Make it (`rowshot setup` makes rowshot-anycap, `prefect gcl create NAME --limit N` any), or name none."
        raise NotStarted([Problem(f"The Prefect server has no global concurrency limit {named!r}.", mend)])
    if not (generator.capabilities.free or OWN_SERVER.get()):
        get_run_logger().info(
            "The server has no limit %s, so other runs don't count: only this run's own concurrency holds. "
            "`rowshot setup` makes it.",
            limit_name(generator.capabilities.provider),
        )


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


@contextmanager
def leased(slots: Slots, limit: str, calls: int) -> Iterator[None]:
    """Let the body make calls only in slots of this limit, of which it wants at most `calls`. No limit: no lease."""
    if not limit or not calls:
        yield
        return
    slots.allow(0)
    slots.grant(0, 0)  # or the first calls would start before it is known how many may in a minute
    done = Event()
    here = copy_context()  # which server it is stands in there
    arguments = (_follow, slots, limit, min(calls, slots.limit), this_run(), get_run_logger(), done)
    follower = Thread(target=here.run, args=arguments, name="limit", daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join(timeout=2 * ANSWER_S)
        slots.allow(slots.limit)
        slots.grant_freely()  # nobody is left who would grant a start


def read_limit(client: SyncPrefectClient, name: str) -> GlobalConcurrencyLimitResponse | None:
    """A global concurrency limit as it is now; None where there is none of this name."""
    try:
        return client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return None


def _follow(slots: Slots, limit: str, calls: int, run: UUID | None, log: Log, done: Event) -> None:
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": ANSWER_S}) as client,
        ):
            _Following(slots, limit, calls, client, run, log).follow(done)
    except BaseException as error:  # nobody would wake the rows that wait for slots
        slots.stop(error)
        raise


@dataclass(frozen=True, slots=True)
class _Others:
    """What is known of all runs on the limit, this one with them."""

    limit: int
    runs: int
    calls: int


class _Following:
    """Holds one run's share, and lets go of it."""

    def __init__(
        self, slots: Slots, limit: str, calls: int, client: SyncPrefectClient, run: UUID | None, log: Log
    ) -> None:
        self._slots, self._name, self._client, self._log = slots, limit, client, log
        self._leases = Leases(client, limit, run)
        self._demand = Leases(client, limit + DEMAND, run)
        self._starts = Starts(client, limit + PER_MINUTE, slots)
        self._going: list[Lease] = []
        self._began = time.monotonic()
        self._wanted = deque([(self._began + SETTLES_S, calls)])
        self._others = _Others(0, 0, 0)
        self._extra = 0
        self._free_since: float | None = None
        self._away = False

    def follow(self, done: Event) -> None:
        """Until it is done; then all is given back."""
        look_at = 0.0
        while True:
            now = time.monotonic()
            try:
                if now >= look_at:
                    look_at = now + self._look(now)
                    self._told_away(away=False)
                self._let_go()
                starts_s = self._starts.top_up()
            except UNREACHABLE as error:
                self._told_away(away=True, why=repr(error))
                look_at, starts_s = now + CONTENT_S, CONTENT_S
            if done.wait(
                min(RELEASING_S if self._going else CONTENT_S, starts_s, max(0.0, look_at - time.monotonic()))
            ):
                break
        if self._slots.left.is_set():
            return  # calls that were left under way are still at the provider: their slots come back by themselves
        try:
            for leases in (self._leases, self._demand):
                for lease in list(leases.held):
                    leases.give_back(lease)
        except UNREACHABLE as error:
            self._log.info("The limit's slots come back within two minutes: the server doesn't answer (%s).", error)

    @property
    def _kept(self) -> int:
        return self._leases.slots - sum(lease.slots for lease in self._going)

    def _look(self, now: float) -> float:
        """See what there is, take or mark to be given back; gives the seconds until the next look."""
        lost = {id(lease) for lease in self._leases.renew()}
        if lost:
            self._going = [lease for lease in self._going if id(lease) not in lost]
            self._slots.allow(self._kept)
        limit = read_limit(self._client, self._name)
        if limit is None or not limit.active:  # deleted or switched off by a person, who means it
            self._going.clear()  # what is given back while a limit is off stays counted
            if limit is None:
                self._leases.held.clear()
            self._slots.allow(self._slots.limit)
            return CONTENT_S
        if limit.limit < 1:  # a person holds all runs; the server can give nothing back to such a limit
            self._going.clear()
            self._slots.allow(0)
            return CONTENT_S
        mine = self._mine(now)
        others = self._tell(limit.limit, mine)
        if others != self._others:
            self._others, self._extra, self._free_since = others, 0, None
        share = fair_share(limit.limit, mine, others.runs, others.calls)
        target = min(mine, share + self._extra)
        free = limit.limit - limit.active_slots
        if self._kept > target:
            self._give_up(self._kept - target)
        elif self._kept < target and free > 0:
            self._take(min(target - self._kept, free))
        self._take_what_is_left(now, mine if self._kept >= target else 0, free)
        self._slots.allow(self._kept)
        hungry = self._kept < target or self._free_since is not None or now - self._began < SETTLES_S
        return HUNGRY_S if hungry else CONTENT_S

    def _take(self, slots: int) -> int:
        taken = self._leases.take_up_to(slots)
        if taken:
            self._slots.allow(self._kept)
        return taken

    def _take_what_is_left(self, now: float, mine: int, free: int) -> None:
        """Take slots that are in nobody's share, or that their run doesn't take: once they were free for a while."""
        if free <= 0 or self._kept >= mine:
            self._free_since = None
        elif self._free_since is None:
            self._free_since = now
        elif now - self._free_since >= LEFT_OVER_S:
            self._extra += self._take(min(free, mine - self._kept))
            self._free_since = None

    def _mine(self, now: float) -> int:
        """How many calls this run would make at once, without short dips."""
        self._wanted.append((now + IDLE_S, self._slots.wanted))
        while self._wanted[0][0] < now:
            self._wanted.popleft()
        return max(wanted for _, wanted in self._wanted)

    def _tell(self, limit: int, mine: int) -> _Others:
        """Tell the other runs, and hear of them."""
        self._demand.renew()
        wanted = RUN + mine if mine else 0
        if self._demand.slots != wanted:
            for lease in list(self._demand.held):
                self._demand.give_back(lease)
            if wanted:
                self._demand.take(wanted)
        found = read_limit(self._client, self._name + DEMAND)
        if found is None:
            new = GlobalConcurrencyLimitCreate(name=self._name + DEMAND, limit=ROOM)
            with suppress(ObjectAlreadyExists):
                self._client.create_global_concurrency_limit(new)
            self._demand.held.clear()  # a lease on a limit that wasn't there counts for nothing
            if wanted:
                self._demand.take(wanted)
            return _Others(limit, 1, mine)
        runs, calls = divmod(found.active_slots, RUN)
        return _Others(limit, max(1, runs), max(mine, calls))

    def _give_up(self, slots: int) -> None:
        """Let no new call use so many slots, and give them back as calls end."""
        kept = [lease for lease in self._leases.held if lease not in self._going]
        self._going += [kept[place] for place in to_give_back([lease.slots for lease in kept], slots)]
        self._slots.allow(self._kept)
        self._let_go()

    def _let_go(self) -> None:
        for lease in sorted(self._going, key=lambda lease: lease.slots):
            if self._slots.in_flight > self._leases.slots - lease.slots:
                break
            self._leases.give_back(lease)
            self._going.remove(lease)

    def _told_away(self, *, away: bool, why: str = "") -> None:
        if away and not self._away:
            goes_on = f"goes on with the {self._kept} slots that it has" if self._kept else "waits for slots"
            self._log.warning("The server doesn't tell how its limit stands (%s): the run %s.", why, goes_on)
        self._away = away
