"""One run's share of a limit that others keep to, too: leased in blocks, renewed, and given back as others come.

Runs that share a limit tell each other by a second limit how many calls they would make, as slots that they lease
there; each works out its share alone.
"""

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from logging import Logger, LoggerAdapter
from threading import Event
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.batch.shares import fair_share, to_give_back
from flows.batch.slots import Slots
from flows.tasks.leases import Lease, Leases
from flows.tasks.requests_per_minute import PER_MINUTE, Starts
from flows.tasks.run_state import UNREACHABLE

DEMAND = "-demand"
ROOM = 1_000_000_000  # it never binds; the server computes twice this, in 32 bits on PostgreSQL, so it is no larger
RUN = 100_000  # one run in the demand; what is below it are calls
HUNGRY_S = 1.0
CONTENT_S = 5.0
RELEASING_S = 0.2
SETTLES_S = 10.0
IDLE_S = 6.0  # a dip in what a run wants is shorter: a row that waits to be tried again
LEFT_OVER_S = 3.0
BUSY_S = 0.1  # a server on SQLite refuses with 503 what meets another write, most of all while rows begin
BUSY_TIMES = 3
NONE_S = 60.0

Log = Logger | LoggerAdapter[Any]


def read_limit(client: SyncPrefectClient, name: str) -> GlobalConcurrencyLimitResponse | None:
    """A global concurrency limit as it is now; None where there is none of this name."""
    try:
        return client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return None


def make_demand(client: SyncPrefectClient, limit: str) -> None:
    """Make the limit by which the runs on this limit tell each other what they want, where it isn't there yet."""
    if read_limit(client, limit + DEMAND) is None:
        with suppress(ObjectAlreadyExists):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=limit + DEMAND, limit=ROOM))


@dataclass(frozen=True, slots=True)
class _Others:
    """What is known of all runs on the limit, this one with them."""

    limit: int
    runs: int
    calls: int


class LimitShare:
    """Holds one run's share of a limit, as that of the others changes, and lets go of it."""

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
        self._none_since, self._told_none = self._began, False
        self._away = False

    def follow(self, looked: Event, done: Event) -> None:
        """Until it is done; then all is given back. `looked` is set once it is known how all stand."""
        look_at = 0.0
        failures = 0
        while True:
            now = time.monotonic()
            try:
                if now >= look_at:
                    look_at = now + self._look(now)
                self._let_go()
                starts_s = self._starts.top_up()
                failures, self._away = 0, False
                looked.set()
            except UNREACHABLE as error:
                failures += 1
                if failures > BUSY_TIMES:
                    self._tell_away(repr(error))
                starts_s = min(CONTENT_S, BUSY_S * 2**failures)
                look_at = now + starts_s
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
        return sum(lease.slots for lease in self._kept_leases)

    @property
    def _kept_leases(self) -> list[Lease]:
        return [lease for lease in self._leases.held if lease not in self._going]

    def _look(self, now: float) -> float:
        """See what there is, take or mark to be given back; gives the seconds until the next look."""
        if self._leases.renew():
            self._slots.allow(self._kept)
        limit = read_limit(self._client, self._name)
        if limit is None or not limit.active:  # deleted or switched off by a person, who means it
            self._going.clear()  # what is given back while a limit is off stays counted
            if limit is None:
                self._leases.held.clear()
            self._slots.allow(self._slots.limit)
            return CONTENT_S
        self._tell_if_none(now, limit)
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
            make_demand(self._client, self._name)
            self._demand.held.clear()  # a lease on a limit that wasn't there counts for nothing
            if wanted:
                self._demand.take(wanted)
            return _Others(limit, 1, mine)
        runs, calls = divmod(found.active_slots, RUN)
        return _Others(limit, max(1, runs), max(mine, calls))

    def _give_up(self, slots: int) -> None:
        """Let no new call use so many slots, and give them back as calls end."""
        kept = self._kept_leases
        self._going += [kept[place] for place in to_give_back([lease.slots for lease in kept], slots)]
        self._slots.allow(self._kept)
        self._let_go()

    def _let_go(self) -> None:
        self._going = [lease for lease in self._going if lease in self._leases.held]  # else it was lost
        for lease in sorted(self._going, key=lambda lease: lease.slots):
            if self._slots.in_flight > self._leases.slots - lease.slots:
                break
            self._leases.give_back(lease)
            self._going.remove(lease)

    def _tell_if_none(self, now: float, limit: GlobalConcurrencyLimitResponse) -> None:
        """Say so where a run waits for its first slot, and who has them all."""
        if self._kept or not self._slots.wanted:
            self._none_since, self._told_none = now, False
        elif not self._told_none and now - self._none_since > NONE_S:
            self._told_none = True
            self._log.warning(
                "No slot of %s for %.0f s, and the run waits: %.0f of %d are taken (see Concurrency on the server).",
                self._name,
                now - self._none_since,
                limit.active_slots,
                limit.limit,
            )

    def _tell_away(self, why: str) -> None:
        if not self._away:
            goes_on = f"goes on with the {self._kept} slots that it has" if self._kept else "waits for slots"
            self._log.warning("The server doesn't tell how its limit stands (%s): the run %s.", why, goes_on)
        self._away = True
