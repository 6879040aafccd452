"""Draws a proof: a card with the prompt's words where a provider's picture will be. Plain Pillow, some milliseconds.

The card is drawn with a palette, a byte a pixel: each pair of colours that meet has a ramp of shades in it, so edges
are smooth and the PNG stays small and quick to pack.
"""

import math
import random
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from itertools import combinations

from PIL import Image, ImageDraw

from blocks.proof_text import LINE_HEIGHT, draw_text, fit_paragraph, font, shorten, text_width

LONG_SIDES = {"1k": 1024, "2k": 2048, "4k": 4096}
MOST_ELONGATED = 8
FOOTNOTE = "A drawn proof, not a generated image"

_PAPER, _INK, _MUTED, _ACCENT = 0, 1, 2, 3
_TONES = (4, 5, 6, 7)
# OKLCH: lightness, chroma, degrees from the card's hue. In it equal numbers look equally light in every hue.
_COLOURS = (
    (0.980, 0.008, 0),
    (0.270, 0.055, 0),
    (0.550, 0.030, 0),
    (0.530, 0.140, 0),
    (0.940, 0.028, 0),
    (0.870, 0.065, 0),
    (0.700, 0.120, 0),
    (0.860, 0.095, 70),
)
_HUES = 24
# Below this much light sRGB is a straight line, above it a power.
_SRGB_KNEE = 0.0031308
_SHADES = 12
_PAIRS = ((_PAPER, _INK), (_PAPER, _MUTED), (_PAPER, _ACCENT), *combinations(_TONES, 2))

_LANDSCAPE_FROM = 1.25
_MARK_COLUMNS = 2
# Lines of small print from which there is room for the footnote.
_ROOMY = 11
_SHARP_ENOUGH = 256
_PACKING = 3

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Card:
    """What a proof shows. `size` in pixels; `seed` decides its colours and shapes."""

    sku: str
    prompt: str
    model: str
    size: Size
    seed: int


@dataclass(frozen=True, slots=True)
class _Tiles:
    """A pattern of square tiles in the card's top left corner; `side` in pixels."""

    side: int
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class _Box:
    left: int
    top: int
    width: int
    height: int

    def inside(self, margin: int) -> "_Box":
        """The same box less a margin all round, in pixels."""
        return _Box(self.left + margin, self.top + margin, self.width - 2 * margin, self.height - 2 * margin)


def proof_size(aspect_ratio: str, resolution: str) -> Size:
    """Width and height in pixels: the long side is the resolution's, the other follows the ratio, rounded to even.

    Raises: ValueError, whose text names the mend.
    """
    long_side = LONG_SIDES.get(resolution.strip().lower())
    if long_side is None:
        raise ValueError(f"resolution {resolution!r} is unknown: write {', '.join(LONG_SIDES)}.")
    match = re.fullmatch(r"\s*([0-9]{1,5}(?:\.[0-9]{1,4})?)\s*:\s*([0-9]{1,5}(?:\.[0-9]{1,4})?)\s*", aspect_ratio)
    wide, high = (Fraction(match[1]), Fraction(match[2])) if match else (Fraction(), Fraction())
    if not wide or not high:
        raise ValueError(f"aspect_ratio {aspect_ratio!r} is no ratio: write WIDTH:HEIGHT, such as 1:1, 16:9 or 1.91:1.")
    if max(wide / high, high / wide) > MOST_ELONGATED:
        limits = f"1:{MOST_ELONGATED} and {MOST_ELONGATED}:1"
        raise ValueError(f"aspect_ratio {aspect_ratio!r} is too far from square: write one between {limits}.")
    short_side = 2 * round(long_side * min(wide, high) / max(wide, high) / 2)
    return (long_side, short_side) if wide >= high else (short_side, long_side)


def draw_proof(card: Card) -> bytes:
    """The card as a PNG, the same bytes for the same card."""
    chance = random.Random(card.seed)  # noqa: S311 - it picks shapes, not secrets
    hue = chance.randrange(_HUES) * 360 / _HUES
    canvas = Image.new("L", card.size, _flat(_PAPER))
    tiles, words = _layout(card.size)
    _draw_tiles(canvas, tiles, chance)
    _draw_words(canvas, words, card)
    canvas.putpalette(_palette(hue))
    buffer = BytesIO()
    canvas.save(buffer, "PNG", compress_level=_PACKING)
    return buffer.getvalue()


def _layout(size: Size) -> tuple[_Tiles, _Box]:
    """Tiles above and words below; on a wide card tiles on the left and words beside them."""
    width, height = size
    if width / height >= _LANDSCAPE_FROM:
        rows = max(2, min(6, round(9 * height / width)))
        side = math.ceil(height / rows)
        columns = min(max(_MARK_COLUMNS + 1, round(0.38 * width / side)), 2 * rows)
        return _Tiles(side, columns, rows), _Box(columns * side, 0, width - columns * side, height)
    columns = max(_MARK_COLUMNS, min(8, round(8 * width / height)))
    side = math.ceil(width / columns)
    rows = max(1, min(2 * columns, round(0.4 * height / side)))
    return _Tiles(side, columns, rows), _Box(0, rows * side, width, height - rows * side)


def _draw_tiles(canvas: Image.Image, tiles: _Tiles, chance: random.Random) -> None:
    shapes = chance.sample(sorted(_SHAPES), 3)
    for row in range(tiles.rows):
        for column in range(tiles.columns):
            back, front = chance.sample(_TONES, 2)
            shape, turn = chance.choice(shapes), chance.randrange(4)
            tile = _tile(shape, turn, tiles.side).point(_ramp(back, front))
            canvas.paste(tile, (column * tiles.side, row * tiles.side))
    canvas.paste(_mark(tiles.side), (0, 0))


def _draw_words(canvas: Image.Image, words: _Box, card: Card) -> None:
    unit = math.sqrt(words.width * words.height)
    box = words.inside(round(0.07 * unit))
    small = max(9, round(0.038 * unit))
    line = round(LINE_HEIGHT * small)
    ink, muted, accent = (_ramp(_PAPER, colour) for colour in (_INK, _MUTED, _ACCENT))
    draw_text(canvas, (shorten(card.sku, small, box.width),), small, (box.left, box.top), accent)

    measure = f"{card.size[0]} × {card.size[1]}"
    right = box.left + box.width - text_width(measure, small)
    foot = box.top + box.height - line
    if box.height > _ROOMY * line and text_width(FOOTNOTE, small) <= box.width:
        draw_text(canvas, (FOOTNOTE,), small, (box.left, foot), muted)
        foot -= line
    draw_text(canvas, (measure,), small, (right, foot), muted)
    if text_width(card.model, small) > right - small - box.left:
        foot -= line
        right = box.left + box.width + small
    draw_text(canvas, (shorten(card.model, small, right - small - box.left),), small, (box.left, foot), ink)

    top = box.top + line + small // 3
    room = (box.width, foot - small - top)
    paragraph = fit_paragraph(card.prompt, room, largest=round(0.086 * unit), smallest=max(9, round(0.03 * unit)))
    draw_text(canvas, paragraph.lines, paragraph.size, (box.left, top), ink)


def _circle(draw: ImageDraw.ImageDraw, side: int) -> None:
    draw.ellipse((0, 0, side - 1, side - 1), fill=255)


def _quarter(draw: ImageDraw.ImageDraw, side: int) -> None:
    draw.ellipse((-side, -side, side - 1, side - 1), fill=255)


def _half(draw: ImageDraw.ImageDraw, side: int) -> None:
    draw.ellipse((0, -side // 2, side - 1, side // 2 - 1), fill=255)


def _leaf(draw: ImageDraw.ImageDraw, side: int) -> None:
    draw.rounded_rectangle((0, 0, side - 1, side - 1), side // 2, fill=255, corners=(True, False, True, False))


def _triangle(draw: ImageDraw.ImageDraw, side: int) -> None:
    draw.polygon(((0, 0), (side, 0), (0, side)), fill=255)


def _bars(draw: ImageDraw.ImageDraw, side: int) -> None:
    for part in range(0, 8, 2):
        draw.rectangle((0, part * side // 8, side, (part + 1) * side // 8 - 1), fill=255)


def _arch(draw: ImageDraw.ImageDraw, side: int) -> None:
    for radius, fill in ((1.0, 255), (0.66, 0), (0.33, 255)):
        reach = round(side * radius)
        draw.ellipse((-reach, -reach, reach - 1, reach - 1), fill=fill)


_SHAPES = {
    "arch": _arch,
    "bars": _bars,
    "circle": _circle,
    "half": _half,
    "leaf": _leaf,
    "quarter": _quarter,
    "triangle": _triangle,
}


@lru_cache(maxsize=256)
def _tile(shape: str, turn: int, side: int) -> Image.Image:
    """How much of each pixel the shape covers, 0 to 255, after some quarter turns. Never changed once it is made."""
    if turn:
        return _tile(shape, 0, side).rotate(90 * turn)
    finer = 4 if side <= _SHARP_ENOUGH else 2
    mask = Image.new("L", (finer * side, finer * side))
    _SHAPES[shape](ImageDraw.Draw(mask), finer * side)
    return mask.reduce(finer)


@lru_cache(maxsize=64)
def _mark(side: int) -> Image.Image:
    """The word PROOF, spaced, on two tiles of ink."""
    size = round(0.39 * side)
    gap = 0.18 * size
    face = font(size)
    letters = [(letter, face.getlength(letter)) for letter in "PROOF"]
    width = sum(advance for _, advance in letters) + gap * (len(letters) - 1)
    mask = Image.new("L", (_MARK_COLUMNS * side, side))
    draw = ImageDraw.Draw(mask)
    left = (mask.width - width) / 2
    for letter, advance in letters:
        stroke = size / 32
        draw.text((left, side / 2 + 0.37 * size), letter, fill=255, font=face, anchor="ls", stroke_width=stroke)
        left += advance + gap
    return mask.point(_ramp(_INK, _PAPER))


@lru_cache(maxsize=64)
def _ramp(back: int, front: int) -> list[int]:
    """For each degree of coverage of `back` by `front`, 0 to 255, the palette's index."""
    if (back, front) in _PAIRS:
        start = _PAIRS.index((back, front)) * _SHADES
        return [start + round(level * (_SHADES - 1) / 255) for level in range(256)]
    return _ramp(front, back)[::-1]


def _flat(colour: int) -> int:
    pair = next(pair for pair in _PAIRS if colour in pair)
    return _ramp(*pair)[0 if pair[0] == colour else 255]


@lru_cache(maxsize=_HUES)
def _palette(hue: float) -> bytes:
    colours = [_rgb(lightness, chroma, hue + shift) for lightness, chroma, shift in _COLOURS]
    entries = bytearray()
    for back, front in _PAIRS:
        for shade in range(_SHADES):
            part = shade / (_SHADES - 1)
            entries += bytes(round(a + (b - a) * part) for a, b in zip(colours[back], colours[front], strict=True))
    return bytes(entries)


def _rgb(lightness: float, chroma: float, degrees: float) -> tuple[int, int, int]:
    """OKLCH to sRGB, by the matrices of its author, Björn Ottosson."""
    a, b = chroma * math.cos(math.radians(degrees)), chroma * math.sin(math.radians(degrees))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short
    return _level(red), _level(green), _level(blue)


def _level(linear: float) -> int:
    light = min(1.0, max(0.0, linear))
    return round(255 * (12.92 * light if light <= _SRGB_KNEE else 1.055 * light ** (1 / 2.4) - 0.055))
