"""The generator that the docs show as an example works as it stands there."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blocks.errors import InvalidRequest, NoImage, ServiceUnavailable
from blocks.image import ImageRequest

DOCS = Path(__file__).parents[2] / "docs" / "generators.md"


class StudioHandler(BaseHTTPRequestHandler):
    """The one address of a Stable Diffusion web UI that the example asks."""

    def do_POST(self) -> None:
        """Draw, draw nothing, or refuse, by the prompt."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        images = [] if asked["prompt"] == "nothing" else [base64.b64encode(asked["prompt"].encode()).decode()]
        self.send_response(422 if asked["prompt"] == "bad" else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"images": images}).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's own name for it
        """Stay quiet."""


@pytest.fixture
def studio() -> Iterator[str]:
    """The address of a web UI."""
    with ThreadingHTTPServer(("127.0.0.1", 0), StudioHandler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def example() -> Any:
    """The class in the page's code block."""
    code = DOCS.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {"__name__": "example_generator"}
    exec(compile(code, str(DOCS), "exec"), names)  # noqa: S102 - our own page
    return names["DiffusionServer"]


def test_the_documented_example_makes_an_image(example: Any, studio: str, tmp_path: Path) -> None:
    """The class from the docs asks the server once and leaves a file in the request's folder."""
    image = example(url=studio).generate(ImageRequest("S-1", "a crane", "sdxl", tmp_path))
    assert image.path == tmp_path / "image.png"
    assert image.path.read_bytes() == b"a crane"


@pytest.mark.parametrize(("prompt", "kind"), [("bad", InvalidRequest), ("nothing", NoImage)])
def test_the_documented_example_tells_failures_apart(
    prompt: str, kind: type[Exception], example: Any, studio: str, tmp_path: Path
) -> None:
    """A refusal and an empty answer are errors of the tree."""
    with pytest.raises(kind):
        example(url=studio).generate(ImageRequest("S-1", prompt, "sdxl", tmp_path))


def test_the_documented_example_is_free_to_ask_again_where_nothing_answers(example: Any, tmp_path: Path) -> None:
    """No connection means that nothing was sent."""
    with pytest.raises(ServiceUnavailable, match="--api"):
        example(url="http://127.0.0.1:9").generate(ImageRequest("S-1", "x", "sdxl", tmp_path))
