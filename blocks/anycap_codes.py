"""Every code that AnyCap is known to answer with, and what each means for the row and for the money. Data only.

`docs/generators.md` holds the same table; a test keeps the two equal.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from blocks.errors import (
    AuthenticationFailed,
    ContentRejected,
    ImageGenerationError,
    InsufficientCredit,
    InvalidRequest,
    NoImage,
    OutcomeUnknown,
    QuotaExhausted,
    RateLimited,
    ServiceUnavailable,
)


class Charged(StrEnum):
    """Whether the call was paid for."""

    NO = "no"
    MAYBE = "maybe"
    YES = "yes"


class NewCall(StrEnum):
    """What another call for the same row is."""

    FREE = "free"
    NEVER = "never"
    LOOK_FIRST = "look first"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one code means. `what` and `mend` make the error's text, with the provider's own words between them."""

    error: type[ImageGenerationError]
    charged: Charged
    new_call: NewCall
    what: str
    mend: str


def _free(error: type[ImageGenerationError], what: str, mend: str) -> Meaning:
    return Meaning(error, Charged.NO, NewCall.FREE, what, mend)


def _refused(error: type[ImageGenerationError], what: str, mend: str) -> Meaning:
    return Meaning(error, Charged.NO, NewCall.NEVER, what, mend)


def _look_first(error: type[ImageGenerationError], charged: Charged, what: str, mend: str) -> Meaning:
    return Meaning(error, charged, NewCall.LOOK_FIRST, what, mend)


_SLOW_DOWN = _free(
    RateLimited,
    "AnyCap takes no more calls for now",
    "The run waits and asks again by itself; if this goes on, lower --concurrency.",
)
_QUOTA = _free(
    QuotaExhausted,
    "The AnyCap quota is used up",
    "Wait for the next period or ask for a larger quota, then run again; what is bought stays bought.",
)
_CREDIT = _free(
    InsufficientCredit,
    "The AnyCap account has no credit left",
    "Top it up, then run again; what is bought stays bought.",
)
_KEY = _free(
    AuthenticationFailed,
    "AnyCap does not take the key",
    "Set ANYCAP_API_KEY to a key that is valid, or the api_key of the block, or run 'anycap login'.",
)
_FORBIDDEN = _free(
    AuthenticationFailed,
    "AnyCap does not let this key do that",
    "Use a key with the right to make images, or ask the account's owner for it.",
)
_CONTENT = _refused(
    ContentRejected,
    "The model refused what the prompt or a reference shows",
    "Change the row's words or its reference; the same call would be refused again.",
)
_REQUEST = _refused(
    InvalidRequest,
    "AnyCap does not take this request",
    "Look at the row's model and params; 'anycap image models MODEL schema' lists what the model takes.",
)
_FEATURE = _refused(
    InvalidRequest,
    "This account may not use that model or feature",
    "Choose another model for the row, or ask AnyCap to open it for the account.",
)
_DOWN = _free(
    ServiceUnavailable, "AnyCap is down", "Nothing was drawn; the run asks again by itself, or run again later."
)
_NOT_REACHED = _free(
    ServiceUnavailable,
    "AnyCap could not be reached",
    "Nothing was sent; check the network and the endpoint, then run again.",
)
_PREPARING = _free(
    ServiceUnavailable,
    "A reference image could not be handed to AnyCap",
    "The request for a picture was never sent; run again.",
)
_UNKNOWN = _look_first(
    OutcomeUnknown,
    Charged.MAYBE,
    "Nobody can tell whether AnyCap drew this row",
    "Look in AnyCap's dashboard for it; --retry-unknown buys it again.",
)
_LATE = _look_first(
    OutcomeUnknown,
    Charged.MAYBE,
    "AnyCap did not answer in time",
    "Look in AnyCap's dashboard for it; for a slow model raise the block's timeout_s; --retry-unknown buys it again.",
)
_BOUGHT_NOT_FETCHED = _look_first(
    OutcomeUnknown,
    Charged.YES,
    "AnyCap drew this row and its file did not arrive",
    "It is paid for: look in AnyCap's dashboard for the picture; --retry-unknown buys it again.",
)
_EMPTY = _look_first(
    NoImage,
    Charged.MAYBE,
    "AnyCap answered without a picture",
    "Look at what the call cost before the row is asked for again.",
)
_NOT_JSON = _look_first(
    NoImage,
    Charged.MAYBE,
    "AnyCap answered with something that is no answer",
    "Check that the endpoint is AnyCap's and no login or maintenance page, then look in its dashboard.",
)
_NO_FILE = _look_first(
    NoImage,
    Charged.YES,
    "AnyCap reports a picture, and its file is not there",
    "Fetch it from its url, which is free, or look in AnyCap's dashboard.",
)

PROVIDER: dict[str, Meaning] = {
    "RATE_LIMITED": _SLOW_DOWN,
    "QUOTA_EXCEEDED": _QUOTA,
    "QUOTA_EXHAUSTED": _QUOTA,
    "INSUFFICIENT_CREDIT": _CREDIT,
    "auth_invalid": _KEY,
    "CONTENT_REJECTED": _CONTENT,
    "FEATURE_DISABLED": _FEATURE,
    "FEATURE_NOT_ALLOWED": _FEATURE,
    "missing_input": _REQUEST,
    "invalid_param": _REQUEST,
    "UPSTREAM_UNAVAILABLE": _DOWN,
    "UPSTREAM_EMPTY": _EMPTY,
    "UPSTREAM_EMPTY_RESULT": _EMPTY,
    "INTERNAL_ERROR": _UNKNOWN,
    "TIMEOUT": _LATE,
}
"""Codes of the provider's own, inside the body: they count before all others."""

PROGRAM: dict[str, Meaning] = {
    "auth_required": _KEY,
    "invalid_args": _REQUEST,
    "error": _UNKNOWN,
    "connection_error": _UNKNOWN,
    "http_400": _REQUEST,
    "http_401": _KEY,
    "http_402": _CREDIT,
    "http_403": _FORBIDDEN,
    "http_404": _REQUEST,
    "http_408": _LATE,
    "http_409": _UNKNOWN,
    "http_413": _REQUEST,
    "http_422": _REQUEST,
    "http_429": _SLOW_DOWN,
    "http_500": _UNKNOWN,
    "http_502": _UNKNOWN,
    "http_503": _DOWN,
    "http_504": _LATE,
}
"""Codes of the CLI: they count where the body has none that is known."""

OURS: dict[str, Meaning] = {
    "connect_failed": _NOT_REACHED,
    "bad_argument": _REQUEST,
    "reference_failed": _PREPARING,
    "download_failed": _BOUGHT_NOT_FETCHED,
    "not_json": _NOT_JSON,
    "no_outputs": _EMPTY,
    "status_error": _EMPTY,
    "no_file": _NO_FILE,
    "no_answer": _UNKNOWN,
    "half_answer": _UNKNOWN,
    "time_out": _LATE,
}
"""Names of our own for what the CLI tells in words only, or not at all."""

MEANINGS: dict[str, Meaning] = {**PROVIDER, **PROGRAM, **OURS}


def markdown_table() -> str:
    """The table of `docs/generators.md`."""
    return "\n".join(_lines())


def _lines() -> Iterable[str]:
    yield "| code | whose | class | charged | new call | mend |"
    yield "|---|---|---|---|---|---|"
    for whose, codes in (("AnyCap", PROVIDER), ("the CLI", PROGRAM), ("Rowshot", OURS)):
        for code, meaning in codes.items():
            name = meaning.error.__name__
            yield f"| `{code}` | {whose} | {name} | {meaning.charged} | {meaning.new_call} | {meaning.mend} |"
