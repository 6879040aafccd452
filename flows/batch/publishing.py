"""Publishing images in a CMS, a block of rows at a time. The ledger knows how far each row is."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from blocks.errors import DeliveryRefused, DeliveryUnavailable
from flows.batch.deliveries import Deliveries, Delivery
from flows.batch.ledger_images import Key
from flows.batch.stores import NEVER

PATIENCE_S = 300.0  # for one block of rows
DEFAULT_PAUSE_S = 5.0
IN_VAIN = 3  # rows in a row, after which the CMS is down and the others are not tried


class FieldValue(Protocol):
    """What a CMS has in a field."""

    @property
    def value(self) -> Any:
        """Any JSON value; None where it has none."""


class Site(Protocol):
    """What publishing needs of a CMS."""

    @property
    def name(self) -> str:
        """What the ledger calls it."""

    def read(self, sku: str, template: str = "") -> FieldValue:
        """What the item of this sku has now."""

    def publish(self, sku: str, url: Any, template: str = "") -> None:
        """Have the item show this address, and see that it does."""


@dataclass(frozen=True, slots=True)
class PublishRow:
    """One stored image whose address is to be published. `key` is its key in the ledger."""

    key: Key
    sku: str
    template: str
    url: str


class Patience:
    """Does as it is told where a CMS or Slack asks to be left alone for a while, within a bound.

    `left` ends every pause: the run is ending.
    """

    def __init__(self, total_s: float = PATIENCE_S, left: threading.Event = NEVER) -> None:
        self._deadline = time.monotonic() + total_s
        self._left = left

    def call(self, work: Callable[[], None]) -> None:
        """Do the work, again after each pause that is asked for. Raises: what `work` raises for good."""
        while True:
            try:
                work()
            except DeliveryUnavailable as error:
                pause_s = DEFAULT_PAUSE_S if error.retry_after_s is None else error.retry_after_s
                if not error.asked or time.monotonic() + pause_s > self._deadline or self._left.wait(pause_s):
                    raise
            else:
                return


def publish_rows(
    rows: Sequence[PublishRow], site: Site, deliveries: Deliveries, run: str, left: threading.Event = NEVER
) -> None:
    """Publish what isn't published yet; each row's outcome is in the ledger. `left` ends every pause.

    A row that the CMS refuses is that row's failure. Raises: DeliveryUnavailable where rows are left that a later try
    may bring home; DeliveryStopped where none can be published, and the rows left stay stored; LedgerUnavailable.
    """
    patience = Patience(left=left)
    known = deliveries.standing([row.key for row in rows], site.name)
    later: DeliveryUnavailable | None = None
    in_vain = 0
    for row in rows:
        before = known.get(row.key)
        if before is not None and not before.is_due(row.url):
            continue
        try:
            patience.call(partial(_publish, row, site, deliveries, run, before))
        except DeliveryRefused as error:
            deliveries.failed(site.name, {row.key: error})
        except DeliveryUnavailable as error:
            deliveries.failed(site.name, {row.key: error})
            later, in_vain = error, in_vain + 1
            if in_vain == IN_VAIN or left.is_set():
                break
        else:
            in_vain = 0
    if later is not None:
        raise later


def _publish(row: PublishRow, site: Site, deliveries: Deliveries, run: str, before: Delivery | None) -> None:
    now = site.read(row.sku, row.template).value
    if now == row.url:  # another run may have put it there since `before` was read
        before = deliveries.standing([row.key], site.name).get(row.key)
        if before is not None and not before.is_due(row.url):
            return
    # What a try that was cut off has put there is ours: what was there before it is what that try has noted.
    previous = before.previous if before is not None and before.url and now == before.url else now
    deliveries.publishing(site.name, run, {row.key: (row.url, previous)})
    if now != row.url:
        site.publish(row.sku, row.url, row.template)
    deliveries.published(site.name, [row.key])
