"""A server on the loopback that keeps to the contract of Slack's incoming webhooks, faults included."""

import json
from collections import deque
from typing import Any

from http_double import Answer, Asked, HttpDouble

MOST_BLOCKS = 50
MOST_TEXT = 3000
MOST_HEADER = 150
MOST_FIELDS = 10
MOST_FIELD = 2000
SECRET = "XsecretXwebhookXtoken0123"

REFUSALS = {
    "action_prohibited": 403,
    "no_service": 404,
    "channel_not_found": 404,
    "channel_is_archived": 410,
    "rollup_error": 500,
}


class SlackServer(HttpDouble):
    """A webhook at `webhook`. `faults` are answered one by one before messages are taken: a code of REFUSALS, "429"
    (with a Retry-After of `retry_after`), "hang up", or "not ok", which is a 200 that doesn't say so.
    """

    def __init__(self, *faults: str, retry_after: str = "1", images_load: bool = True) -> None:
        self.faults = deque(faults)
        self.retry_after = retry_after
        self.images_load = images_load
        self.messages: list[dict[str, Any]] = []
        self.requests = 0
        super().__init__(self._answer)
        self.path = f"/services/T00000000/B00000000/{SECRET}"
        self.webhook = f"{self.url}{self.path}"

    def _answer(self, asked: Asked) -> Answer | None:
        self.requests += 1
        if self.faults:
            return self._fault(self.faults.popleft())
        if asked.path != self.path:
            return Answer(b"no_service", 404)
        try:
            message = json.loads(asked.body)
        except ValueError:
            return Answer(b"invalid_payload", 400)
        wrong = invalid(message)
        if not wrong and not self.images_load and any(block["type"] == "image" for block in message["blocks"]):
            wrong = "invalid_blocks"
        if wrong:
            return Answer(wrong.encode(), 400)
        self.messages.append(message)
        return Answer(b"ok")

    def _fault(self, fault: str) -> Answer | None:
        if fault == "429":
            return Answer(b"rate_limited", 429, {"Retry-After": self.retry_after})
        if fault == "hang up":
            return None
        if fault == "not ok":
            return Answer(b"<html>Sign in</html>")
        return Answer(fault.encode(), REFUSALS[fault])


def invalid(message: Any) -> str:
    """Why Slack would refuse this message; empty if it wouldn't."""
    if not isinstance(message, dict):
        return "invalid_payload"
    if not message.get("text") and not message.get("blocks"):
        return "no_text"
    blocks = message.get("blocks", [])
    if len(blocks) > MOST_BLOCKS or not all(_is_valid(block) for block in blocks):
        return "invalid_blocks"
    return ""


def _is_valid(block: Any) -> bool:  # noqa: PLR0911 - a table
    match block:
        case {"type": "header", "text": {"type": "plain_text", "text": str(text)}}:
            return 0 < len(text) <= MOST_HEADER
        case {"type": "section", "text": {"type": "mrkdwn" | "plain_text", "text": str(text)}}:
            return 0 < len(text) <= MOST_TEXT
        case {"type": "section", "fields": [_, *_] as fields}:
            return len(fields) <= MOST_FIELDS and all(0 < len(one["text"]) <= MOST_FIELD for one in fields)
        case {"type": "context", "elements": [_, *_] as elements}:
            return len(elements) <= MOST_FIELDS and all(0 < len(one["text"]) <= MOST_TEXT for one in elements)
        case {"type": "image", "image_url": str(url), "alt_text": str(alt)}:
            return url.startswith("https://") and len(url) <= MOST_TEXT and 0 < len(alt) <= MOST_FIELD
        case {"type": "divider"}:
            return True
    return False
