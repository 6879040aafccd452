"""A CMS in memory, for the rules of publishing; what a real one answers is shown on Directus."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Shown:
    """What an item has in its field."""

    value: Any


@dataclass
class ShopSite:
    """Has one field an item.

    `on_read` is called before each look at it, as where another run is quicker; `on_change` after each change, as where
    its answer is lost.
    """

    values: dict[str, Any] = field(default_factory=dict)
    name: str = "cms-site/shop"
    on_read: Callable[[], None] = lambda: None
    on_change: Callable[[], None] = lambda: None
    changes: list[tuple[str, Any]] = field(default_factory=list)

    def read(self, sku: str, _template: str = "") -> Shown:
        """What the item has now."""
        self.on_read()
        return Shown(self.values.get(sku))

    def publish(self, sku: str, url: Any, _template: str = "") -> None:
        """Have the item show this."""
        self.changes.append((sku, url))
        self.values[sku] = url
        self.on_change()
