"""What an image file really is: decoded whole before it counts, its format read from its bytes, never from its name."""

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

from PIL import Image, UnidentifiedImageError

from flows.batch.files import replacing

MAX_PIXELS = 100_000_000
MAX_ALL_FRAMES_PIXELS = 10 * MAX_PIXELS
MAX_BYTES = 256 * 1024 * 1024
EXTENSIONS = MappingProxyType({"png": ".png", "jpeg": ".jpg", "webp": ".webp", "gif": ".gif", "avif": ".avif"})

_THUMBNAIL_SIDE = 384
_THUMBNAIL_QUALITY = 80
# WEBP's effort, 0 to 6: above this a thumbnail takes longer and is hardly smaller.
_THUMBNAIL_METHOD = 1
# A camera's JPEG with a preview in it names itself MPO; its first picture is the JPEG that everybody shows.
_FORMATS = MappingProxyType({"MPO": "jpeg", **{name.upper(): name for name in EXTENSIONS}})

_ORIENTATION_TAG = 0x0112
_TURNS = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
_ON_ITS_SIDE = frozenset({5, 6, 7, 8})

# All that Pillow's decoders raise for bytes that are not what they claim to be.
_BROKEN_BYTES = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_MEND = "Fetch it again from the provider's url, or ask for this row once more."

_PNG_CHUNK = struct.Struct(">I4s")
_PNG_SIGNATURE_LENGTH = 8
_CRC_LENGTH = 4


class BrokenImage(Exception):
    """Bytes that are no whole image; the text says what is wrong with them and the mend."""


@dataclass(frozen=True, slots=True)
class VerifiedImage:
    """An image that decodes whole.

    `width` and `height` are in pixels as the image is seen, its EXIF orientation applied; `bytes` is the file's size.
    """

    format: str
    extension: str
    content_type: str
    width: int
    height: int
    bytes: int
    sha256: str


def verify_image(path: Path, thumbnail: Path | None = None) -> VerifiedImage:
    """Decode the image at `path` whole; write a WEBP of at most 384 x 384 pixels to `thumbnail`, if given.

    Raises: BrokenImage for anything but a whole PNG, JPEG, WEBP, GIF or AVIF of at most 100 megapixels; OSError where
    the file can't be read or the thumbnail can't be written.
    """
    data = _read(path)
    try:
        with Image.open(BytesIO(data), formats=[name.upper() for name in EXTENSIONS]) as image:
            name = _FORMATS[image.format or ""]
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _too_large(path, f"{width} x {height} pixels")
            _refuse_a_cut_file(path, name, data)
            image.load()
            turn = orientation(image)
            small = _small_copy(image, turn) if thumbnail else None
            _decode_other_frames(path, name, image)
    except UnidentifiedImageError as error:
        raise BrokenImage(f"{path.name} is no image of a known kind: {_beginning(data)}. {_MEND}") from error
    except _TOO_LARGE as error:
        raise _too_large(path, "too many pixels") from error
    except _BROKEN_BYTES as error:
        raise BrokenImage(f"{path.name} does not decode: {str(error).rstrip('.')}. {_MEND}") from error
    if thumbnail and small:
        _write_thumbnail(small, thumbnail)
    if turn in _ON_ITS_SIDE:
        width, height = height, width
    return VerifiedImage(
        name, EXTENSIONS[name], f"image/{name}", width, height, len(data), hashlib.sha256(data).hexdigest()
    )


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none, or none that can be read."""
    try:
        turn = image.getexif().get(_ORIENTATION_TAG, 1)
    except _BROKEN_BYTES:
        return 1  # broken metadata around a good picture: browsers show it as it is, and so do we
    return turn if turn in _TURNS else 1


def turned_upright(image: Image.Image, turn: int) -> Image.Image:
    """The image as a viewer shows it, given its EXIF orientation."""
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


def as_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB or, where it is transparent somewhere, RGBA, with 8 bits a channel."""
    if image.mode.startswith("I"):
        # Pillow cuts 16 bits off at 255 when it converts; a picture wants them scaled.
        image = image.point(lambda level: level * (1 / 256)).convert("L")
    transparent = image.has_transparency_data
    wanted = "RGBA" if transparent else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise _too_large(path, f"{size:,} bytes")
        data = file.read()
    if not data:
        raise BrokenImage(f"{path.name} is empty. {_MEND}")
    return data


def _too_large(path: Path, what: str) -> BrokenImage:
    limit = f"{MAX_PIXELS // 1_000_000} megapixels and {MAX_BYTES // 1024**2} MB"
    return BrokenImage(f"{path.name} is too large: {what}; the limit is {limit}. Ask for a lower resolution.")


def _beginning(data: bytes) -> str:
    head = data[:48].split(b"\n", 1)[0].decode("ascii", "replace")
    readable = "".join(letter for letter in head if letter.isprintable() and letter != "\ufffd").strip()
    return f"it begins with {readable!r}"


def _refuse_a_cut_file(path: Path, name: str, data: bytes) -> None:
    """Find what the decoders forgive: a missing end of a PNG or GIF, and a PNG's damaged chunks."""
    whole = True
    if name == "png":
        whole = _png_is_whole(data)
    elif name == "gif":
        whole = data.rstrip(b"\0\r\n").endswith(b";")
    if not whole:
        raise BrokenImage(f"{path.name} is a {name.upper()} that is cut short or damaged. {_MEND}")


def _png_is_whole(data: bytes) -> bool:
    view = memoryview(data)
    start = _PNG_SIGNATURE_LENGTH
    while start + _PNG_CHUNK.size + _CRC_LENGTH <= len(data):
        length, kind = _PNG_CHUNK.unpack_from(data, start)
        end = start + _PNG_CHUNK.size + length
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + _CRC_LENGTH], "big"):
            return False
        if kind == b"IEND":
            return True
        start = end + _CRC_LENGTH
    return False


def _decode_other_frames(path: Path, name: str, image: Image.Image) -> None:
    """Decode what an animation holds after its first frame, as far as one may."""
    frames = 1 if name == "jpeg" else getattr(image, "n_frames", 1)
    if frames * image.width * image.height > MAX_ALL_FRAMES_PIXELS:
        raise _too_large(path, f"{frames} frames of {image.width} x {image.height} pixels")
    for frame in range(1, frames):
        image.seek(frame)
        image.load()


def _small_copy(image: Image.Image, turn: int) -> Image.Image:
    scale = min(1.0, _THUMBNAIL_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Shrinking by a whole factor first is what makes this cheap; a gap below 2 would show as blur.
    small = as_rgb(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=1.01)
    return turned_upright(small, turn)


def _write_thumbnail(small: Image.Image, thumbnail: Path) -> None:
    with replacing(thumbnail) as beside:
        small.save(beside, "WEBP", quality=_THUMBNAIL_QUALITY, method=_THUMBNAIL_METHOD)
