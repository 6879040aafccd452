"""What the form offers as lists: the templates and the models that there are when a deployment is made."""

import os
from datetime import date
from pathlib import Path
from typing import Any

TEMPLATES = "ROWSHOT_TEMPLATES"
AS_THE_TEMPLATE_SAYS = "as the template says"


def template_folders(given: str = "") -> list[Path]:
    """The folders that are searched before the built-in templates: the one given, else ROWSHOT_TEMPLATES's."""
    folder = given or os.environ.get(TEMPLATES, "")
    return [Path(folder).expanduser()] if folder else []


def offer_templates(schema: dict[str, Any]) -> None:
    """Make the field a list of the templates. Raises: NotStarted where their folder can't be read."""
    from flows.batch.prompts import load_templates  # noqa: PLC0415 - a form is made seldom, and settings are read often

    schema["enum"] = sorted(load_templates(template_folders()).names)


def offer_models(schema: dict[str, Any]) -> None:
    """Make the field a list of the price book's models, but for those that are retired. Raises: NotStarted."""
    from flows.batch.prices import ANY, PriceBook  # noqa: PLC0415 - as above

    today = date.today()  # noqa: DTZ011 - a provider retires a model on a day of the user's own
    sold = {p.model for p in PriceBook.open() if p.model != ANY and not (p.retires and p.retires <= today)}
    schema["enum"] = [AS_THE_TEMPLATE_SAYS, *sorted(sold)]
    schema["default"] = AS_THE_TEMPLATE_SAYS  # an empty choice would look like none
