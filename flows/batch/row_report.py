"""A row's fate as every report tells it."""

import re
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

ERROR_COLUMN = "rowshot_error"
RAGGED_BEFORE = re.compile(r"line \d+: The row (has|holds) ")  # the error behind a row of an older failures.csv


class Status(StrEnum):
    """The states of a row, in the order in which a report lists them."""

    PUBLISHED = "published"
    STORED = "stored"
    BOUGHT = "bought"
    PENDING = "pending"
    FAILED = "failed"
    REJECTED = "rejected"
    INVALID = "invalid"
    UNKNOWN = "unknown"
    LOST = "lost"

    @property
    def has_image(self) -> bool:
        """Whether the row's image is at hand."""
        return self in {Status.PUBLISHED, Status.STORED, Status.BOUGHT}

    @property
    def is_failure(self) -> bool:
        """Whether the row belongs in failures.csv."""
        return self in {Status.FAILED, Status.REJECTED, Status.INVALID, Status.UNKNOWN, Status.LOST}


@dataclass(frozen=True, slots=True)
class RowReport:
    """All that is known of one row. Paths are relative to the output folder, with forward slashes; empty means none.

    `price_usd` is what the image has cost so far, all its calls together; `price_is_estimated` says it is the list
    price and not the provider's own figure. `paid_calls` above 1 means that it was paid for more than once. `url` is
    the image's address in the store that its run asked for, else the provider's. `undelivered`: it has its image, and
    is not yet where its run was to hand it on to; `error` then says why. `ragged`: all cells of a row that has more
    or fewer of them than its file has columns; `cells` has those with a column.
    """

    line: int
    sku: str
    template: str
    status: Status
    path: str = ""
    original: str = ""
    thumbnail: str = ""
    url: str = ""
    model: str = ""
    generator: str = ""
    fingerprint: str = ""
    prompt: str = ""
    attempts: int = 0
    paid_calls: int = 0
    credits_used: Decimal | None = None
    price_usd: Decimal | None = None
    price_is_estimated: bool = False
    request_id: str = ""
    seconds: float | None = None
    width: int = 0
    height: int = 0
    error_kind: str = ""
    error: str = ""
    undelivered: bool = False
    run: str = ""
    cells: dict[str, str] = field(default_factory=dict)
    ragged: tuple[str, ...] | None = None

    @property
    def is_failure(self) -> bool:
        """Whether the row belongs in failures.csv: it has no image, or that could not be handed on."""
        return self.status.is_failure or (self.undelivered and bool(self.error))

    @property
    def is_proof(self) -> bool:
        """Whether its image is a drawn stand-in."""
        return self.generator.partition("/")[0] == "proof"
