"""What a report says of all its rows together, added up as they pass by: a report may have more than fit in memory."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from flows.batch.row_report import RowReport, Status

# One page of the contact sheet holds so many rows; what is above goes to index-2.html and on.
PAGE_ROWS = 5_000


@dataclass(slots=True)
class PageRows:
    """The rows of one page of the contact sheet: the lines of the first and the last, and how many failed."""

    first_line: int
    last_line: int
    failures: int = 0


@dataclass(slots=True)
class Totals:
    """The sums of a report. `price_usd` leaves out rows of unknown price and those that share an earlier row's image.

    `paid_again`: rows that were paid for more than once; `paid_more_than_once`: images that were. `failed` are the rows
    that failed, without their cells and prompts.
    """

    rows: int = 0
    images: int = 0
    proofs: int = 0
    undelivered: int = 0
    paid_again: int = 0
    paid_more_than_once: int = 0
    price_usd: Decimal = Decimal(0)
    price_is_estimated: bool = False
    found: Counter[Status] = field(default_factory=Counter)
    failed: list[RowReport] = field(default_factory=list)
    pages: list[PageRows] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[RowReport]) -> "Totals":
        """The sums of all these rows."""
        totals = cls()
        for _ in totals.watching(rows):
            pass
        return totals

    @property
    def counts(self) -> dict[Status, int]:
        """How many rows are in each state, in the states' own order; those with none are left out."""
        return {status: self.found[status] for status in Status if self.found[status]}

    def watching(self, rows: Iterable[RowReport]) -> Iterator[tuple[RowReport, bool]]:
        """Add these rows up as they pass by; gives each, and whether it is the first of its sku and template.

        An invalid row has no image to share, so it is always the first.
        """
        seen = Seen()
        for row in rows:
            is_first = row.status is Status.INVALID or seen.is_new(row.sku, row.template)
            self._add(row, is_first=is_first)
            yield row, is_first

    def _add(self, row: RowReport, *, is_first: bool) -> None:
        if self.rows % PAGE_ROWS == 0:
            self.pages.append(PageRows(row.line, row.line))
        page = self.pages[-1]
        page.last_line = row.line
        page.failures += row.status.is_failure
        self.rows += 1
        self.found[row.status] += 1
        self.undelivered += row.undelivered
        self.paid_again += row.paid_calls > 1
        if row.status.has_image:
            self.images += 1
            self.proofs += row.is_proof
        if row.is_failure:
            self.failed.append(replace(row, cells={}, ragged=None, prompt=""))
        if is_first:
            self.paid_more_than_once += row.paid_calls > 1
            if row.price_usd is not None:
                self.price_usd += row.price_usd
                self.price_is_estimated = self.price_is_estimated or row.price_is_estimated


class Seen:
    """Which texts have passed by, in a few bytes each."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def is_new(self, *texts: str) -> bool:
        """Whether these texts together pass by for the first time."""
        before = len(self._digests)
        self._digests.add(digest(*texts))
        return len(self._digests) > before


def digest(*texts: str) -> bytes:
    """A short name for these texts together."""
    return hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
