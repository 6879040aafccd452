"""Reads what the AnyCap CLI leaves behind: an image, or the error that says what the caller may do."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from blocks.anycap_codes import MEANINGS, PROGRAM, PROVIDER, Meaning
from blocks.errors import ImageGenerationError, NoImage, RateLimited
from blocks.image import GeneratedImage

LONGEST_QUOTE: Final = 300
_LONGEST_CODE: Final = 60
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}
_RETRY_AFTER: Final = re.compile(r"retry[ _-]after[\"':= ]*(\d+(?:\.\d+)?) ?(ms|s|m|)", re.IGNORECASE)
_HTTP_CODE: Final = re.compile(r"http_(\d{3})")

_TOLD_IN_WORDS: Final = (
    # Go says "dial" only while it has no connection, so nothing of the request can have gone out.
    ("connection_error", re.compile(r'Post "[^"]*": (?:proxyconnect tcp: )?dial tcp'), "connect_failed"),
    (
        "connection_error",
        re.compile(r'Post "[^"]*": (?:tls: failed to verify|net/http: TLS handshake timeout)'),
        "connect_failed",
    ),
    ("error", re.compile(r"operation succeeded but download failed"), "download_failed"),
    ("error", re.compile(r"failed to resolve parameter .*local file is unavailable", re.DOTALL), "bad_argument"),
    ("error", re.compile(r"failed to resolve parameter|model schema is unavailable"), "reference_failed"),
    (
        "error",
        re.compile(r"unknown (?:shorthand )?flag|invalid --param|required flag|flag needs an argument"),
        "bad_argument",
    ),
)
"""What the CLI tells by its message alone: its code, how the message begins, and our name for it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The CLI's JSON, with the server's body taken out of its message."""

    fields: dict[str, Any]
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        """Whether it reports a success; there may be no image all the same."""
        return self.fields.get("status") == "success" and not self.fields.get("error")

    @property
    def outer_code(self) -> str:
        """The CLI's own code, empty where it has none."""
        return _code_of(self.fields)

    @property
    def body_code(self) -> str:
        """The provider's code inside the server's body, empty where there is none."""
        return _code_of(self.body)

    @property
    def message(self) -> str:
        """The provider's own words, else the CLI's."""
        return _message_of(self.body) or _message_of(self.fields)

    @property
    def request_id(self) -> str:
        """The handle for the provider's support."""
        found = (self.fields.get(name) or self.body.get(name) for name in ("trace_id", "request_id"))
        return next((text for text in found if isinstance(text, str) and text), "")

    @property
    def url(self) -> str:
        """Where the provider keeps the image; empty if it is no web address."""
        found = (self.fields.get(name) for name in ("url", "image_url"))
        return next((text for text in found if isinstance(text, str) and text.startswith(("http://", "https://"))), "")

    @property
    def credits_used(self) -> Decimal | None:
        """What the call cost in credits, None where the answer does not tell."""
        value = self.fields.get("credits_used", self.fields.get("credit_cost"))
        if value is None or isinstance(value, bool):
            return None
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            return None
        return number if number.is_finite() and number >= 0 else None


def parse_answer(text: str) -> Answer | None:
    """The answer in the CLI's output; None where the text is no whole JSON object."""
    fields = _json_object(text)
    if fields is None:
        return None
    message = fields.get("message")
    return Answer(fields, (_json_object(message) if isinstance(message, str) else None) or {})


def read_answer(
    exit_code: int | None,
    text: str,
    folder: Path,
    *,
    model: str,
    trace_id: str = "",
    secrets: Sequence[str] = (),
) -> GeneratedImage:
    """The image that an answer reports.

    `exit_code` is None where it is not known, or where the child was killed. `folder` is the call's own: a file outside
    of it is no image of ours, whatever the answer says. `trace_id` stands in where the answer has none. `secrets` never
    show up in an error's text. Raises: a leaf of ImageGenerationError where there is no image.
    """
    answer = parse_answer(text)
    if answer is None:
        code = "not_json" if exit_code == 0 else "no_answer" if exit_code is not None else "half_answer"
        raise _error(code, code, Answer({"message": text}), trace_id, secrets)
    if not answer.succeeded:
        key, code = _classify(answer)
        raise _error(key, code, answer, trace_id, secrets)
    local_path = answer.fields.get("local_path")
    if not isinstance(local_path, str) or not local_path:
        raise _error("no_outputs", "no_outputs", answer, trace_id, secrets)
    path = Path(local_path)
    if "\0" in local_path or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise _error("no_file", "no_file", answer, trace_id, secrets)
    told = answer.fields.get("model")
    return GeneratedImage(
        path=path,
        model=told if isinstance(told, str) and told else model,
        request_id=answer.request_id or trace_id,
        url=answer.url,
        credits_used=answer.credits_used,
    )


def failure(
    key: str, *, said: str = "", code: str = "", request_id: str = "", secrets: Sequence[str] = ()
) -> ImageGenerationError:
    """The error for a code of the table, for the caller to raise. `said`: the provider's own words, shortened here."""
    return _build(MEANINGS[key], said=said, code=code or key, request_id=request_id, secrets=secrets)


def _error(key: str, code: str, answer: Answer, trace_id: str, secrets: Sequence[str]) -> ImageGenerationError:
    error = failure(key, said=answer.message, code=code, request_id=answer.request_id or trace_id, secrets=secrets)
    if isinstance(error, NoImage):
        error.credits_used, error.url = answer.credits_used, answer.url
    if isinstance(error, RateLimited):
        error.retry_after_s = _retry_after_s(answer)
    return error


def _build(meaning: Meaning, *, said: str, code: str, request_id: str, secrets: Sequence[str]) -> ImageGenerationError:
    quote, code, request_id = (_clean(text, secrets) for text in (said, code, request_id))
    quote = quote.rstrip(".") if len(quote) <= LONGEST_QUOTE else f"{quote[:LONGEST_QUOTE]}…"
    told = f"{meaning.what}: {quote} ({code})." if quote else f"{meaning.what} ({code})."
    trace = f" Trace id: {request_id}." if request_id else ""
    return meaning.error(f"{told} {meaning.mend}{trace}", code=code[:_LONGEST_CODE], request_id=request_id)


def _classify(answer: Answer) -> tuple[str, str]:
    """The table's key, and the code to report: the body's own code first, then the CLI's words, then the status."""
    outer, told = answer.outer_code, answer.body_code
    code = told or outer
    if outer == "http_429" and not _spelt(told) and "quota" in f"{told} {answer.message}".lower():
        return "QUOTA_EXCEEDED", code
    in_words = (key for of_code, words, key in _TOLD_IN_WORDS if outer == of_code and words.match(answer.message))
    if known := _spelt(told) or _spelt(outer) or next(in_words, ""):
        return known, known
    if outer in PROGRAM:
        return outer, code
    if status := _HTTP_CODE.fullmatch(outer):
        return "http_400" if status[1].startswith("4") else "http_500", code
    if answer.fields.get("status") == "error" or not outer:
        return "status_error", code or "status_error"
    return "error", code


def _spelt(code: str) -> str:
    """The provider's code as the table spells it; empty where it is not there."""
    return next((known for known in (code, code.upper(), code.lower()) if known in PROVIDER), "")


def _code_of(fields: dict[str, Any]) -> str:
    error = fields.get("error")
    found = (error.get("code"), error.get("error")) if isinstance(error, dict) else (error, fields.get("code"))
    return next((text.strip() for text in found if isinstance(text, str) and text.strip()), "")


def _message_of(fields: dict[str, Any]) -> str:
    error = fields.get("error")
    found = (fields.get("message"), error.get("message") if isinstance(error, dict) else None)
    return next((text for text in found if isinstance(text, str) and text), "")


def _retry_after_s(answer: Answer) -> float | None:
    value = answer.body.get("retry_after")
    if isinstance(value, int | Decimal) and not isinstance(value, bool) and value >= 0:
        return float(value)
    told = _RETRY_AFTER.search(answer.message)
    return float(told[1]) * _SECONDS[told[2].lower()] if told else None


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _clean(text: str, secrets: Sequence[str]) -> str:
    """One printable line without secrets."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
