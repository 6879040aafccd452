"""Slots of one global concurrency limit, leased for a run in blocks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from uuid import UUID

from httpx import HTTPStatusError
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import ConcurrencyLeaseHolder

from flows.batch.shares import in_blocks

LEASE_S = 60.0  # the shortest that Prefect gives: after a hard kill slots come back when it has run out
RENEW_S = 20.0  # so that two renewals may fail
NOT_GIVEN = {HTTPStatus.LOCKED, HTTPStatus.UNPROCESSABLE_ENTITY}  # taken by others; more than the whole limit
GONE = {HTTPStatus.GONE, HTTPStatus.NOT_FOUND}


@dataclass(slots=True)
class Lease:
    """A block of slots; `renewed` is when its last lease was asked for, by the monotonic clock."""

    id: UUID
    slots: int
    renewed: float


class Leases:
    """What a run holds of the limit of this name. Raises what the client raises where the server doesn't answer."""

    def __init__(self, client: SyncPrefectClient, name: str, flow_run: UUID | None) -> None:
        self.held: list[Lease] = []
        self._client = client
        self._name = name
        self._holder = ConcurrencyLeaseHolder(type="flow_run", id=flow_run) if flow_run else None

    @property
    def slots(self) -> int:
        """How many slots are held."""
        return sum(lease.slots for lease in self.held)

    def take(self, slots: int) -> int:
        """Take one block of so many slots if they are free; gives how many were taken: all or none."""
        asked = time.monotonic()
        try:
            answer = self._client.increment_concurrency_slots_with_lease(
                names=[self._name], slots=slots, mode="concurrency", lease_duration=LEASE_S, holder=self._holder
            )
        except HTTPStatusError as error:
            if error.response.status_code in NOT_GIVEN:
                return 0
            raise
        self.held.append(Lease(UUID(answer.json()["lease_id"]), slots, asked))
        return slots

    def take_up_to(self, slots: int) -> int:
        """Take so many slots in blocks, or as many of them as are free; gives how many were taken."""
        taken = 0
        for block in in_blocks(slots):
            size = block
            while size and not self.take(size):
                size //= 2
            taken += size
            if size < block:
                break
        return taken

    def give_back(self, lease: Lease) -> None:
        """Give one block back."""
        self._client.release_concurrency_slots_with_lease(lease.id)
        self.held.remove(lease)

    def renew(self) -> Sequence[Lease]:
        """Renew what is due; gives the blocks that are lost and held no more."""
        lost = []
        for lease in list(self.held):
            asked = time.monotonic()
            if asked - lease.renewed < RENEW_S:
                continue
            try:
                self._client.renew_concurrency_lease(lease.id, LEASE_S)
                lease.renewed = asked
            except HTTPStatusError as error:
                if error.response.status_code not in GONE:
                    raise
                if asked - lease.renewed < LEASE_S:  # it had not run out: a server that was restarted has forgotten it,
                    self._forgotten(lease, asked)  # and goes on counting its slots for ever
                self.held.remove(lease)
                lost.append(lease)
        return lost

    def _forgotten(self, lease: Lease, now: float) -> None:
        held_s = max(0.1, now - lease.renewed)
        self._client.release_concurrency_slots([self._name], lease.slots, held_s)
