"""A server that the real AnyCap CLI can draw against: on 127.0.0.1, with a balance, with faults, and it keeps count.

In a test: `with AnyCapServer(faults={"#busy": [rate_limited(1)]}) as server: ...`.
Alone, for benchmarks: `python tests/doubles/anycap_server.py --port 8765 --delay 2`; its counts are at `/counts`.
"""

import argparse
import contextlib
import hashlib
import io
import json
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import urlsplit

from anycap_faults import Fault, Picture, rate_limited
from http_double import Loopback
from PIL import Image

PNG_TAIL_BYTES = 12
BUSY = rate_limited(1)
SCHEMA = {
    "model_params": {
        "prompt": {"type": "string", "required": True},
        "aspect_ratio": {"type": "string"},
        "resolution": {"type": "string", "enum": ["1k", "2k", "4k"]},
        "images": {"type": "array", "items": {"type": "string", "format": "file-or-url"}},
    }
}


@dataclass(frozen=True, slots=True)
class Sold:
    """An image that has an address."""

    prompt: str
    fault: Fault


class Pictures:
    """Small real images, encoded once; a few bytes from the prompt's hash make each one's file its own."""

    def __init__(self, size: tuple[int, int]) -> None:
        drawing = Image.linear_gradient("L").resize(size).convert("RGB")
        png, jpeg = io.BytesIO(), io.BytesIO()
        drawing.save(png, "PNG")
        drawing.save(jpeg, "JPEG")
        self._png = png.getvalue()
        self._jpeg = jpeg.getvalue()

    def png(self, prompt: str) -> bytes:
        """A PNG with the prompt's hash in a text chunk."""
        text = b"tEXt" + b"Prompt\0" + hashlib.sha256(prompt.encode()).hexdigest().encode()
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        return self._png[:-PNG_TAIL_BYTES] + chunk + self._png[-PNG_TAIL_BYTES:]

    def jpeg(self, prompt: str) -> bytes:
        """A JPEG with the prompt's hash in a comment."""
        text = hashlib.sha256(prompt.encode()).hexdigest().encode()
        return self._jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + self._jpeg[2:]


class AnyCapServer(Loopback):
    """The wire that release 0.6.2 of the CLI speaks, and a count of all that it asked.

    `faults`: a marker in the prompt to the faults that its calls meet, one after the other; then all is well.
    `credit`: the balance in credits, None for no limit; it may be set while the server runs. `delay_s`: how long a
    picture takes; once `hurry` is set nothing waits any more. `at_once`: calls beyond so many at a time are refused,
    with a word to come back after a second, and counted in `refusals`. `calls`, `charges` (in credits) and `downloads`
    count by prompt; `bodies` keeps the requests.
    """

    def __init__(
        self,
        *,
        faults: Mapping[str, Sequence[Fault]] | None = None,
        credit: int | None = None,
        delay_s: float = 0.0,
        at_once: int | None = None,
        key: str = "test-key",
        size: tuple[int, int] = (64, 64),
        port: int = 0,
        log: TextIO | None = None,
    ) -> None:
        self.credit = credit
        self.delay_s = delay_s
        self.at_once = at_once
        self.key = key
        self.refusals = 0
        self.calls: Counter[str] = Counter()
        self.charges: Counter[str] = Counter()
        self.downloads: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.uploads: list[bytes] = []
        self.telemetry: list[dict[str, Any]] = []
        self.max_in_flight = 0
        self.pictures = Pictures(size)
        self.hurry = threading.Event()
        self._faults = {marker: list(some) for marker, some in (faults or {}).items()}
        self._sold: dict[str, Sold] = {}
        self._fetched: Counter[str] = Counter()
        self._in_flight = 0
        self._turned_away = 0
        self._log = log
        self._lock = threading.Lock()
        http = _Http(("127.0.0.1", port), _Wire)
        http.app = self
        super().__init__(http)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hurry.set()
        super().__exit__(kind, error, trace)

    def counts(self) -> dict[str, int]:
        """All prompts together."""
        with self._lock:
            return {
                "calls": self.calls.total(),
                "charges": self.charges.total(),
                "downloads": self.downloads.total(),
                "max_in_flight": self.max_in_flight,
                "refusals": self.refusals,
            }

    def was_asked(self, *markers: str) -> bool:
        """Whether a call has come for a prompt with each of these in it."""
        with self._lock:
            return all(any(marker in prompt for prompt in self.calls) for marker in markers)

    def begin(self, body: dict[str, Any]) -> tuple[Fault, int | None]:
        """Count a call, and decide what it meets and what it costs; the cost is None where the balance is too low."""
        prompt = str(body.get("prompt", ""))
        with self._lock:
            self._in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._in_flight)
            self.calls[prompt] += 1
            self.bodies.append(body)
            if self.at_once is not None and self._in_flight > self.at_once + self._turned_away:
                self._turned_away += 1
                self.refusals += 1
                return BUSY, 0
            waiting = next((some for marker, some in self._faults.items() if marker in prompt and some), None)
            fault = waiting.pop(0) if waiting else Fault("none")
            cost = fault.credits if fault.body is not None or fault.drop else 1
            if self.credit is not None and cost > self.credit:
                return fault, None
            if self.credit is not None:
                self.credit -= cost
            if cost:
                self.charges[prompt] += cost
            return fault, cost

    def end(self, prompt: str, status: int, begun: float, fault: Fault) -> None:
        """Note that a call has its answer."""
        with self._lock:
            self._in_flight -= 1
            self._turned_away -= fault is BUSY
            if self._log is not None:
                line = {"prompt": prompt, "status": status, "begun": begun, "ended": time.time()}
                print(json.dumps(line, ensure_ascii=False), file=self._log, flush=True)

    def sell(self, prompt: str, fault: Fault) -> str:
        """Give an image its address."""
        with self._lock:
            name = f"{len(self._sold)}.png"
            self._sold[name] = Sold(prompt, fault)
        return f"{self.url}/images/{name}"

    def fetch(self, name: str) -> tuple[Picture, bytes] | None:
        """Count a download; None where there is no such image."""
        with self._lock:
            sold = self._sold.get(name)
            if sold is None:
                return None
            self.downloads[sold.prompt] += 1
            self._fetched[name] += 1
            broken = self._fetched[name] <= sold.fault.broken_downloads
        picture = sold.fault.picture if broken else Picture.WHOLE
        make = self.pictures.jpeg if picture is Picture.JPEG else self.pictures.png
        return picture, make(sold.prompt)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    app: AnyCapServer


class _Wire(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Http

    def handle(self) -> None:
        """Serve one connection; a caller that went away is part of the game."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        """Close the connection, whether or not anybody is left at its other end."""
        with contextlib.suppress(ConnectionError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's own name for it
        """Stay quiet."""

    def do_GET(self) -> None:
        """Schemas, images, and the counts."""
        path = urlsplit(self.path).path
        if path == "/counts":
            self._json(200, self.server.app.counts())
        elif path.startswith("/images/"):
            self._image(path.removeprefix("/images/"))
        elif not self._authorized():
            self._text(401, '{"error":"auth_invalid","message":"invalid api key"}')
        elif path.endswith("/schema"):
            modes = ("text-to-image", "image-to-image")
            schemas = [{"operation": "generate", "mode": mode, "schema": SCHEMA} for mode in modes]
            self._json(200, {"status": "success", "schemas": schemas})
        else:
            self._text(404, '{"error":"not_found","message":"no such page"}')

    def do_POST(self) -> None:
        """Pictures, places for uploads, and what the CLI reports of itself."""
        raw = self._body()
        if self.path == "/v1/telemetry":
            self.server.app.telemetry.append(json.loads(raw))
            self._json(200, {})
        elif not self._authorized():
            self._text(401, '{"error":"auth_invalid","message":"invalid api key"}')
        elif self.path == "/v1/image/generate":
            self._generate(json.loads(raw))
        elif self.path == "/v1/capabilities/presign":
            place = f"{self.server.app.url}/uploads/{json.loads(raw)['filename']}"
            self._json(200, {"status": "success", "data": {"upload_url": place, "object_url": place, "reused": False}})
        else:
            self._text(404, '{"error":"not_found","message":"no such page"}')

    def do_PUT(self) -> None:
        """A reference image, uploaded."""
        self.server.app.uploads.append(self._body())
        self._json(200, {})

    def _generate(self, body: dict[str, Any]) -> None:
        app = self.server.app
        begun = time.time()
        prompt = str(body.get("prompt", ""))
        status = 500
        fault, cost = app.begin(body)
        try:
            if cost is None:
                status = 402
                self._text(status, '{"error":"INSUFFICIENT_CREDIT","message":"insufficient credit"}')
                return
            if fault.body is None:
                app.hurry.wait(fault.delay_s or (0 if fault.drop else app.delay_s))
            status = fault.status
            if fault.drop:
                self.close_connection = True
            elif fault.body is not None:
                self._text(status, fault.body)
            else:
                data = {"outputs": [{"url": app.sell(prompt, fault)}], "model": body.get("model"), "credit_cost": cost}
                self._json(status, {"status": "success", "data": data})
        finally:
            app.end(prompt, status, begun, fault)

    def _image(self, name: str) -> None:
        found = self.server.app.fetch(name)
        if found is None or found[0] is Picture.GONE:
            self._text(404, "gone")
            return
        picture, data = found
        if picture is Picture.DROPPED:
            self._send(200, "image/png", data[: len(data) // 2], length=len(data))
            self.close_connection = True
        else:
            self._send(200, "image/png", data[: len(data) // 2] if picture is Picture.TRUNCATED else data)

    def _authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.app.key}"

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, status: int, body: object) -> None:
        self._text(status, json.dumps(body))

    def _text(self, status: int, body: str) -> None:
        self._send(status, "application/json", body.encode())

    def _send(self, status: int, kind: str, data: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A server that the AnyCap CLI can draw against, for benchmarks.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that a picture takes")
    parser.add_argument("--at-once", type=int, default=None, help="refuse calls beyond so many at a time")
    parser.add_argument("--size", type=int, default=64, help="a picture's width and height in pixels")
    parser.add_argument("--credit", type=int, default=None, help="balance in credits (default: no limit)")
    parser.add_argument("--key", default="test-key", help="the one API key that it takes")
    parser.add_argument("--requests-log", type=Path, default=None, help="a file for one JSON line a call")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(options.requests_log.open("a")) if options.requests_log else None
        server = stack.enter_context(
            AnyCapServer(
                credit=options.credit,
                delay_s=options.delay,
                at_once=options.at_once,
                key=options.key,
                size=(options.size, options.size),
                port=options.port,
                log=log,
            )
        )
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
