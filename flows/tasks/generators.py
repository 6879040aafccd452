"""Finding the image generator that a batch names."""

from prefect.blocks.core import Block

import blocks
from blocks import ImageGenerator
from blocks.errors import StopError
from flows.batch.jobs import Source
from flows.batch.problems import NotStarted, Problem

BUILT_IN = {"proof": "Proof", "anycap": "AnyCap"}


def load_generator(name: str) -> ImageGenerator:
    """The generator of this name: proof or anycap as they come, else the block document `type-slug/name`.

    Raises: NotStarted where there is no such block, or it is no image generator.
    """
    if name in BUILT_IN:
        built_in: type[ImageGenerator] = getattr(blocks, BUILT_IN[name])
        return built_in()
    if "/" not in name:
        raise _unknown(f"There is no image generator {name!r}.")
    for ours in blocks.__all__:  # a document finds its class only once that is loaded
        getattr(blocks, ours)
    try:
        block = Block.load(name)
    except ValueError as error:  # what it raises where the server has no such document, or no such block type
        raise _unknown(f"The Prefect server has no block {name!r}.") from error
    if not isinstance(block, ImageGenerator):
        raise _unknown(f"The block {name!r} is no image generator but a {type(block).__name__}.")
    return block


def source_of(generator: ImageGenerator) -> Source:
    """Who draws and who pays, as jobs are told apart by it."""
    return Source(generator.capabilities, generator.account)


def check_generator(generator: ImageGenerator) -> None:
    """Raise NotStarted where no call could succeed."""
    try:
        generator.check()
    except StopError as error:
        raise NotStarted([Problem(str(error), "")]) from error


def _unknown(what: str) -> NotStarted:
    return NotStarted(
        [Problem(what, f"Name one of {', '.join(BUILT_IN)}, or a block as type-slug/name that the server has.")]
    )
