"""Finding the image generator that a batch names."""

import blocks
from blocks import ImageGenerator
from blocks.errors import StopError
from flows.batch.jobs import Source
from flows.batch.problems import NotStarted, Problem
from flows.tasks.block_documents import load_block

BUILT_IN = {"proof": "Proof", "anycap": "AnyCap"}
MEND = f"Name one of {', '.join(BUILT_IN)}, or a block as type-slug/name that the server has."


def load_generator(name: str) -> ImageGenerator:
    """The generator of this name: proof or anycap as they come, else the block document `type-slug/name`.

    Raises: NotStarted where there is no such block, or it is no image generator.
    """
    if name in BUILT_IN:
        built_in: type[ImageGenerator] = getattr(blocks, BUILT_IN[name])
        return built_in()
    return load_block(name, ImageGenerator, "image generator", MEND)  # type: ignore[type-abstract]  # none is made


def source_of(generator: ImageGenerator) -> Source:
    """Who draws and who pays, as jobs are told apart by it."""
    return Source(generator.capabilities, generator.account)


def check_generator(generator: ImageGenerator) -> None:
    """Raise NotStarted where no call could succeed."""
    try:
        generator.check()
    except StopError as error:
        raise NotStarted([Problem(str(error), "")]) from error
