"""Requests a minute: starts of calls, taken from a global concurrency limit whose slots come back with time."""

import time

from httpx import HTTPStatusError
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

from flows.batch.slots import Slots
from flows.tasks.leases import NOT_GIVEN

PER_MINUTE = "-per-minute"
MINUTE_S = 60.0
GOOD_FOR_S = 5.0  # a start that is not used by then is lost, or a pause would save starts up for a burst
ON_ITS_WAY_S = 2.0  # from a call's start to its arrival
SOONEST_S, LATEST_S = 0.25, 5.0


def burst_and_decay(per_minute: int) -> tuple[int, float]:
    """The limit and its slot decay a second that never let more than so many calls (2 or more) arrive in any 60 s.

    What arrives within a minute was taken within that minute and the few seconds for which a start is good.
    """
    burst = max(1, per_minute // 10)
    return burst, (per_minute - burst) / (MINUTE_S + GOOD_FOR_S + ON_ITS_WAY_S)


class Starts:
    """Takes starts for one run where the server has such a limit, in blocks of up to half of what there can be."""

    def __init__(self, client: SyncPrefectClient, name: str, slots: Slots) -> None:
        self._client = client
        self._name = name
        self._slots = slots
        self._look_at = 0.0
        self._is_first = True

    def top_up(self) -> float:
        """Take starts if some are needed; gives the seconds until that is to be looked at again."""
        now = time.monotonic()
        if now < self._look_at:
            return self._look_at - now
        wait_s = self._top_up()
        self._look_at = now + wait_s
        return wait_s

    def _top_up(self) -> float:
        try:
            limit = self._client.read_global_concurrency_limit_by_name(self._name)
        except ObjectNotFound:
            self._slots.grant_freely()
            return MINUTE_S
        if not limit.active or not limit.slot_decay_per_second:
            self._slots.grant_freely()
            return MINUTE_S
        block = max(1, limit.limit // 2)
        wait_s = min(LATEST_S, max(SOONEST_S, block / limit.slot_decay_per_second / 2))
        wanted = self._is_first or self._slots.wanted > self._slots.in_flight  # at first its rows are on their way
        free = limit.limit - limit.active_slots
        # A refused request would cost what has come back since the last one: so only what is there is asked for.
        starts = min(free, block) if wanted and self._slots.starts_left < block and free >= max(1, block // 2) else 0
        if starts:
            try:
                self._client.increment_concurrency_slots([self._name], starts, "rate_limit")
            except HTTPStatusError as error:
                if error.response.status_code not in NOT_GIVEN:
                    raise
                starts = 0
        self._is_first = False
        self._slots.grant(starts, GOOD_FOR_S)
        return wait_s
