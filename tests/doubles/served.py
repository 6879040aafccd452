"""A copy of this repository, deployed to a real Prefect server, and the process workers that do its runs."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from command import environment
from processes import end

REPO = Path(__file__).parents[2]
POOL = "rowshot"


def copy_of_repo(folder: Path) -> Path:
    """What a clone of this repository would hold, as it stands now."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPO,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    return folder


@dataclass
class Served:
    """A deployed clone; its workers and the runs that they do have these `variables` in their environment."""

    clone: Path
    api: str
    variables: dict[str, str] = field(default_factory=dict)
    pool: str = POOL

    @property
    def pages(self) -> str:
        """Address of the server's pages."""
        return self.api.removesuffix("/api") + "/v2"

    def prefect(self, *arguments: str) -> str:
        """Run one of Prefect's own commands in the clone; gives what it prints."""
        done = subprocess.run(
            self._command(*arguments),
            cwd=self.clone,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout

    def make_pool(self) -> None:
        """The work pool that the README names; another test of this session may have made it."""
        self.prefect("work-pool", "create", "--overwrite", "--type", "process", self.pool)

    def deploy(self) -> None:
        """Do what the README says: a work pool, and all deployments."""
        self.make_pool()
        self.prefect("deploy", "--all")

    @contextmanager
    def worker(self, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker while the body runs, which looks for work every second."""
        with (self.clone / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                self._command("worker", "start", "--pool", self.pool, *arguments),
                cwd=self.clone,
                env=self._environment(PREFECT_WORKER_QUERY_SECONDS="1", **variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield worker
        finally:
            end(worker)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "prefect", "--no-prompt", *arguments]

    def _environment(self, **variables: str) -> dict[str, str]:
        return environment(self.clone, PREFECT_API_URL=self.api, **{**self.variables, **variables})
