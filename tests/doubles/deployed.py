"""A deployment of the flow, whose runs are done in this process: by the same engine as in a worker's child."""

import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from command import environment
from prefect.client.orchestration import get_client
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry

from flows.generate_images import generate_images


@dataclass
class Deployed:
    """A deployment that no worker listens to. `folder` is where its runs are done, with these `variables`."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def start(self, **batch: Any) -> UUID:
        """Ask for a run, as the form does; it is not done yet."""
        with get_client(sync_client=True) as client:
            flow = client.create_flow_from_name(generate_images.name)
            deployment = client.create_deployment(flow_id=flow, name="in-this-process")
            return client.create_flow_run_from_deployment(deployment, parameters={"batch": batch}).id

    def work(self, run: UUID) -> State[Any]:
        """Do a run that was asked for, resumed or retried, as far as it goes; gives its state after that."""
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(run)
        # as a worker's child does: it goes away, and whoever resumes the run starts another
        with self._here(), suppress(Pause):
            run_flow(generate_images, flow_run=flow_run, return_type="state")
        return self.state(run)

    def answer(self, run: UUID, **given: Any) -> State[Any]:
        """Fill in the form of a suspended run and resume it; a worker then does it. Gives its state after that."""
        with get_client(sync_client=True) as client:
            resumed = client.resume_flow_run(run, run_input=given)
            assert str(resumed.status) == "SetStateStatus.ACCEPT", resumed
        return self.work(run)

    def retry(self, run: UUID) -> State[Any]:
        """Begin a run that has ended once more, as the UI does it; gives its state after that."""
        with get_client(sync_client=True) as client:
            answer: OrchestrationResult[Any] = client.set_flow_run_state(run, AwaitingRetry())
            assert str(answer.status) == "SetStateStatus.ACCEPT", answer
        return self.work(run)

    def state(self, run: UUID) -> State[Any]:
        """How a run stands on the server."""
        return _state_of(self.flow_run(run))

    def flow_run(self, run: UUID) -> FlowRun:
        """A run as the server has it."""
        with get_client(sync_client=True) as client:
            return client.read_flow_run(run)

    @contextmanager
    def _here(self) -> Iterator[None]:
        before = dict(os.environ)
        os.environ.update(environment(self.folder, **self.variables))
        try:
            with chdir(self.folder):
                yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _state_of(run: FlowRun) -> State[Any]:
    assert run.state is not None
    return run.state
