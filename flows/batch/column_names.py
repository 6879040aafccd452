"""Which column a template's variable comes from, as one line of text: a form has no field for pairs."""

import csv
from collections.abc import Mapping
from io import StringIO
from typing import Annotated

from pydantic import AfterValidator


def parse_columns(text: str) -> dict[str, str]:
    """Read pairs such as `product_name=title, color=colour`: template variable to CSV column.

    A pair with a comma in it stands in quotes: "name=Colour, main". Raises: ValueError.
    """
    pairs = [pair.partition("=") for pair in _cells(text)]
    wrong = ["".join(pair) for pair in pairs if not (pair[0].strip() and pair[2])]
    if wrong:
        raise ValueError(f"{wrong[0]!r} says no column: write variable=column, and a comma between two")
    return {variable.strip(): column for variable, _, column in pairs}


def columns_text(columns: Mapping[str, str]) -> str:
    """The line that `parse_columns` reads."""
    line = StringIO()
    csv.writer(line, lineterminator="").writerow([f"{variable}={column}" for variable, column in columns.items()])
    return line.getvalue()


def _cells(text: str) -> list[str]:
    lines = csv.reader(text.splitlines(), skipinitialspace=True)
    return [cell for line in lines for cell in line if cell.strip()]


def _checked(text: str) -> str:
    parse_columns(text)
    return text


ColumnNames = Annotated[str, AfterValidator(_checked)]
