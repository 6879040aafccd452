"""What servers say in headers and error texts, made fit for use."""

import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST_QUOTE: Final = 300
_MOST_DIGITS: Final = 9


def retry_after_s(header: str) -> float | None:
    """A Retry-After header, seconds or a date, as seconds from now; None where there is none that can be read."""
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def one_line(text: str, secrets: Iterable[str]) -> str:
    """One short printable line without secrets."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= LONGEST_QUOTE else f"{line[:LONGEST_QUOTE]}…"
