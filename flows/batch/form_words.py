"""The command's options by the names that the form shows: whoever fills in a form has never seen an option."""

import re
from collections.abc import Iterator

from pydantic import BaseModel

from flows.batch.settings import BatchSettings, CheckSettings

# Options that aren't called as their field is.
_NAMED_OTHERWISE = {
    "max_cost_usd": "max-cost",
    "max_cost_per_day_usd": "max-cost-per-day",
    "columns": "map",
    "confirm_changed": "yes",
    "shard_deployment": "shards-on",
}
_PARTS = re.compile(r"(`[^`]*`)")


def in_form_words(text: str) -> str:
    """The text with each option of the command replaced by its field's title, but for what stands in backticks."""
    parts = _PARTS.split(text)
    return "".join(part if part.startswith("`") else _OPTION.sub(_title, part) for part in parts)


def _title(found: re.Match[str]) -> str:
    return f"'{_TITLES[found[1]]}'"


def _titles(kind: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _titles(field.annotation)
        else:
            yield _NAMED_OTHERWISE.get(name, name.replace("_", "-")), field.title or name


_TITLES = dict([*_titles(CheckSettings), *_titles(BatchSettings)])
_OPTION = re.compile(rf"--({'|'.join(sorted(_TITLES, key=len, reverse=True))})(?![\w-])")
