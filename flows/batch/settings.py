"""The parameters of the flows: the form's fields, the command's options and a deployment's parameters are these."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from flows.batch.caps import Caps
from flows.batch.settings_groups import (
    Advanced,
    Approve,
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

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class BatchSettings(Form):
    """What to make of a CSV, and with what."""

    csv: str = Field(
        default="",
        title="CSV file",
        description="Path or address of the spreadsheet, a row an image: products.csv, s3://bucket/products.csv or "
        "https://example.com/products.csv. Needs a column sku.",
    )
    pasted: str = Field(
        default="",
        title="Or paste the rows",
        description="The spreadsheet's rows themselves, with the line of column names on top.",
    )
    template: Name = Field(
        default="product",
        title="Template",
        description="Prompt template for rows that name none in a column template.",
    )
    generator: str = Field(
        default="proof",
        title="Image generator",
        description="proof (drawn here, free), anycap (the AnyCap CLI) or a block as type-slug/name, like anycap/team.",
        min_length=1,
    )
    model: str = Field(
        default="",
        title="Model",
        description="Model for rows that name none. Empty: the template's own.",
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
        if bool(self.csv.strip()) == bool(self.pasted.strip()):
            raise ValueError("Name a CSV file, or paste the rows, and not both")
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


class RedoSettings(Form):
    """Which images to make again, on purpose, and with what words added."""

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
