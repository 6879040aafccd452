"""Every door to the outside, each a Prefect block. Loaded on first use: the types and errors beside it need no Prefect.

`prefect block register -m blocks` registers every class named here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blocks.anycap import AnyCap
    from blocks.cms import CmsSite
    from blocks.image_generator import ImageGenerator
    from blocks.proof import Proof

_HOMES = {
    "AnyCap": "blocks.anycap",
    "CmsSite": "blocks.cms",
    "ImageGenerator": "blocks.image_generator",
    "Proof": "blocks.proof",
}

__all__ = ["AnyCap", "CmsSite", "ImageGenerator", "Proof"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'blocks' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
