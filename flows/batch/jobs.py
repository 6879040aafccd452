"""What is to be made: the rows of a file, and the jobs among them, named by what decides their image."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from blocks.image import Capabilities, ChildProcess, GeneratedImage, ImageRequest, Mode
from flows.batch.finish import Finish
from flows.batch.problems import Problem


@dataclass(frozen=True, slots=True)
class Job:
    """One image to make: a row, validated and rendered. (sku, template, fingerprint) is its key in the ledger."""

    line: int
    sku: str
    template: str
    fingerprint: str
    generator: str
    account: str
    model: str
    mode: Mode
    prompt: str
    params: Mapping[str, str]
    finish: Finish
    variant: str = ""
    redo_of: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What the ledger knows this image by."""
        return (self.sku, self.template, self.fingerprint)


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row of the file. `job` is None where `problem` says why there can't be one. Equal rows share one job.

    `cells` are more or fewer than the columns where that is the problem.
    """

    line: int
    sku: str
    template: str
    cells: tuple[str, ...]
    job: Job | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """One CSV's rows and jobs. `jobs` has each image once, in the file's order."""

    csv: str
    columns: tuple[str, ...]
    rows: tuple[InputRow, ...]
    jobs: tuple[Job, ...]
    problems: tuple[Problem, ...]

    @property
    def duplicates(self) -> int:
        """Rows that are equal to an earlier one and share its image."""
        return sum(1 for row in self.rows if row.job) - len(self.jobs)


@dataclass(frozen=True, slots=True)
class Source:
    """Who is to draw: a generator's capabilities and the account that pays."""

    capabilities: Capabilities
    account: str = ""


class Generator(Protocol):
    """What a purchase needs of an image generator."""

    def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make one image with one request."""

    def recover(self, request: ImageRequest, child: ChildProcess | None) -> GeneratedImage:
        """Find out what became of a request whose caller died."""


def fingerprint(job: Mapping[str, object]) -> str:
    """The sha256 of canonical JSON of all that decides an image."""
    text = json.dumps(job, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def identity(source: Source, model: str, mode: Mode, prompt: str, params: Mapping[str, str], variant: str) -> str:
    """The fingerprint of one image by this source."""
    return fingerprint(
        {
            "provider": source.capabilities.provider,
            "account": source.account,
            "model": model,
            "mode": mode.value,
            "prompt": prompt,
            "params": dict(params),
            "references": [],
            "variant": variant,
        }
    )
