"""The ledger's tables and states. Money is whole billionths of a dollar, so that sums are exact in every database."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

NANO = Decimal(1_000_000_000)
SCHEMA_VERSION = 3


class State(StrEnum):
    """Where an image stands with its provider. An image that the ledger doesn't have is pending."""

    PENDING = "pending"
    RESERVED = "reserved"
    SUBMITTED = "submitted"
    BOUGHT = "bought"
    FAILED = "failed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    LOST = "lost"

    @property
    def in_flight(self) -> bool:
        """Somebody holds the row: wait for them, or find out what became of them."""
        return self in {State.RESERVED, State.SUBMITTED}


class Delivered(StrEnum):
    """Where the handing on of an image stands with one destination. Nothing is noted of one that was never tried."""

    STORED = "stored"
    PUBLISHING = "publishing"
    PUBLISHED = "published"
    REPLACED = "replaced"  # by another image of its row, which was published after it
    WITHDRAWN = "withdrawn"
    FAILED = "failed"
    REFUSED = "refused"  # by a person, who has looked at it


class Charged(StrEnum):
    """Whether a call was paid for, as far as one can tell."""

    NO = "no"
    YES = "yes"
    MAYBE = "maybe"


class Exact(TypeDecorator[Decimal]):
    """A Decimal with nine places, as an integer."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        """Decimal to billionths."""
        return None if value is None else int((value * NANO).to_integral_value())

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Decimal | None:
        """Billionths to Decimal, without trailing zeros."""
        return None if value is None else plain(Decimal(value) / NANO)


def exact(usd: Decimal | None) -> Decimal | None:
    """The figure as the ledger keeps it, to the billionth."""
    return None if usd is None else plain((usd * NANO).to_integral_value() / NANO)


def plain(value: Decimal) -> Decimal:
    """The same figure without trailing zeros or an exponent: 0.0050 is 0.005, 1E+1 is 10."""
    whole = value.to_integral_value()
    return whole.quantize(Decimal(1)) if value == whole else value.normalize()


metadata = MetaData()

meta = Table(
    "rowshot_meta", metadata, Column("name", String(40), primary_key=True), Column("value", Text, nullable=False)
)


def _key() -> list[Column[Any]]:
    """A ledger key: whose image, by which template, of which content."""
    return [
        Column("sku", String(128), primary_key=True),
        Column("template", String(128), primary_key=True),
        Column("fingerprint", String(64), primary_key=True),
    ]


images = Table(
    "images",
    metadata,
    *_key(),
    Column("redo_of", String(64), nullable=False, default=""),
    Column("state", String(16), nullable=False),
    Column("owner", String(36), nullable=False, default=""),
    Column("attempt", String(36), nullable=False, default=""),
    Column("generator", String(64), nullable=False),
    Column("account", String(128), nullable=False, default=""),
    Column("model", String(128), nullable=False),
    Column("mode", String(32), nullable=False),
    Column("prompt", Text, nullable=False),
    Column("params", Text, nullable=False),
    Column("variant", Text, nullable=False, default=""),
    Column("attempts", Integer, nullable=False, default=0),
    Column("paid_calls", Integer, nullable=False, default=0),
    Column("credits_used", Exact),
    Column("price_usd", Exact),
    Column("price_is_estimated", Boolean, nullable=False, default=False),
    Column("request_id", Text, nullable=False, default=""),
    Column("url", Text, nullable=False, default=""),
    Column("seconds", Float),
    Column("sha256", String(64), nullable=False, default=""),
    Column("extension", String(8), nullable=False, default=""),
    Column("width", Integer, nullable=False, default=0),
    Column("height", Integer, nullable=False, default=0),
    Column("error_kind", String(64), nullable=False, default=""),
    Column("error", Text, nullable=False, default=""),
    Column("bought_at", Float),
    Column("updated_at", Float, nullable=False),
    Index("images_by_fingerprint", "fingerprint"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("attempt", String(36), primary_key=True),
    Column("sku", String(128), nullable=False),
    Column("template", String(128), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("run", String(36), nullable=False),
    Column("host", String(255), nullable=False),
    Column("folder", Text, nullable=False),
    Column("pid", Integer),
    Column("pid_started", Float),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", String(64), nullable=False, default="submitted"),
    Column("charged", String(8), nullable=False, default="maybe"),
    Column("estimate_usd", Exact),
    Column("price_usd", Exact),
    Column("price_is_estimated", Boolean, nullable=False, default=True),
    Column("credits_used", Exact),
    Index("attempts_by_run", "run"),
)

places = Table(
    "places",
    metadata,
    *_key(),
    Column("output", String(1024), primary_key=True),
    Column("original", Text, nullable=False),
    Column("path", Text, nullable=False, default=""),
    Column("finish", String(64), nullable=False, default=""),
    Column("thumbnail", Text, nullable=False, default=""),
)

# What became of handing an image on, by where it was to go: a store (its bucket and folder) or a CMS. `previous` is
# JSON of what the CMS had before, null (SQL) where that is not known; `run` is the one that put it there.
deliveries = Table(
    "deliveries",
    metadata,
    *_key(),
    Column("destination", String(1024), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("object_key", Text, nullable=False, default=""),
    Column("url", Text, nullable=False, default=""),
    Column("previous", Text),
    Column("run", String(36), nullable=False, default=""),
    Column("error_kind", String(64), nullable=False, default=""),
    Column("error", Text, nullable=False, default=""),
    Column("at", Float, nullable=False),
    Index("deliveries_by_run", "run", "destination"),
)

rows = Table(
    "batch_rows",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("output", String(1024), nullable=False),
    Column("run", String(36), nullable=False),
    Column("line", Integer, nullable=False),
    Column("sku", String(128), nullable=False),
    Column("template", String(128), nullable=False),
    Column("fingerprint", String(64), nullable=False, default=""),
    Column("generator", String(64), nullable=False, default=""),
    Column("model", String(128), nullable=False, default=""),
    Column("prompt", Text, nullable=False, default=""),
    Column("cells", Text, nullable=False),
    Column("problem", Text, nullable=False, default=""),
    Index("rows_by_key", "output", "sku", "template"),
)

runs = Table(
    "runs",
    metadata,
    Column("run", String(36), primary_key=True),
    Column("output", String(1024), nullable=False),
    Column("csv", Text, nullable=False),
    Column("columns", Text, nullable=False),
    Column("generator", String(64), nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", String(16), nullable=False, default="running"),
    Column("reason", Text, nullable=False, default=""),
    Column("store", String(1024), nullable=False, default=""),
    Column("cms", String(1024), nullable=False, default=""),
    Index("runs_by_output", "output", "started_at"),
)

owners = Table(
    "owners",
    metadata,
    Column("owner", String(36), primary_key=True),
    Column("run", String(36), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pid_started", Float, nullable=False),
    Column("alive_until", Float, nullable=False),
)

# The parts that a large run is cut into, each bought by a flow run of its own. `jobs`: what it is to buy, packed;
# `tries`: its flow runs so far; `owner`: who works on it.
shards = Table(
    "shards",
    metadata,
    Column("run", String(36), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("rows", Integer, nullable=False),
    Column("jobs", LargeBinary, nullable=False),
    Column("tries", Integer, nullable=False, default=0),
    Column("owner", String(36), nullable=False, default=""),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("at", Float, nullable=False),
)

# What is spent or reserved, by run ("run:ID") and by day ("day:2026-11-21", UTC): the sums of attempts.price_usd, kept
# beside them so that a cap is asked without adding up all calls.
budgets = Table(
    "budgets", metadata, Column("scope", String(64), primary_key=True), Column("usd", Exact, nullable=False)
)


def run_scope(run: str) -> str:
    """What the counter of a run is called."""
    return f"run:{run}"


def day_scope(at: float) -> str:
    """What the counter of the day (UTC) of a moment is called; `at` in seconds since the epoch."""
    return f"day:{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"
