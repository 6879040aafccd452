"""The path and the body of a request to a CMS, from a person's templates and values that nobody vouches for."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from blocks.errors import DeliveryRefused

NAMES: Final = ("sku", "template", "url")
URL_ALONE: Final = re.compile(r"\s*\{\{\s*url\s*\}\}\s*")
_SAMPLE: Final = {"sku": "A-1", "template": "product", "url": "https://example.com/a.png"}


def _quoted(value: object) -> str:
    return quote(str(value), safe="")


# Finalize is what every {{ ... }} goes through, so no value can end its part of the path.
_PATHS: Final = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, finalize=_quoted)
_TEXTS: Final = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


def render_path(template: str, sku: str, of_template: str) -> str:
    """The path of one item, each value URL-quoted whole. Raises: DeliveryRefused for a sku that no path can hold."""
    if sku in {".", ".."}:  # every HTTP client takes these for "here" and "one up", quoted or not
        raise DeliveryRefused(f"The sku {sku!r} can't stand in a web address. Give the product another one.")
    return _compiled(_PATHS, template).render(sku=sku, template=of_template)


def list_path(template: str) -> str:
    """The path up to its first value: where a CMS lists its items."""
    return template.partition("?")[0].partition("{{")[0].rstrip("/") or "/"


def render_body(template: str, values: Mapping[str, Any]) -> Any:
    """The body as JSON data. Only its strings are templates, so a value can't change its shape; a string that is
    `{{ url }}` alone becomes the value as it is, be it a text or null.
    """
    return _filled(json.loads(template), values)


def check_path(template: str) -> str:
    """The path template itself. Raises: ValueError, whose text names the mend."""
    if not template.startswith("/"):
        raise ValueError("Begin the path with a slash, such as /items/products/{{ sku }}.")
    _check(_PATHS, template, {"sku": _SAMPLE["sku"], "template": _SAMPLE["template"]})
    if "{{" not in template:
        raise ValueError("The path names no item: write {{ sku }} where the sku belongs.")
    return template


def check_body(template: str) -> str:
    """The body template itself. Raises: ValueError, whose text names the mend."""
    try:
        data = json.loads(template)
    except ValueError as error:
        raise ValueError(f'It is no JSON ({error}). Write it like {{"image_url": "{{{{ url }}}}"}}.') from error
    if url_place(data) is None:
        raise ValueError('No value in it is the image\'s address: write {"image_url": "{{ url }}"}.')
    for text in _texts(data):
        _check(_TEXTS, text, _SAMPLE)
    return template


def url_place(data: Any) -> tuple[str, ...] | None:
    """Where in the body the image's address stands, as the keys that lead there."""
    if isinstance(data, str):
        return () if URL_ALONE.fullmatch(data) else None
    found = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in found:
        below = url_place(value)
        if below is not None:
            return (str(key), *below)
    return None


def _filled(data: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(data, dict):
        return {key: _filled(value, values) for key, value in data.items()}
    if isinstance(data, list):
        return [_filled(value, values) for value in data]
    if not isinstance(data, str):
        return data
    if URL_ALONE.fullmatch(data):
        return values["url"]
    return _compiled(_TEXTS, data).render(values)


def _texts(data: Any) -> list[str]:
    if isinstance(data, str):
        return [data]
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return [text for value in inner for text in _texts(value)]


def _check(environment: ImmutableSandboxedEnvironment, template: str, sample: Mapping[str, str]) -> None:
    try:
        _compiled(environment, template).render(sample)
    except TemplateError as error:
        raise ValueError(f"{error}. It may name {', '.join(sample)}, as in {{{{ sku }}}}.") from error


@lru_cache(maxsize=64)
def _compiled(environment: ImmutableSandboxedEnvironment, template: str) -> Template:
    return environment.from_string(template)
