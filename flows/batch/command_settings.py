"""The settings that a command's options ask for."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from flows.batch.approval import skus_in
from flows.batch.column_names import columns_text
from flows.batch.problems import NotStarted, Problem
from flows.batch.settings import BARE_NAMES, BatchSettings, RedoSettings

Settings = TypeVar("Settings", BatchSettings, RedoSettings)

_OPTIONS = {
    "csv": "CSV",
    "skus": "--sku",
    "max_cost_usd": "--max-cost",
    "max_cost_per_day_usd": "--max-cost-per-day",
    "shard_deployment": "--shards-on",
}


def batch_settings(options: Namespace) -> BatchSettings:
    """The settings of `rowshot run` and `rowshot plan`. Raises: NotStarted."""
    given = {name: value for name, value in vars(options).items() if name in BARE_NAMES and value is not None}
    pairs = [pair.partition("=") for pair in given.pop("columns", [])]
    wrong = [variable for variable, equals, column in pairs if not (variable and equals and column)]
    if wrong:
        raise NotStarted([Problem(f"--map {text} says no column.", "Write --map VARIABLE=COLUMN.") for text in wrong])
    columns = columns_text({variable: column for variable, _, column in pairs})
    return _checked(BatchSettings.of, given | {"columns": columns})


def redo_settings(options: Namespace) -> RedoSettings:
    """The settings of `rowshot redo`. Raises: NotStarted."""
    fields = RedoSettings.model_fields
    given = {name: value for name, value in vars(options).items() if name in fields and value is not None}
    return _checked(RedoSettings, given | {"skus": list(skus_in(options.sku))})


def _checked(make: Callable[..., Settings], given: dict[str, Any]) -> Settings:
    try:
        return make(**given)
    except ValidationError as error:
        wrong = [(str((found["loc"] or ["csv"])[-1]), found["msg"]) for found in error.errors()]
        raise NotStarted(
            [
                Problem(f"{_OPTIONS.get(name, '--' + name.replace('_', '-'))}: {told}.", "See rowshot --help.")
                for name, told in wrong
            ]
        ) from error
