"""The automations, on a real server: what notices a dead run, and the examples."""

import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
import yaml
from anycap_faults import hang
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, until, write_csv
from documented import documented
from http_double import Answer, Asked, HttpDouble
from prefect import flow
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.states import AwaitingRetry, Crashed, Running, Suspended
from served import REPO, Served, copy_of_repo

from flows.tasks.automations import FLOWS, NAME, SILENCE_S, crash_automation, set_up_crash_automation
from flows.tasks.suspend_event import tell_it_left

EXAMPLES = "examples/automations"


@pytest.fixture(scope="module")
def provider() -> Iterator[AnyCapServer]:
    """What the real AnyCap CLI draws against; two rows hang."""
    with AnyCapServer(faults={"#c#": [hang(300.0)], "#d#": [hang(300.0)]}) as server:
        yield server


@pytest.fixture(scope="module")
def served(prefect_server_url: str, provider: AnyCapServer, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A clone with the example's deployment."""
    clone = copy_of_repo(tmp_path_factory.mktemp("landing"))
    place = Served(clone, prefect_server_url, anycap_variables(provider, clone))
    place.make_pool()
    place.prefect(*shlex.split(documented("prefect deploy --prefect-file"))[1:])
    return place


@pytest.fixture(scope="module")
def worker(served: Served) -> Iterator[subprocess.Popen[bytes]]:
    """A worker, which the last test that takes it kills."""
    with served.worker() as started:
        yield started


def read(run: UUID) -> FlowRun:
    """A flow run as the server has it."""
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run)


def is_in(run: UUID, state: str) -> bool:
    """Whether a flow run is in the state of this name."""
    found = read(run).state
    return found is not None and found.name == state


def runs_of(deployment: str) -> list[FlowRun]:
    """The flow runs of a deployment."""
    with get_client(sync_client=True) as client:
        of_it = client.read_deployment_by_name(deployment).id
        return [run for run in client.read_flow_runs() if run.deployment_id == of_it]


@pytest.mark.usefixtures("prefect_server")
def test_the_crash_automation_is_made_once() -> None:
    """Called again it changes nothing; another figure is taken up; one that is switched off stays off."""
    with get_client(sync_client=True) as client:
        for found in client.read_automations_by_name(NAME):  # another file's `rowshot setup` may have made it
            client.delete_automation(found.id)
        assert set_up_crash_automation(3600) == "made"
        assert set_up_crash_automation(3600) == "as it was"
        (made,) = client.read_automations_by_name(NAME)
        client.pause_automation(made.id)
        assert set_up_crash_automation() == "changed"
        assert set_up_crash_automation() == "as it was"
        (kept,) = client.read_automations_by_name(NAME)
        assert (kept.id, kept.enabled, kept.trigger.within.total_seconds()) == (made.id, False, SILENCE_S)  # type: ignore[union-attr]
        client.create_automation(crash_automation())
        assert set_up_crash_automation() == "changed"
        assert len(client.read_automations_by_name(NAME)) == 1
        client.delete_automation(client.read_automations_by_name(NAME)[0].id)


def test_it_watches_all_our_flows() -> None:
    """Every flow of the house is in its list, and no other one."""
    names = {path.stem.replace("_", "-") for path in (REPO / "flows").glob("*.py") if not path.stem.startswith("_")}
    assert set(FLOWS) == names
    told = yaml.safe_load((REPO / EXAMPLES / "tell-slack-of-a-crash.yaml").read_text(encoding="utf-8"))
    assert set(told["trigger"]["match_related"]["prefect.resource.name"]) == names


@pytest.mark.usefixtures("prefect_server", "worker")
def test_a_file_that_lands_is_made_into_images(served: Served) -> None:
    """The event that the page tells starts a run of the file that it names."""
    rows = write_csv(served.clone / "landed.csv", {"a": "양말", "b": "모자"})
    line = documented("prefect event emit").replace("examples/products.csv", str(rows))
    before = {run.id for run in runs_of("generate-images/when-a-file-lands")}
    served.prefect(*shlex.split(line)[1:])
    until(lambda: len(runs_of("generate-images/when-a-file-lands")) > len(before))
    (landed,) = [run for run in runs_of("generate-images/when-a-file-lands") if run.id not in before]
    until(lambda: is_in(landed.id, "Completed"))
    assert len(by_sku(served.clone / "output/results.csv")) == 2


@pytest.fixture
def silence(request: pytest.FixtureRequest, prefect_server: str) -> Iterator[int]:  # noqa: ARG001 - it is made there
    """The automation, with the shortest patience that Prefect knows if nothing else is asked."""
    seconds: int = getattr(request, "param", 10)
    set_up_crash_automation(seconds)
    yield seconds
    with get_client(sync_client=True) as client:
        for found in client.read_automations_by_name(NAME):
            client.delete_automation(found.id)


def kill(worker: int) -> None:
    """Have a worker and its runs die at one moment, and leave the calls that are under way to themselves."""
    parent = psutil.Process(worker)
    family = [parent, *(one for one in parent.children(recursive=True) if one.name() != "anycap")]
    for one in family:
        one.suspend()
    for one in family:
        one.kill()


class Living:
    """A flow run of ours that only sends heartbeats."""

    def __init__(self, run: UUID | None = None) -> None:
        @flow(name="generate-images")
        def alive() -> None: ...

        with get_client(sync_client=True) as client:
            self.run = run or client.create_flow_run(alive, state=Running()).id
        self._next = 0.0

    def beat(self) -> None:
        """A sign of life, now and then."""
        flow = {"prefect.resource.role": "flow", "prefect.resource.name": "generate-images"}
        related = [{"prefect.resource.id": f"prefect.flow.{uuid4()}", **flow}]
        if time.monotonic() > self._next:
            self._next = time.monotonic() + 2
            of_run = {"prefect.resource.id": f"prefect.flow-run.{self.run}"}
            emit_event("prefect.flow-run.heartbeat", resource=of_run, related=related)


@pytest.mark.parametrize("silence", [25], indirect=True)
def test_a_run_that_died_with_its_worker_is_marked_crashed(
    served: Served, worker: subprocess.Popen[bytes], provider: AnyCapServer, silence: int
) -> None:
    """Nobody is left to say so, and the server notices it; one that gives signs of life is left alone. A retry goes on
    from the ledger: what was in a call is taken up, the rest is made, and nothing is bought twice.
    """
    rows = write_csv(served.clone / "doomed.csv", {name: f"#{name}#" for name in "abcdef"})
    batch = {"csv": str(rows), "output": str(served.clone / "doomed"), "generator": "anycap", "concurrency": 2}
    living = Living()
    asked = run_deployment("generate-images/when-a-file-lands", parameters={"batch": batch}, timeout=0)
    assert isinstance(asked, FlowRun)
    signs = Living(asked.id)

    def is_calling() -> bool:
        living.beat()
        signs.beat()  # its own heartbeats are minutes apart; so the silence begins with the kill
        return provider.was_asked("#c#", "#d#")

    until(is_calling)
    kill(worker.pid)

    def has_crashed() -> bool:
        living.beat()
        return is_in(asked.id, "Crashed")

    assert is_in(asked.id, "Running")
    until(has_crashed)
    assert f"no sign of life for {silence} s" in str(read(asked.id).state)
    assert is_in(living.run, "Running")

    provider.hurry.set()
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(asked.id, AwaitingRetry(), force=True)
    with served.worker("--run-once"):
        until(lambda: is_in(asked.id, "Completed"))
    assert {row["status"] for row in by_sku(served.clone / "doomed/manifest.csv").values()} == {"stored"}
    assert sorted(provider.calls.values()) == [1] * 6


@pytest.mark.parametrize("silence", [25], indirect=True)  # a busy server takes some seconds to take up an event
def test_a_suspended_run_that_has_left_is_not_taken_for_dead(silence: int) -> None:  # noqa: ARG001 - it is made there
    """A heartbeat may come after the suspension, while calls come home: the run says that it leaves, and may then be
    silent. One that didn't say so would become Crashed.
    """

    @flow(name="generate-images")
    def waits() -> None: ...

    def suspended() -> UUID:
        with get_client(sync_client=True) as client:
            deployment = client.create_deployment(client.create_flow(waits), "waits")
            run = client.create_flow_run_from_deployment(deployment, state=Running()).id
            client.set_flow_run_state(run, Suspended(timeout_seconds=3600), force=True)
        living = Living(run)
        living.beat()
        return run

    gone = suspended()
    tell_it_left(gone, "generate-images")
    silent = suspended()
    until(lambda: is_in(silent, "Crashed"))
    assert is_in(gone, "Suspended")


class Receiver(HttpDouble):
    """Where a notification arrives: a plain server in Slack's place, as Prefect's block would only write to Slack."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        super().__init__(self._answer)

    def _answer(self, asked: Asked) -> Answer:
        self.heard.append(json.loads(asked.body))
        return Answer()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """One that listens."""
    with Receiver() as listening:
        yield listening


def test_a_crash_is_told(prefect_server: str, receiver: Receiver, tmp_path: Path) -> None:
    """With the block's id in it the file makes an automation that names the run, the reason and where to look."""
    block = SlackWebhook(url=f"json://{receiver.host}")
    document = block.save("crashes", overwrite=True)
    text = (REPO / EXAMPLES / "tell-slack-of-a-crash.yaml").read_text(encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace(str(UUID(int=0)), str(document)), encoding="utf-8")
    line = documented("prefect automation create").replace(f"{EXAMPLES}/tell-slack-of-a-crash.yaml", file.name)
    Served(tmp_path, prefect_server).prefect(*shlex.split(line)[1:])

    @flow(name="generate-images")
    def doomed() -> None: ...

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(doomed, name="generate-images / a.csv", state=Running())
        client.set_flow_run_state(run.id, Crashed(message="Its machine is gone."))
        until(lambda: bool(receiver.heard))
        for made in client.read_automations_by_name("tell Slack of a crashed run"):
            client.delete_automation(made.id)
    (told,) = receiver.heard
    assert told["title"] == "generate-images / a.csv has crashed"
    assert "Its machine is gone." in told["message"]
    assert f"{prefect_server.removesuffix('/api')}/runs/flow-run/{run.id}" in told["message"]
