"""Doors to the outside, as Prefect blocks. Loaded on first use: the types and errors beside them need no Prefect.

`prefect block register -m blocks` registers every class named here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blocks.anycap import AnyCap as AnyCap
    from blocks.cms import CmsSite as CmsSite
    from blocks.image_generator import ImageGenerator as ImageGenerator
    from blocks.proof import Proof as Proof

_HOMES = {
    "AnyCap": "blocks.anycap",
    "CmsSite": "blocks.cms",
    "ImageGenerator": "blocks.image_generator",
    "Proof": "blocks.proof",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'blocks' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
