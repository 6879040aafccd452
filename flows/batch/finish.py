"""The size and format that a template asks for, made from the kept original: free, and as often as one likes."""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from PIL import Image, ImageCms, ImageOps, ImageStat

from flows.batch.files import replacing
from flows.batch.verify import EXTENSIONS, MAX_PIXELS, VerifiedImage, as_rgb, orientation, turned_upright

FORMATS = ("png", "jpeg", "webp")
MAX_SIDE = 10_000

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 6},
    "jpeg": {"quality": 90, "progressive": True, "optimize": True},
    "webp": {"quality": 86, "method": 4},
    "gif": {},
    "avif": {"quality": 80, "speed": 7},
}
_WHITE = (255, 255, 255)
# Standard deviation, of 255, up to which a border counts as one colour: a studio's soft backdrop, and not a scene.
_ONE_COLOUR = 16.0


class Fit(StrEnum):
    """How an image of another shape is brought to the asked one: cut what stands out, or fill up what is missing."""

    COVER = "cover"
    PAD = "pad"


@dataclass(frozen=True, slots=True)
class Finish:
    """What is delivered. `width` and `height` in pixels, both 0, and `format` empty: as the original has them."""

    width: int = 0
    height: int = 0
    fit: Fit = Fit.COVER
    format: str = ""

    @classmethod
    def parse(cls, *, size: str = "", fit: str = "", format: str = "") -> Self:  # noqa: A002 - the word in a template
        """Read a template's words, such as size "1200x630", fit "pad" and format "webp"; each may be empty.

        Raises: ValueError, whose text names the mend.
        """
        width, height = _parse_size(size.strip().lower())
        word = fit.strip().lower() or Fit.COVER.value
        if word not in {choice.value for choice in Fit}:
            raise ValueError(f"fit {fit!r} is unknown: write cover (cut off what stands out) or pad (fill up).")
        if word == Fit.PAD and not width:
            raise ValueError("fit pad needs a size to fill up to: add one, such as size: 1200x630.")
        kind = format.strip().lower()
        kind = "jpeg" if kind == "jpg" else kind
        if kind and kind not in FORMATS:
            raise ValueError(f"format {format!r} can't be made: write {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
        return cls(width, height, Fit(word), kind)

    @property
    def suffix(self) -> str:
        """What a finished image's file name says of its size: "", "1200x630" or "1200x630-pad"."""
        if not self.width:
            return ""
        return f"{self.width}x{self.height}" + ("-pad" if self.fit is Fit.PAD else "")

    @property
    def extension(self) -> str:
        """The asked format's extension, such as ".jpg"; empty for the original's own."""
        return EXTENSIONS[self.format] if self.format else ""

    def __str__(self) -> str:
        return " ".join(filter(None, [self.suffix, self.format]))

    def changes(self, verified: VerifiedImage) -> bool:
        """Whether this image is not yet what is asked for."""
        other_size = bool(self.width) and (verified.width, verified.height) != (self.width, self.height)
        return other_size or bool(self.format and verified.format != self.format)


def finish_image(original: Path, destination: Path, finish: Finish) -> VerifiedImage:
    """Make the asked size and format of `original` at `destination`, upright, in sRGB and without metadata.

    An animation gives its first frame. A half file never has the final name. Raises: OSError.
    """
    with Image.open(original) as image:
        kind = finish.format or _own_format(image)
        image.load()
        picture = turned_upright(_in_srgb(image), orientation(image))
    if finish.width:
        picture = _fitted(picture, finish)
    if kind == "jpeg":
        picture = _on_white(picture)
    picture.info.clear()
    buffer = BytesIO()
    picture.save(buffer, kind.upper(), **_SAVE_OPTIONS[kind])
    data = buffer.getvalue()
    with replacing(destination) as beside:
        beside.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return VerifiedImage(kind, EXTENSIONS[kind], f"image/{kind}", *picture.size, len(data), digest)


def _parse_size(size: str) -> tuple[int, int]:
    if not size:
        return 0, 0
    match = re.fullmatch(r"([0-9]{1,6})\s*[x×*]\s*([0-9]{1,6})", size)
    if not match:
        raise ValueError(f"size {size!r} is no size: write WIDTHxHEIGHT in pixels, such as 1200x630.")
    width, height = int(match[1]), int(match[2])
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE) or width * height > MAX_PIXELS:
        raise ValueError(f"size {size!r} can't be made: each side may have 1 to {MAX_SIDE} pixels. Write another.")
    return width, height


def _own_format(image: Image.Image) -> str:
    kind = (image.format or "").lower()
    return kind if kind in EXTENSIONS else "jpeg" if kind == "mpo" else "png"


def _in_srgb(image: Image.Image) -> Image.Image:
    """The image in RGB or RGBA. Its colour profile is applied, for it goes with the metadata."""
    profile = image.info.get("icc_profile")
    picture = as_rgb(image)
    if not profile or image.mode not in {"RGB", "RGBA", "CMYK"}:
        return picture
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode=picture.mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture  # a broken profile: browsers ignore it, and so do we
    return converted or picture


def _fitted(picture: Image.Image, finish: Finish) -> Image.Image:
    size = (finish.width, finish.height)
    if finish.fit is Fit.COVER:
        return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    colour = _border_colour(picture)
    return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color=colour)


def _border_colour(picture: Image.Image) -> tuple[int, ...]:
    """The colour all round the picture; white where there is more than one."""
    width, height = picture.size
    border = Image.new(picture.mode, (2 * (width + height), 1))
    border.paste(picture.crop((0, 0, width, 1)), (0, 0))
    border.paste(picture.crop((0, height - 1, width, height)), (width, 0))
    border.paste(picture.crop((0, 0, 1, height)).transpose(Image.Transpose.ROTATE_90), (2 * width, 0))
    border.paste(
        picture.crop((width - 1, 0, width, height)).transpose(Image.Transpose.ROTATE_90), (2 * width + height, 0)
    )
    stat = ImageStat.Stat(border)
    if max(stat.stddev) > _ONE_COLOUR:
        return (*_WHITE, 255)[: len(stat.median)]
    return tuple(stat.median)


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    ground = Image.new("RGB", picture.size, _WHITE)
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground
