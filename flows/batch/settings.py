"""The one set of parameters of a batch: the form's fields, the command's options and the deployment's parameters."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from flows.batch.caps import Caps, Dollars

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
BlockName = Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]*/[A-Za-z0-9][A-Za-z0-9_.-]*)?$")]


class BatchSettings(BaseModel):
    """What to make of a CSV, and with what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    csv: str = Field(
        title="CSV file",
        description="Path of the spreadsheet, a row an image. Needs a column sku; .csv, .tsv or .csv.gz.",
        min_length=1,
        json_schema_extra={"position": 0},
    )
    template: Name = Field(
        default="product",
        title="Template",
        description="Prompt template for rows that name none in a column template.",
        json_schema_extra={"position": 1},
    )
    generator: str = Field(
        default="proof",
        title="Image generator",
        description="proof (drawn here, free), anycap (the AnyCap CLI) or a block as type-slug/name, like anycap/team.",
        min_length=1,
        json_schema_extra={"position": 2},
    )
    model: str = Field(
        default="",
        title="Model",
        description="Model for rows that name none. Empty: the template's own.",
        json_schema_extra={"position": 3},
    )
    output: str = Field(
        default="output",
        title="Output folder",
        description="Where images, results.csv and the contact sheet go.",
        min_length=1,
        json_schema_extra={"position": 4},
    )
    dry_run: bool = Field(
        default=False,
        title="Only plan",
        description="Say what would be bought and for how much, and buy nothing.",
        json_schema_extra={"position": 5},
    )
    limit: int = Field(
        default=0,
        ge=0,
        title="At most this many images",
        description="Buy only the first N rows that have no image yet; the rest stay pending. 0: all.",
        json_schema_extra={"position": 6},
    )
    max_cost_usd: Dollars = Field(
        default="",
        title="Spend at most (USD)",
        description="Cap of this run, such as 25 or 0.50: at it the run stops and keeps all it has. Empty: no cap.",
        json_schema_extra={"position": 7},
    )
    max_cost_per_day_usd: Dollars = Field(
        default="",
        title="Spend at most a day (USD)",
        description="Cap of one day (UTC) over all runs of the ledger. Empty: no cap.",
        json_schema_extra={"position": 8},
    )
    canary: int = Field(
        default=0,
        ge=0,
        title="Try so many first",
        description="Buy N rows first, of all templates and models, and go on only if few of them failed. 0: none.",
        json_schema_extra={"position": 9},
    )
    canary_failures: float = Field(
        default=0.2,
        ge=0,
        le=1,
        title="Share of those that may fail",
        description="The run stops if more than this share of the canary's rows failed: 0.2 is one in five.",
        json_schema_extra={"position": 10},
    )
    concurrency: int = Field(
        default=4,
        ge=1,
        le=256,
        title="At once",
        description="How many images may be in the making at one time (1 to 256).",
        json_schema_extra={"position": 11},
    )
    skip_invalid: bool = Field(
        default=False,
        title="Go on without invalid rows",
        description="Report invalid rows and leave them out. Otherwise one stops the run before anything is bought.",
        json_schema_extra={"position": 12},
    )
    confirm_changed: bool = Field(
        default=False,
        title="Buy many changed rows",
        description="Needed when over 100 rows that had an image have changed, lest a slip in the sheet buy it anew.",
        json_schema_extra={"position": 13},
    )
    retry_rejected: bool = Field(
        default=False,
        title="Ask again for refused rows",
        description="Rows that the provider refused are asked for once more.",
        json_schema_extra={"position": 14},
    )
    retry_unknown: bool = Field(
        default=False,
        title="Buy rows of unknown outcome again",
        description="Rows whose call went out and got no answer. They may have been paid for already.",
        json_schema_extra={"position": 15},
    )
    rebuy_lost: bool = Field(
        default=False,
        title="Buy lost images again",
        description="Images that were bought and whose files are nowhere to be found.",
        json_schema_extra={"position": 16},
    )
    allow_unknown_model: bool = Field(
        default=False,
        title="Take models nobody knows",
        description="Accept a model that is neither in the price book nor on the generator's list.",
        json_schema_extra={"position": 17},
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        title="Column names",
        description="Template variable to CSV column, where the sheet's names differ.",
        json_schema_extra={"position": 18},
    )
    templates: str = Field(
        default="",
        title="Templates folder",
        description="A folder of your own templates, searched before the built-in ones.",
        json_schema_extra={"position": 19},
    )
    prices: str = Field(
        default="",
        title="Price book",
        description="A CSV of your own prices. Empty: ROWSHOT_PRICES, else the built-in price book.",
        json_schema_extra={"position": 20},
    )
    ledger: str = Field(
        default="",
        title="Ledger",
        description="SQLAlchemy URL of the ledger of what was bought. Empty: ROWSHOT_LEDGER, else one file a user.",
        json_schema_extra={"position": 21},
    )

    store: BlockName = Field(
        default="",
        title="Store",
        description="An S3 bucket that images go to as well, as s3-bucket/NAME. Empty: the output folder alone.",
        json_schema_extra={"position": 22},
    )
    public_url: str = Field(
        default="",
        title="Public address",
        description="How an image's address is made, such as https://cdn.example.com/{key}. Empty: a private bucket.",
        json_schema_extra={"position": 23},
    )
    cms: BlockName = Field(
        default="",
        title="CMS",
        description="Where each image's address is published, as cms-site/NAME. Empty: nowhere.",
        json_schema_extra={"position": 24},
    )
    notify: BlockName = Field(
        default="",
        title="Notify",
        description="Who is told when a run starts and ends, as slack-webhook/NAME. Empty: nobody.",
        json_schema_extra={"position": 25},
    )

    @property
    def caps(self) -> Caps:
        """What may be spent."""
        return Caps.parse(self.max_cost_usd, self.max_cost_per_day_usd)


class RedoSettings(BaseModel):
    """Which images to make again, on purpose, and with what words added."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skus: list[str] = Field(
        title="SKUs",
        description="The rows to make again, by their sku. The images they have stay.",
        min_length=1,
        json_schema_extra={"position": 0},
    )
    template: str = Field(
        default="",
        title="Template",
        description="Only the images of this template; needed where a sku has several.",
        json_schema_extra={"position": 1},
    )
    add: str = Field(
        default="",
        title="Words to add",
        description="Put at the end of the prompt, such as: softer light, no shadow.",
        json_schema_extra={"position": 2},
    )
    generator: str = Field(
        default="",
        title="Image generator",
        description="Empty: the one that made the image, if it is proof or anycap.",
        json_schema_extra={"position": 3},
    )
    output: str = Field(
        default="output",
        title="Output folder",
        description="The output whose images they are.",
        min_length=1,
        json_schema_extra={"position": 4},
    )
    max_cost_usd: Dollars = Field(
        default="",
        title="Spend at most (USD)",
        description="Cap of this run, such as 25 or 0.50: at it the run stops and keeps all it has. Empty: no cap.",
        json_schema_extra={"position": 5},
    )
    max_cost_per_day_usd: Dollars = Field(
        default="",
        title="Spend at most a day (USD)",
        description="Cap of one day (UTC) over all runs of the ledger. Empty: no cap.",
        json_schema_extra={"position": 6},
    )
    concurrency: int = Field(
        default=4,
        ge=1,
        le=256,
        title="At once",
        description="How many images may be in the making at one time (1 to 256).",
        json_schema_extra={"position": 7},
    )
    templates: str = Field(
        default="",
        title="Templates folder",
        description="A folder of your own templates, for the size and format that they ask for.",
        json_schema_extra={"position": 8},
    )
    prices: str = Field(
        default="",
        title="Price book",
        description="A CSV of your own prices. Empty: ROWSHOT_PRICES, else the built-in price book.",
        json_schema_extra={"position": 9},
    )
    ledger: str = Field(
        default="",
        title="Ledger",
        description="SQLAlchemy URL of the ledger of what was bought. Empty: ROWSHOT_LEDGER, else one file a user.",
        json_schema_extra={"position": 10},
    )

    @property
    def caps(self) -> Caps:
        """What may be spent."""
        return Caps.parse(self.max_cost_usd, self.max_cost_per_day_usd)
