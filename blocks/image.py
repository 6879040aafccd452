"""What is asked of an image generator, and what it gives back. Plain Python: importing this loads no Prefect."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType


class Mode(StrEnum):
    """What the model starts from."""

    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_IMAGE = "image-to-image"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a generator can do, known without asking it.

    `models`: the models it takes; empty means that the price book alone decides. `sizes`: the resolutions it takes.
    `batch`: whether it has a cheaper, slower lane for many images at once. `free`: its images cost nothing.
    """

    provider: str
    models: frozenset[str] = frozenset()
    any_priced_model: bool = False
    modes: frozenset[Mode] = frozenset({Mode.TEXT_TO_IMAGE})
    sizes: tuple[str, ...] = ("1k",)
    batch: bool = False
    free: bool = False


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A process that draws on our behalf and may outlive us. `started`: its start time, in seconds since the epoch."""

    pid: int
    started: float


def ignore_child(_child: ChildProcess) -> None:
    """Note nothing: for a caller that does not need to find the child again."""


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image to be made.

    `folder` exists, is empty and belongs to this one call: everything the generator writes goes there, so that a call
    which outlives its caller can be found again. `on_child` is called right after a process has been spawned. `left` is
    set once the caller can wait no longer: a call that goes on by itself is then left to itself, by LeftRunning.
    `params` are the provider's own (aspect_ratio, resolution, seed, ...), as text.
    """

    sku: str
    prompt: str
    model: str
    folder: Path
    mode: Mode = Mode.TEXT_TO_IMAGE
    params: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    references: tuple[Path, ...] = ()
    on_child: Callable[[ChildProcess], None] = ignore_child
    left: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """An image the provider has made, as a file in the request's folder; its bytes are not verified yet.

    `url`: where the provider keeps it, for a free second fetch. `credits_used` is None where it does not tell.
    """

    path: Path
    model: str
    request_id: str = ""
    url: str = ""
    credits_used: Decimal | None = None
