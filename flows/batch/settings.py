"""The parameters of the flows: the form's fields, the command's options and a deployment's parameters are these."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from flows.batch.caps import Caps
from flows.batch.choices import AS_THE_TEMPLATE_SAYS, offer_models, offer_templates
from flows.batch.settings_groups import (
    Advanced,
    Approve,
    BlockName,
    Concurrency,
    Delivery,
    Form,
    LedgerUrl,
    MaxCost,
    MaxCostPerDay,
    Money,
    Prices,
    Rows,
    Templates,
)

# "" stands for what each row's template says, in a command's options as in the form's list.
Model = Annotated[str, BeforeValidator(lambda given: "" if given == AS_THE_TEMPLATE_SAYS else given)]

# A tab at the end of what was pasted is the last row's empty cell.
Pasted = Annotated[str, StringConstraints(strip_whitespace=False)]


class BatchSettings(Form):
    """What to make of a CSV, and with what."""

    csv: str = Field(
        default="",
        title="CSV file",
        description="The spreadsheet, a row an image; it needs a column sku. A path such as examples/products.csv, "
        "an address such as https://shop.example/products.csv, a published Google Sheet's, or s3://bucket/file.csv.",
    )
    pasted: Pasted = Field(
        default="",
        title="Or paste the rows",
        description="Copied out of the spreadsheet, with the line of column names on top. Taken in place of the file.",
    )
    template: str = Field(
        default="product",
        title="Template",
        description="What kind of picture, for rows that don't say so in a column template.",
        min_length=1,
        json_schema_extra=offer_templates,
    )
    generator: str = Field(
        default="proof",
        title="Image generator",
        description="proof draws a stand-in for nothing, anycap buys images; or a block's name, such as anycap/team.",
        min_length=1,
    )
    model: Model = Field(
        default="",
        title="Model",
        description="Who draws, for rows that don't say so in a column model.",
        json_schema_extra=offer_models,
    )
    approve: Approve = Field(
        default=Approve.NO,
        title="Ask for approval",
        description="Whether the run waits for a person before it buys, or before it publishes.",
    )
    dry_run: bool = Field(
        default=False,
        title="Only plan",
        description="Say what would be bought and for how much, and buy nothing.",
    )
    limit: int = Field(
        default=0,
        ge=0,
        title="At most this many images",
        description="Buy only the first N rows that have no image yet; the rest stay pending. 0: all.",
    )
    concurrency: Concurrency = 4
    output: str = Field(
        default="output",
        title="Output folder",
        description="Where images, results.csv and the contact sheet go.",
        min_length=1,
    )
    money: Money = Field(default=Money(), title="Money", description="What the run may spend.")
    delivery: Delivery = Field(
        default=Delivery(), title="Delivery", description="Where images go once they are bought."
    )
    rows: Rows = Field(default=Rows(), title="Rows", description="Rows that a run leaves alone unless you say so.")
    advanced: Advanced = Field(default=Advanced(), title="Advanced", description="What most runs leave as it is.")

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if not (self.csv or self.pasted.strip()):
            raise ValueError("Name a CSV file, or paste its rows")
        return self

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Settings out of their bare names, as the command has them: each goes into its group.

        Raises: pydantic.ValidationError.
        """
        groups: dict[str, dict[str, Any]] = {}
        for name, value in given.items():
            groups.setdefault(_GROUP_OF.get(name, ""), {})[name] = value
        return cls(**groups.pop("", {}), **groups)


_GROUP_OF = {
    name: group
    for group, kind in (("money", Money), ("delivery", Delivery), ("rows", Rows), ("advanced", Advanced))
    for name in kind.model_fields
}
BARE_NAMES = frozenset({*BatchSettings.model_fields, *_GROUP_OF}) - set(_GROUP_OF.values())


class CheckSettings(Form):
    """Which doors to the outside to try."""

    generator: str = Field(
        default="proof",
        title="Image generator",
        description="As in generate-images: proof, anycap, or a block as type-slug/name. It is asked for no image.",
        min_length=1,
    )
    store: BlockName = Field(
        default="",
        title="Store",
        description="As s3-bucket/NAME: a small object is written there and deleted. Empty: none is tried.",
    )
    cms: BlockName = Field(
        default="",
        title="CMS",
        description="As cms-site/NAME: it is asked for its items, and nothing is changed. Empty: none is tried.",
    )
    sku: str = Field(
        default="",
        title="An item of the CMS",
        description="A sku that the CMS has, to be read. Empty: only the list is asked for.",
    )
    notify: BlockName = Field(
        default="",
        title="Notify",
        description="As slack-webhook/NAME. Empty: none is tried.",
    )
    send_test: bool = Field(
        default=False,
        title="Send a test message",
        description="Only a message can prove a webhook. Whoever reads that channel sees it.",
    )


class RedoSettings(Form):
    """Which images to make again, on purpose, and with what words added."""

    model_config = ConfigDict(str_strip_whitespace=False)  # a sku is taken as it is

    skus: list[str] = Field(
        title="SKUs",
        description="The rows to make again, by their sku. The images they have stay.",
        min_length=1,
    )
    template: str = Field(
        default="",
        title="Template",
        description="Only the images of this template; needed where a sku has several.",
    )
    add: str = Field(
        default="",
        title="Words to add",
        description="Put at the end of the prompt, such as: softer light, no shadow.",
    )
    generator: str = Field(
        default="",
        title="Image generator",
        description="Empty: the one that made the image, if it is proof or anycap.",
    )
    output: str = Field(
        default="output",
        title="Output folder",
        description="The output whose images they are.",
        min_length=1,
    )
    retry_unknown: bool = Field(
        default=False,
        title="Buy images of unknown outcome again",
        description="Those of a redo whose call went out and got no answer. They may have been paid for already.",
    )
    max_cost_usd: MaxCost = ""
    max_cost_per_day_usd: MaxCostPerDay = ""
    concurrency: Concurrency = 4
    templates: Templates = ""
    prices: Prices = ""
    ledger: LedgerUrl = ""

    @property
    def caps(self) -> Caps:
        """What may be spent."""
        return Caps.parse(self.max_cost_usd, self.max_cost_per_day_usd)
