"""An image generator that plays a script: a real one by its protocol, which keeps its history."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from io import BytesIO

from PIL import Image

from blocks.errors import ImageGenerationError, NoImage
from blocks.image import ChildProcess, GeneratedImage, ImageRequest


@dataclass(frozen=True, slots=True)
class Draws:
    """A success. `data` are the bytes it writes: None for a picture of its own, b"" for no file at all."""

    data: bytes | None = None
    url: str = ""
    credits_used: Decimal | None = Decimal(1)
    size: tuple[int, int] = (64, 64)
    kind: str = "PNG"


Step = Draws | ImageGenerationError
DRAWS = Draws()


@dataclass
class ScriptedGenerator:
    """Answers each sku's calls with its own steps, one after another, then with a picture; the same for recoveries.

    `charges` counts what a provider would bill: pictures, and failures that say that they were paid.
    """

    script: Mapping[str, Sequence[Step]] = field(default_factory=dict)
    recoveries: Mapping[str, Sequence[Step]] = field(default_factory=dict)
    calls: list[ImageRequest] = field(default_factory=list)
    recovered: list[tuple[ImageRequest, ChildProcess | None]] = field(default_factory=list)
    charges: int = 0
    turn: threading.Lock = field(default_factory=threading.Lock)

    def generate(self, request: ImageRequest) -> GeneratedImage:
        """Play the next step of this sku; every success is charged for."""
        with self.turn:
            step = next_step(self.script, request, [made.sku for made in self.calls])
            self.calls.append(request)
            self.charges += isinstance(step, Draws) or (isinstance(step, NoImage) and step.was_paid)
            number = len(self.calls)
        return play(step, request, number)

    def recover(self, request: ImageRequest, child: ChildProcess | None) -> GeneratedImage:
        """Play what became of a call whose caller died; charges nothing, as that call was charged for."""
        with self.turn:
            step = next_step(self.recoveries, request, [asked.sku for asked, _ in self.recovered])
            self.recovered.append((request, child))
        return play(step, request, 0)

    def calls_of(self, sku: str) -> int:
        """How often this sku's image was asked for."""
        return sum(request.sku == sku for request in self.calls)


def next_step(script: Mapping[str, Sequence[Step]], request: ImageRequest, before: Sequence[str]) -> Step:
    """The step that is this sku's turn; a picture where its script is at its end."""
    steps = script.get(request.sku, ())
    played = before.count(request.sku)
    return steps[played] if played < len(steps) else DRAWS


def play(step: Step, request: ImageRequest, number: int) -> GeneratedImage:
    """Write the step's image, or raise its error."""
    if isinstance(step, ImageGenerationError):
        raise step
    path = request.folder / f"image.{step.kind.lower()}"
    data = picture(f"{request.sku} {number}", step.size, step.kind) if step.data is None else step.data
    if data:
        path.write_bytes(data)
    return GeneratedImage(path, request.model, f"request-{request.sku}-{number}", step.url, step.credits_used)


def picture(words: str = "", size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    """A small picture, another one for other words."""
    colour = sum((place + 7) * ord(letter) for place, letter in enumerate(words)) * 2654435761 % 0xFFFFFF
    image = Image.new("RGB", size, (colour >> 16, colour >> 8 & 0xFF, colour & 0xFF))
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
