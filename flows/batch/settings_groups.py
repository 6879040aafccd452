"""The fields that several settings share, and the groups that the form shows them in."""

import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from flows.batch.caps import Caps, Dollars
from flows.batch.column_names import ColumnNames, parse_columns

_BLOCK = re.compile(r"([a-z0-9][a-z0-9-]*/[A-Za-z0-9][A-Za-z0-9_.-]*)?")


def _block(name: str) -> str:
    if not _BLOCK.fullmatch(name):
        raise PydanticCustomError("block", "Write a block as type/name, such as s3-bucket/shop, or leave it empty")
    return name


# No pattern in the form's schema: the server would quote it to whoever fills in the form.
BlockName = Annotated[str, AfterValidator(_block)]

MaxCost = Annotated[
    Dollars,
    Field(
        title="Spend at most (USD)",
        description="Cap of this run, such as 25 or 0.50: at it the run stops and keeps all it has. Empty: no cap.",
    ),
]
MaxCostPerDay = Annotated[
    Dollars,
    Field(
        title="Spend at most a day (USD)",
        description="Cap of one day (UTC) over all runs of the ledger. Empty: no cap.",
    ),
]
Prices = Annotated[
    str,
    Field(
        title="Price book",
        description="A CSV of your own prices. Empty: ROWSHOT_PRICES, else the built-in price book.",
    ),
]
Concurrency = Annotated[
    int,
    Field(
        ge=1,
        le=256,
        title="At once",
        description="How many images may be in the making at one time (1 to 256).",
    ),
]
Templates = Annotated[
    str,
    Field(
        title="Templates folder",
        description="A folder of your own templates, searched before the built-in ones. Empty: ROWSHOT_TEMPLATES.",
    ),
]
LedgerUrl = Annotated[
    str,
    Field(
        title="Ledger",
        description="Where it is written down what was bought. Empty: the worker's ROWSHOT_LEDGER, else the user's. "
        "Never write an address with a password here: everybody who sees the run sees it.",
    ),
]


def _in_order(schema: dict[str, Any]) -> None:
    """Number the fields as they stand here: the form shows them by their position."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Form(BaseModel):
    """Fields that are shown in the order they are written in; one that isn't known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, json_schema_extra=_in_order)


class Approve(StrEnum):
    """When a person is asked."""

    NO = "no"
    BEFORE_BUYING = "before-buying"
    BEFORE_PUBLISHING = "before-publishing"


class Money(Form):
    """What a run may spend."""

    max_cost_usd: MaxCost = ""
    max_cost_per_day_usd: MaxCostPerDay = ""
    canary: int = Field(
        default=0,
        ge=0,
        title="Try so many first",
        description="Buy N rows first, of all templates and models, and go on only if few of them failed. 0: none.",
    )
    canary_failures: float = Field(
        default=0.2,
        ge=0,
        le=1,
        title="Share of those that may fail",
        description="The run stops if more than this share of the rows tried first failed: 0.2 is one in five.",
    )
    prices: Prices = ""

    @property
    def caps(self) -> Caps:
        """What may be spent."""
        return Caps.parse(self.max_cost_usd, self.max_cost_per_day_usd)


class Delivery(Form):
    """Where images go once they are bought."""

    store: BlockName = Field(
        default="",
        title="Store",
        description="An S3 bucket for the images as well, such as s3-bucket/rowshot. Empty: the output folder alone.",
    )
    public_url: str = Field(
        default="",
        title="Public address",
        description="How an image's address is made, such as https://cdn.example.com/{key}. Empty: a private bucket.",
    )
    cms: BlockName = Field(
        default="",
        title="CMS",
        description="Where each image's address is published, such as cms-site/rowshot. Empty: nowhere.",
    )
    notify: BlockName = Field(
        default="",
        title="Notify",
        description="Who is told when a run starts and ends, such as slack-webhook/rowshot. Empty: nobody.",
    )


class Rows(Form):
    """Which rows are taken up, of those that a run leaves alone otherwise."""

    skip_invalid: bool = Field(
        default=False,
        title="Go on without invalid rows",
        description="Report invalid rows and leave them out. Otherwise one stops the run before anything is bought.",
    )
    confirm_changed: bool = Field(
        default=False,
        title="Buy many changed rows",
        description="Needed when over 100 rows that had an image have changed, lest a slip in the sheet buy it anew.",
    )
    retry_rejected: bool = Field(
        default=False,
        title="Ask again for refused rows",
        description="Rows that the provider refused are asked for once more.",
    )
    retry_unknown: bool = Field(
        default=False,
        title="Buy rows of unknown outcome again",
        description="Rows whose call went out and got no answer. They may have been paid for already.",
    )
    rebuy_lost: bool = Field(
        default=False,
        title="Buy lost images again",
        description="Images that were bought and whose files are nowhere to be found.",
    )
    allow_unknown_model: bool = Field(
        default=False,
        title="Take models nobody knows",
        description="Accept a model that is neither in the price book nor on the generator's list.",
    )


class Advanced(Form):
    """What most runs leave as it is."""

    columns: ColumnNames = Field(
        default="",
        title="Column names",
        description="Where the sheet's names differ from the template's, such as name=Title, color=Colour.",
    )
    templates: Templates = ""
    ledger: LedgerUrl = ""
    global_limit: str = Field(
        default="",
        title="Global concurrency limit",
        description="The limit on the server that all runs share. Empty: rowshot-PROVIDER, if it is there.",
    )
    tag_limit: str = Field(
        default="",
        title="Tag of each row's task run",
        description="For a limit by tag, which is slow (see the docs on limits). Empty: no tag.",
    )
    shard_rows: int = Field(
        default=1000,
        ge=0,
        title="Rows a shard",
        description="A file with more rows than this is cut into shards. 0: never.",
    )
    shard_deployment: str = Field(
        default="",
        title="Deployment for shards",
        description="Such as generate-shard/generate-shard: each shard is a flow run of it. Empty: all in this one.",
    )
    shards_at_once: int = Field(
        default=4,
        ge=1,
        le=100,
        title="Shards at once",
        description="How many shards may be under way at one time (1 to 100), on as many workers as you have.",
    )
    approve_within_hours: int = Field(
        default=72,
        ge=1,
        le=720,
        title="Wait for an answer (hours)",
        description="A run that waits for approval ends after so long, and keeps all it has.",
    )

    @property
    def column_names(self) -> dict[str, str]:
        """Template variable to CSV column, where the sheet's names differ."""
        return parse_columns(self.columns)
