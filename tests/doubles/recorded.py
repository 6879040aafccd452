"""What a real Prefect server has recorded of runs, by its API."""

import time
from collections import Counter
from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    FlowRunFilterName,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun, TaskRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

PAGE = 200
PATIENCE_S = 120.0
POLL_S = 0.3


class Recorded:
    """Reads from the server at this API address. A run's records come in a second or two after it.

    Flow runs that were due before `since` are not seen: they may be another test's, of the same name.
    """

    def __init__(self, api: str, since: datetime | None = None) -> None:
        self._api = api
        self._since = since

    def flow_runs(self, name: str) -> list[FlowRun]:
        """The flow runs of this name, the newest first."""
        asked = FlowRunFilter(
            name=FlowRunFilterName(any_=[name]),
            expected_start_time=FlowRunFilterExpectedStartTime(after_=self._since) if self._since else None,
        )
        with self._client() as client:
            return client.read_flow_runs(flow_run_filter=asked, sort=FlowRunSort.START_TIME_DESC)

    def task_runs(self, flow_run: UUID, expected: int) -> list[TaskRun]:
        """The task runs of a flow run, all pages, once as many as expected have ended or patience is over."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = self._task_runs(flow_run)
            ended = sum(1 for run in found if run.state is not None and run.state.is_final())
            if ended >= expected or time.monotonic() > deadline:
                return found
            time.sleep(POLL_S)

    def states(self, flow_run: UUID, expected: int) -> Counter[str]:
        """How many task runs of a flow run ended in which state."""
        return Counter(run.state_name or "" for run in self.task_runs(flow_run, expected))

    def artifacts(self, flow_run: UUID) -> dict[str, Artifact]:
        """The artifacts of a flow run, by their key."""
        with self._client() as client:
            found = client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
            )
        return {artifact.key or "": artifact for artifact in found}

    def logs(self, flow_run: UUID) -> list[str]:
        """What a flow run and its task runs have logged."""
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run]))
        with self._client() as client:
            return [log.message for log in client.read_logs(log_filter=of_run, limit=PAGE)]

    def deployment(self, name: str) -> DeploymentResponse:
        """The deployment of this name, `flow/deployment`."""
        with self._client() as client:
            return client.read_deployment_by_name(name)

    def _task_runs(self, flow_run: UUID) -> list[TaskRun]:
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
        found: list[TaskRun] = []
        with self._client() as client:
            while True:
                page = client.read_task_runs(flow_run_filter=of_run, limit=PAGE, offset=len(found))
                found += page
                if len(page) < PAGE:
                    return found

    def _client(self) -> SyncPrefectClient:
        with temporary_settings({PREFECT_API_URL: self._api}):
            return get_client(sync_client=True)
