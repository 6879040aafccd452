"""Sets the words of a proof: measures, wraps, shortens and draws them. Plain Pillow."""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import pylopdf_fonts_ko
from PIL import Image, ImageDraw, ImageFont

LINE_HEIGHT = 1.36
ELLIPSIS = "…"

# Sizes tried for a paragraph, as parts of the largest.
_SIZES = (1.0, 0.88, 0.77, 0.68, 0.6, 0.53, 0.47, 0.41, 0.36, 0.32)
_NARROWER = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_BASELINE = 1.0
_MEASURED_AT = 128
# No proof has room for more, and measuring a book would cost more than drawing the card.
_LONGEST = 4000
_MAYBE_WITHOUT_GLYPH = frozenset({"So", "Sk", "Cf", "Mn", "Me", "Cn", "Co", "Cs"})


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Lines that fit a box at `size`, in pixels."""

    size: int
    lines: tuple[str, ...]


@lru_cache(maxsize=128)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Noto Sans KR at `size` pixels. Basic layout: Hangul and Latin need no shaping, and it is twice as quick."""
    return ImageFont.truetype(str(pylopdf_fonts_ko.sans_path()), size, layout_engine=ImageFont.Layout.BASIC)


def printable(text: str) -> str:
    """The text in one line, its letters composed, without what the font has no sign for, such as emoji."""
    composed = unicodedata.normalize("NFC", text[:_LONGEST])
    kept = "".join(letter for letter in composed if letter.isspace() or _has_glyph(letter))
    return " ".join(kept.split()) + (ELLIPSIS if len(text) > _LONGEST else "")


def shorten(text: str, size: int, width: int) -> str:
    """As much of the text as `width` pixels hold, with an ellipsis where some is missing."""
    text = printable(text)
    if _width(text) * size <= width:
        return text
    room = width / size - _advance(ELLIPSIS)
    ends = accumulate(_advance(letter) for letter in text)
    return text[: sum(end <= room for end in ends)].rstrip() + ELLIPSIS


def fit_paragraph(text: str, room: tuple[int, int], *, largest: int, smallest: int) -> Paragraph:
    """Wrap the text at the largest size at which it fits `room`, width and height; at the smallest it is shortened."""
    width, height = room
    text = printable(text)
    area = _width(text) * LINE_HEIGHT
    for part in _SIZES:
        size = round(largest * part)
        if size < smallest:
            break
        if area * size * size > width * height:
            continue
        lines = _wrap(text, width / size)
        if len(lines) <= _rows(height, size):
            return Paragraph(size, _balanced(text, width / size, lines))
    lines = _wrap(text, width / smallest)
    rows = max(1, _rows(height, smallest))
    if len(lines) > rows:
        lines = (*lines[: rows - 1], shorten(f"{lines[rows - 1]} {lines[rows]}{ELLIPSIS}", smallest, width))
    return Paragraph(smallest, lines)


def draw_text(canvas: Image.Image, lines: tuple[str, ...], size: int, place: tuple[int, int], ramp: list[int]) -> None:
    """Draw lines with their top left corner at `place`. `ramp` gives the palette index for each degree of coverage.

    They are laid on whole: the ground under them must be the ramp's first colour.
    """
    face = font(size)
    for row, line in enumerate(lines):
        width = round(_width(line) * size) + size
        strip = Image.new("L", (width, round(LINE_HEIGHT * size)))
        ImageDraw.Draw(strip).text((0, round(_BASELINE * size)), line, fill=255, font=face, anchor="ls")
        canvas.paste(strip.point(ramp), (place[0], place[1] + round(row * LINE_HEIGHT * size)))


def text_width(text: str, size: int) -> int:
    """How many pixels wide the text is."""
    return round(_width(text) * size)


def _rows(height: int, size: int) -> int:
    return int(height / (LINE_HEIGHT * size))


def _wrap(text: str, width: float) -> tuple[str, ...]:
    """Break at spaces, and within a word only where a line is too short for it. `width` in ems."""
    space = _advance(" ")
    lines, line, used = [], "", 0.0
    for word in text.split(" "):
        length = _width(word)
        if line and used + space + length <= width:
            line, used = f"{line} {word}", used + space + length
            continue
        if length <= width:
            if line:
                lines.append(line)
            line, used = word, length
            continue
        # A word longer than a line, such as Hangul or kana without spaces, runs on from where the line is.
        line, used = (f"{line} ", used + space) if line else ("", 0.0)
        for letter in word:
            advance = _advance(letter)
            if line and used + advance > width:
                lines.append(line.rstrip())
                line, used = "", 0.0
            line, used = line + letter, used + advance
    return (*lines, line) if line else tuple(lines)


def _balanced(text: str, width: float, lines: tuple[str, ...]) -> tuple[str, ...]:
    """The same number of lines, narrower as far as that goes, so that no lone word is left for the last one."""
    for part in _NARROWER:
        narrower = _wrap(text, width * part)
        if len(narrower) > len(lines):
            break
        lines = narrower
    return lines


def _width(text: str) -> float:
    return sum(map(_advance, text))


@lru_cache(maxsize=16384)
def _advance(letter: str) -> float:
    return font(_MEASURED_AT).getlength(letter) / _MEASURED_AT


@lru_cache(maxsize=4096)
def _has_glyph(letter: str) -> bool:
    kind = unicodedata.category(letter)
    if kind == "Cc":
        return False
    if kind not in _MAYBE_WITHOUT_GLYPH:
        return True  # a box tells at least that there is a letter
    face = font(_MEASURED_AT)
    return bytes(face.getmask(letter)) != bytes(face.getmask("\U0010fffd"))
