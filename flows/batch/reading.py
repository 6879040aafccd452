"""Reading settings as they come over the wire, and saying what is wrong with them by the names that the form shows."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flows.batch.problems import NotStarted, Problem

Settings = TypeVar("Settings", bound=BaseModel)

IN_WORDS = {
    "missing": "It has to be filled in.",
    "string_type": "Write text.",
    "bool_parsing": "Say yes or no (true or false).",
    "bool_type": "Say yes or no (true or false).",
    "int_parsing": "Write a whole number.",
    "int_type": "Write a whole number.",
    "int_from_float": "Write a whole number.",
    "float_parsing": "Write a number.",
    "float_type": "Write a number.",
    "string_too_short": "It has to be filled in.",
    "model_type": "It is a group of settings, not one value.",
    "greater_than_equal": "Write {ge} or more.",
    "less_than_equal": "Write {le} or less.",
    "enum": "Choose one of {expected}.",
}


def read_settings(kind: type[Settings], given: Any) -> Settings:
    """The settings in what was given. Raises: NotStarted with all that is wrong, by the titles of the fields."""
    if isinstance(given, kind):
        return given
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise NotStarted([_problem(kind, found) for found in error.errors()]) from error


def _problem(kind: type[BaseModel], found: ErrorDetails) -> Problem:
    titles, known = _titles(kind, found["loc"])
    where = ", ".join(titles)
    if found["type"] == "extra_forbidden":
        return Problem(f"There is no setting {where!r}.", f"There are: {', '.join(known)}.")
    ours = IN_WORDS.get(found["type"])  # a message may quote what was given, and so is no pattern to fill in
    told = ours.format_map(_Context(found.get("ctx") or {})) if ours else found["msg"].removeprefix("Value error, ")
    told = told if told.endswith(".") else f"{told}."
    if not where:
        return Problem(told, "")
    if found["type"] == "missing":
        return Problem(f"{where}: {told}", "")
    return Problem(f"{where}: {_short(found['input'])} can't be used.", told)


def _titles(kind: type[BaseModel], place: Sequence[int | str]) -> tuple[list[str], list[str]]:
    """The titles on the way to a place, and the names of the settings beside it."""
    titles: list[str] = []
    group: Any = kind
    known: list[str] = []
    for part in place:
        fields = getattr(group, "model_fields", {})
        known = list(fields)
        field = fields.get(part)
        titles.append((field.title if field else "") or str(part))
        group = field.annotation if field else None
    return titles, known


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."  # noqa: PLR2004 - what a line has room for


class _Context(dict[str, Any]):
    """What an error says of itself; a name that it doesn't say stays as it is."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        super().__init__(told)

    def __missing__(self, name: str) -> str:
        return f"{{{name}}}"
