"""The generator that the docs show as an example works as it stands there."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_double import Answer, Asked, HttpDouble

from blocks.errors import InvalidRequest, NoImage, ServiceUnavailable
from blocks.image import ImageRequest

DOCS = Path(__file__).parents[2] / "docs" / "generators.md"


def draw(asked: Asked) -> Answer:
    """The one address of a Stable Diffusion web UI that the example asks: draws, draws nothing, or refuses."""
    prompt = json.loads(asked.body)["prompt"]
    images = [] if prompt == "nothing" else [base64.b64encode(prompt.encode()).decode()]
    return Answer(json.dumps({"images": images}).encode(), 422 if prompt == "bad" else 200)


@pytest.fixture
def studio() -> Iterator[str]:
    """The address of a web UI."""
    with HttpDouble(draw) as running:
        yield running.url


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
