"""A server on the loopback that keeps to the contract of Slack's incoming webhooks, faults included."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

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


class SlackServer:
    """A webhook at `url`. `faults` are answered one by one before messages are taken: a code of REFUSALS, "429" (with a
    Retry-After of `retry_after`), "hang up", or "not ok", which is a 200 that doesn't say so.
    """

    def __init__(self, *faults: str, retry_after: str = "1", images_load: bool = True) -> None:
        self.faults = deque(faults)
        self.retry_after = retry_after
        self.images_load = images_load
        self.messages: list[dict[str, Any]] = []
        self.requests = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, said, headers = server.answer(self.path, body)
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(said))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.path = f"/services/T00000000/B00000000/{SECRET}"
        self.url = f"http://{self.host}{self.path}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, str, dict[str, str]]:
        """The status (0: none, the connection is cut), the body and the headers for one request."""
        self.requests += 1
        if self.faults:
            return self._fault(self.faults.popleft())
        if path != self.path:
            return 404, "no_service", {}
        try:
            message = json.loads(body)
        except ValueError:
            return 400, "invalid_payload", {}
        wrong = invalid(message)
        if not wrong and not self.images_load and any(block["type"] == "image" for block in message["blocks"]):
            wrong = "invalid_blocks"
        if wrong:
            return 400, wrong, {}
        self.messages.append(message)
        return 200, "ok", {}

    def _fault(self, fault: str) -> tuple[int, str, dict[str, str]]:
        if fault == "429":
            return 429, "rate_limited", {"Retry-After": self.retry_after}
        if fault == "hang up":
            return 0, "", {}
        if fault == "not ok":
            return 200, "<html>Sign in</html>", {}
        return REFUSALS[fault], fault, {}


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
