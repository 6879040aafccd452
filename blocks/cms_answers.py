"""Reads what a CMS answers: the value of a field, or the error that says what the caller may do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from blocks.errors import (
    DeliveryError,
    DeliveryForbidden,
    DeliveryRefused,
    DeliveryStopped,
    DeliveryUnavailable,
    MissingSku,
    ValueNotTaken,
)
from blocks.http_answers import one_line, retry_after_s

_PATIENCE: Final = frozenset({408, 425, 429, 503})
_MESSAGES: Final = (("errors", "0", "message"), ("error", "message"), ("message",), ("detail",), ("error",))


class Asked(StrEnum):
    """What a request was for."""

    LIST = "list the items"
    READ = "read the item"
    CHANGE = "change the item"


@dataclass(frozen=True, slots=True)
class FieldValue:
    """What a CMS has in a field. `found` is False where its answer has no such field, as where it leaves out nulls."""

    value: Any = None
    found: bool = False


@dataclass(frozen=True, slots=True)
class CmsAnswer:
    """The status, the body (None where it is no JSON) and the headers that matter."""

    status: int
    body: Any
    is_json: bool
    retry_after: str = ""
    location: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is a success by its status, which proves little."""
        return 200 <= self.status < 300  # noqa: PLR2004 - HTTP's own bounds

    @property
    def retry_after_s(self) -> float | None:
        """How long the CMS asks to be left alone, in seconds; None where it does not say."""
        return retry_after_s(self.retry_after)

    def field(self, places: Iterable[Sequence[str]]) -> FieldValue:
        """The first of these places that the body has."""
        for place in places:
            found = _at(self.body, place)
            if found.found:
                return found
        return FieldValue()

    def said(self, secrets: Iterable[str]) -> str:
        """The CMS's own words about an error, in one short line without secrets."""
        found = (_at(self.body, place).value for place in _MESSAGES)
        return one_line(next((text for text in found if isinstance(text, str) and text), ""), secrets)


def failure(  # noqa: PLR0911 - a table: one status, one answer
    answer: CmsAnswer, asked: Asked, sku: str, secrets: Iterable[str], *, is_allowed: bool
) -> DeliveryError:
    """The error for an answer that is no success, for the caller to raise.

    `is_allowed`: whether the CMS is known to let this token do so much with other items, so that it is about this one.
    """
    said = answer.said(secrets)
    told = f"{answer.status}: {said.rstrip('.')}" if said else str(answer.status)
    of = f"the sku {sku!r}" if asked is not Asked.LIST else "the list of items"
    match answer.status:
        case 401:
            return DeliveryForbidden(f"The CMS does not take the token ({told}). Put a valid one into its block.")
        case 403 if asked is Asked.READ and is_allowed:
            return MissingSku(f"The CMS has no item for {of}, or hides it from the token ({told}). Add it there.")
        case 403 if asked is Asked.CHANGE and is_allowed:
            return DeliveryRefused(
                f"The CMS does not let the token {asked} of {of} ({told}). Give its user the right to."
            )
        case 403:
            return DeliveryForbidden(
                f"The CMS does not let the token {asked} ({told}). Give its user the right to read and update them."
            )
        case 404 | 410 if asked is not Asked.LIST:
            return MissingSku(f"The CMS has no item for {of} ({told}). Add it there, or mend the block's path.")
        case 405 | 501:
            return DeliveryStopped(
                f"The CMS has no such request to {asked} ({told}). Mend the method or the path in its block."
            )
        case status if status in _PATIENCE or status >= 500:  # noqa: PLR2004 - HTTP's own bounds
            return DeliveryUnavailable(
                f"The CMS could not {asked} for now ({told}). Run the same command again later.",
                retry_after_s=answer.retry_after_s,
                asked=status in {429, 503},
            )
        case status if 300 <= status < 400:  # noqa: PLR2004 - HTTP's own bounds
            where = one_line(answer.location.partition("?")[0], secrets) or "elsewhere"
            return DeliveryStopped(
                f"The CMS sends us to {where} ({status}), and the token goes nowhere it wasn't given for. "
                "Put the final address into its block."
            )
        case _ if asked is Asked.CHANGE:
            return ValueNotTaken(f"The CMS refused to {asked} of {of} ({told}). Mend the item, or the block's body.")
        case _:
            return DeliveryRefused(f"The CMS could not {asked} of {of} ({told}). Mend the block's path.")


def _at(body: Any, place: Sequence[str]) -> FieldValue:
    for key in place:
        if isinstance(body, dict) and key in body:
            body = body[key]
        elif isinstance(body, list) and key.isdecimal() and int(key) < len(body):
            body = body[int(key)]
        else:
            return FieldValue()
    return FieldValue(body, found=True)
