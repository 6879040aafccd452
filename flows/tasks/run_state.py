"""How a flow run stands on the server, where somebody may have cancelled, paused or suspended it."""

from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled

# What a server raises that can't be asked now, or that refuses.
UNREACHABLE = (httpx.HTTPError, PrefectException)


def state_on_server(flow_run: UUID | None) -> State[Any] | None:
    """The state of this run; None where that can't be asked now."""
    if flow_run is None:
        return None
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        return read_state(client, flow_run)


def read_state(client: SyncPrefectClient, flow_run: UUID) -> State[Any] | None:
    """As above, with a client that is there already. A run that was deleted counts as cancelled."""
    try:
        return client.read_flow_run(flow_run).state
    except ObjectNotFound:
        return Cancelled(message="It was deleted.")
    except UNREACHABLE:
        return None


def is_cancelled(state: State[Any] | None) -> bool:
    """Whether somebody has cancelled the run."""
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def is_suspended(state: State[Any] | None) -> bool:
    """Whether somebody has suspended the run: its process is to go away, and resuming begins it anew."""
    return state is not None and state.is_paused() and bool(state.state_details.pause_reschedule)


def is_paused(state: State[Any] | None) -> bool:
    """Whether somebody has paused the run: its process stays, and waits."""
    return state is not None and state.is_paused() and not is_suspended(state)
