"""The one interface every provider implements."""

from abc import ABC, abstractmethod
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field

from blocks.errors import OutcomeUnknown
from blocks.image import Capabilities, ChildProcess, GeneratedImage, ImageRequest


class ImageGenerator(Block, ABC):
    """A provider of images. A new one is a subclass in a file of its own, a line in `blocks/__init__.py` and a block
    document: `Block.load("type-slug/name")` finds it, so there is no other registry.
    """

    capabilities: ClassVar[Capabilities]

    account: str = Field(
        default="",
        title="Account",
        description=(
            "A name of your own for the paying account. It is part of an image's identity, so leave it as it is when "
            "you only change the key."
        ),
    )

    @abstractmethod
    def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make one image, with exactly one request to the provider.

        Raises: a leaf of `ImageGenerationError`, and nothing else, for all that the provider or the way to it can do.
        """

    def recover(self, request: ImageRequest, child: ChildProcess | None) -> GeneratedImage:
        """Find out what became of a call whose caller died, without a new request to the provider.

        `request.folder` is the dead call's own; `child` is its process, if that was noted. Waits for a child that still
        runs. Raises: what `generate` raises for the answer that was found; RetryableError where the request never went
        out; OutcomeUnknown where nobody can tell.
        """
        raise OutcomeUnknown(
            f"A call for {request.sku!r} was under way when its run died, and {type(self).__name__} can't look it up. "
            "Check the provider's dashboard; --retry-unknown buys it again."
        )

    def check(self) -> None:
        """Raise a StopError if no call could succeed now (no program, no key). Costs nothing and buys nothing."""
