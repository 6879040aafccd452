"""How much may be spent at most, and reading it from a setting's text."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

DOLLARS = r"^([0-9]{1,9}(\.[0-9]{1,9})?)?$"


@dataclass(frozen=True, slots=True)
class Caps:
    """How much may be spent, in US dollars: by one run, and in one day (UTC) by all runs of a ledger. None: any."""

    run_usd: Decimal | None = None
    day_usd: Decimal | None = None

    def __bool__(self) -> bool:
        return self.run_usd is not None or self.day_usd is not None

    @classmethod
    def parse(cls, run_usd: str, day_usd: str) -> "Caps":
        """Read the settings' texts; an empty one is no cap, and "0" is one that lets nothing be bought."""
        return cls(Decimal(run_usd) if run_usd else None, Decimal(day_usd) if day_usd else None)


NO_CAPS = Caps()


def _dollars(given: Any) -> str:
    text = "" if given is None else str(given).strip()
    if isinstance(given, bool) or not re.fullmatch(DOLLARS, text):
        raise PydanticCustomError("dollars", "Write US dollars such as 25 or 0.50, or leave it empty for no cap")
    return text


# An amount or nothing: one field in a form, where a number that may be missing draws as a choice of types. Without a
# pattern, which a server would quote to whoever fills in the form.
Dollars = Annotated[str, BeforeValidator(_dollars), WithJsonSchema({"type": "string"})]
