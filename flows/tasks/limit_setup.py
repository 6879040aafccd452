"""Makes the limits that all runs share on the Prefect server. Safe to run again."""

from collections.abc import Iterator, Mapping

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate

from flows.tasks.block_setup import CHANGED, MADE, SAME
from flows.tasks.limit_share import read_limit
from flows.tasks.limits import limit_name
from flows.tasks.requests_per_minute import PER_MINUTE, burst_and_decay

AT_ONCE = 64
NEARLY = 1e-6


def set_up_limits(provider: str, given: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Make the limits of a provider's calls; gives (name, what was done).

    `given` has what the `.env` says: `at_once`, `per_minute`, or neither. What it leaves out stays as a person has set
    it on the server; where there is no limit for calls at once, 64 is made.
    """
    name = limit_name(provider)
    with get_client(sync_client=True) as client:
        found = read_limit(client, name)
        at_once = given.get("at_once") or (found.limit if found else AT_ONCE)
        yield name, f"{_save(client, name, at_once, 0.0)} ({at_once} calls at once)"
        if per_minute := given.get("per_minute"):
            done = _save(client, name + PER_MINUTE, *burst_and_decay(per_minute))
            yield name + PER_MINUTE, f"{done} ({per_minute} calls a minute)"


def _save(client: SyncPrefectClient, name: str, limit: int, decay: float) -> str:
    found = read_limit(client, name)
    if found is None:
        new = GlobalConcurrencyLimitCreate(name=name, limit=limit, slot_decay_per_second=decay)
        client.create_global_concurrency_limit(new)
        return MADE
    if found.limit == limit and abs(found.slot_decay_per_second - decay) < NEARLY:
        return SAME
    client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=limit, slot_decay_per_second=decay))
    return CHANGED
