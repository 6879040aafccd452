"""Finding the block documents that a batch names, as `type-slug/name`."""

from typing import TypeVar

from prefect.blocks.core import Block

import blocks
from flows.batch.problems import NotStarted, Problem

Kind = TypeVar("Kind", bound=Block)


def load_block(name: str, kind: type[Kind], what: str, mend: str) -> Kind:
    """The block document of this name. `what` says in an error what it should be, `mend` how to have one.

    Raises: NotStarted where the server has no such block, it is another kind, or its values can't be used.
    """
    if "/" not in name:
        raise NotStarted([Problem(f"{name!r} is no {what}.", mend)])
    for ours in blocks.__all__:  # a document finds its class only once that is loaded
        getattr(blocks, ours)
    try:
        block = Block.load(name)
    except ValueError as error:  # no such document or type; or a document whose values its class refuses
        raise NotStarted([Problem(f"The Prefect server has no block {name!r} that can be used.", mend)]) from error
    if not isinstance(block, kind):
        raise NotStarted([Problem(f"The block {name!r} is no {what} but a {type(block).__name__}.", mend)])
    return block
