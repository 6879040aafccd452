"""Cancel, pause, suspend and retry, as the UI does them: by a state that is set on the server."""

import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, until, write_csv
from deployed import Deployed
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Paused, Suspended
from recorded import Recorded

pytestmark = pytest.mark.usefixtures("prefect_server")
SKUS = [f"s{number}" for number in range(6)]
MANIFEST = "output/manifest.csv"


@pytest.fixture
def deployed(tmp_path: Path, anycap_server: AnyCapServer) -> Deployed:
    """A deployment that draws against the provider, with a file of six rows."""
    write_csv(tmp_path / "six.csv", SKUS)
    return Deployed(tmp_path, anycap_variables(anycap_server, tmp_path))


class Person:
    """Somebody at the UI, who does one thing after the other while a run goes on."""

    def __init__(self, api: str) -> None:
        self._api = api
        self.failed: BaseException | None = None

    def beside(self, deeds: Callable[[], None]) -> threading.Thread:
        """Do these deeds beside a run."""

        def do() -> None:
            try:
                with temporary_settings({PREFECT_API_URL: self._api}):
                    deeds()
            except BaseException as error:
                self.failed = error
                raise

        thread = threading.Thread(target=do)
        thread.start()
        return thread


def put(run: UUID, state: State) -> None:
    """Set a run's state, by the same request as the UI's."""
    with get_client(sync_client=True) as client:
        assert client.set_flow_run_state(run, state).status.value == "ACCEPT"


def statuses(folder: Path) -> list[str]:
    """How many rows stand how in the reports."""
    return sorted(row["status"] for row in by_sku(folder / MANIFEST).values())


def test_a_suspended_run_leaves_and_a_resumed_one_goes_on(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer, prefect_server: str, recorded: Recorded
) -> None:
    """Suspend: what is in flight comes home, nothing else begins, and the process leaves the run suspended, with
    reports. Resume: a process goes on from the ledger; nothing is bought twice. It says so in its log.
    """
    anycap_server.delay_s = 60.0
    run = deployed.start(csv="six.csv", generator="anycap", concurrency=2)
    person = Person(prefect_server)

    def suspend() -> None:
        until(lambda: anycap_server.counts()["calls"] >= 2)
        put(run, Suspended(timeout_seconds=300))
        until(lambda: any("Suspended: no further call" in line for line in recorded.logs(run)))
        anycap_server.hurry.set()

    beside = person.beside(suspend)
    left = deployed.work(run)
    beside.join()
    assert person.failed is None
    assert left.name == "Suspended"
    calls = anycap_server.counts()["calls"]
    assert calls < len(SKUS)
    assert anycap_server.charges.total() == calls
    assert statuses(tmp_path) == ["pending"] * (len(SKUS) - calls) + ["stored"] * calls

    anycap_server.delay_s = 0.0
    ended = deployed.answer(run)
    assert (ended.name, ended.message) == ("Completed", "6 of 6")
    assert set(anycap_server.charges.values()) == {1}


def test_a_paused_run_stands_still_and_goes_on(
    deployed: Deployed, anycap_server: AnyCapServer, prefect_server: str, recorded: Recorded
) -> None:
    """Pause: no call begins until it is resumed, in the same process; it says so in its log."""
    anycap_server.delay_s = 2.5
    run = deployed.start(csv="six.csv", generator="anycap", concurrency=1)
    person = Person(prefect_server)

    def pause_and_resume() -> None:
        until(lambda: anycap_server.counts()["calls"] >= 1)
        put(run, Paused(timeout_seconds=300))
        until(lambda: any("Paused" in line for line in recorded.logs(run)))
        until(lambda: anycap_server.downloads.total() == anycap_server.calls.total())
        anycap_server.delay_s = 0.0
        still = anycap_server.counts()["calls"]
        assert still < len(SKUS)
        put(run, State(type=StateType.RUNNING))
        until(lambda: anycap_server.counts()["calls"] > still)

    beside = person.beside(pause_and_resume)
    ended = deployed.work(run)
    beside.join()
    assert person.failed is None
    assert (ended.name, ended.message) == ("Completed", "6 of 6")
    assert set(anycap_server.charges.values()) == {1}
    until(lambda: any("Resumed: it goes on" in line for line in recorded.logs(run)))


def test_a_cancelled_run_is_taken_up_by_a_retry(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer, prefect_server: str
) -> None:
    """Cancel: what is in flight is kept, the rest stays pending; Retry buys the rest and nothing twice."""
    anycap_server.delay_s = 8.0
    run = deployed.start(csv="six.csv", generator="anycap", concurrency=2)
    person = Person(prefect_server)

    def cancel() -> None:
        until(lambda: anycap_server.counts()["calls"] >= 2)
        put(run, Cancelling())

    beside = person.beside(cancel)
    ended = deployed.work(run)
    beside.join()
    assert person.failed is None
    assert ended.type is StateType.CANCELLED
    done = anycap_server.charges.total()
    assert done < len(SKUS)
    assert str(ended.message).startswith(f"{done} of 6, {6 - done} pending. It was cancelled")
    assert statuses(tmp_path).count("stored") == done

    anycap_server.delay_s = 0.0
    again = deployed.retry(run)
    assert (again.name, again.message) == ("Completed", "6 of 6")
    assert set(anycap_server.charges.values()) == {1}


def test_a_run_that_waits_for_approval_can_be_cancelled(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer
) -> None:
    """A suspended run that is cancelled is over, with nothing bought."""
    run = deployed.start(csv="six.csv", generator="anycap", approve="before-buying")
    assert deployed.work(run).name == "Suspended"
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling())  # which the server makes Cancelled: nobody is there to end it
    assert deployed.state(run).type is StateType.CANCELLED
    assert anycap_server.calls.total() == 0
    assert not (tmp_path / MANIFEST).exists()
