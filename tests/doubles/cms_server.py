"""A REST interface on the loopback in the shapes that content systems have; a test says how it answers."""

import json
from collections.abc import Callable
from typing import Any

from http_double import Answer, Asked, HttpDouble


class CmsServer(HttpDouble):
    """Answers by `answer(method, path, body)`, and keeps what it was asked: (method, path, body, headers)."""

    def __init__(self, answer: Callable[[str, str, Any], Answer]) -> None:
        self.requests: list[tuple[str, str, Any, dict[str, str]]] = []

        def noted(asked: Asked) -> Answer:
            body = json.loads(asked.body) if asked.body else None
            self.requests.append((asked.method, asked.path, body, dict(asked.headers)))
            return answer(asked.method, asked.path, body)

        super().__init__(noted)


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    """An answer in JSON."""
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})
