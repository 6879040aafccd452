import hashlib
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from flows.batch.verify import MAX_PIXELS, BrokenImage, verify_image

MEND = "Fetch it again|Ask for a lower resolution"


def picture(width: int = 300, height: int = 200, mode: str = "RGB") -> Image.Image:
    """A picture with a red left half, a blue right one and enough in it to be cut in the middle."""
    image = Image.radial_gradient("L").resize((width, height)).convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 4, height), fill="red")
    draw.rectangle((3 * width // 4, 0, width, height), fill="blue")
    return image.convert(mode)


def packed(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image's bytes in this format."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    """Three frames of noise, each another."""
    frames = [Image.effect_noise((64, 48), 20 * number).convert("RGB") for number in (1, 2, 3)]
    return packed(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A grey PNG whose chunks are in order, whatever the compressed pixels are."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Writes bytes to a file, which is called image.png unless told otherwise."""

    def write(data: bytes, name: str = "image.png") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize(
    ("kind", "extension", "content_type"),
    [
        ("PNG", ".png", "image/png"),
        ("JPEG", ".jpg", "image/jpeg"),
        ("WEBP", ".webp", "image/webp"),
        ("GIF", ".gif", "image/gif"),
        ("AVIF", ".avif", "image/avif"),
    ],
)
def test_the_bytes_decide_the_format(put: Callable[..., Path], kind: str, extension: str, content_type: str) -> None:
    """Each format is known by its bytes under whatever name, with its pixels, its size and its hash."""
    data = packed(picture(), kind)
    for name in ("image.png", "image.jpg", "image"):
        found = verify_image(put(data, name))
        assert (found.format, found.extension, found.content_type) == (kind.lower(), extension, content_type)
        assert (found.width, found.height, found.bytes) == (300, 200, len(data))
        assert found.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.97])
def test_a_cut_file_is_broken(put: Callable[..., Path], kind: str, part: float) -> None:
    """A file that ends too early is broken, wherever it was cut, and leaves no thumbnail."""
    data = packed(picture(), kind)
    path = put(data[: int(len(data) * part)])
    with pytest.raises(BrokenImage, match=MEND) as caught:
        verify_image(path, path.with_name("thumb.webp"))
    assert "image.png" in str(caught.value)
    assert not path.with_name("thumb.webp").exists()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("missing", [1, 2, 5, 12])
def test_a_missing_end_is_noticed(put: Callable[..., Path], kind: str, missing: int) -> None:
    """Even the last byte counts: decoders forgive its lack, and a bought image should be whole."""
    with pytest.raises(BrokenImage, match=MEND):
        verify_image(put(packed(picture(), kind)[:-missing]))


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_is_decoded_to_its_end(put: Callable[..., Path], kind: str) -> None:
    """An animation counts with all its frames, and not with a part of them."""
    data = animated(kind)
    found = verify_image(put(data))
    assert (found.format, found.width, found.height) == (kind.lower(), 64, 48)
    good = len(data) * 4 // 5
    with pytest.raises(BrokenImage, match=MEND):
        verify_image(put(data[:good] + b"\xff" * (len(data) - good - 1) + data[-1:]))


def test_missing_pixels_are_noticed(put: Callable[..., Path]) -> None:
    """A PNG in good order whose pixels end half way is broken: the whole of it is decoded, not its frame only."""
    pixels = zlib.compress(Image.effect_noise((64, 64), 50).tobytes() + bytes(64))
    assert verify_image(put(png(64, 64, zlib.compress(bytes(65 * 64))))).width == 64
    with pytest.raises(BrokenImage, match=MEND):
        verify_image(put(png(64, 64, pixels[: len(pixels) // 2])))


def test_a_previews_end_is_not_the_pictures(put: Callable[..., Path]) -> None:
    """A small JPEG in the metadata of a cut one does not make it whole, nor does one behind a whole one break that."""
    whole = packed(picture(), "JPEG", exif=b"Exif\0\0" + packed(picture(30, 20), "JPEG"), comment=b"\xff\xda")
    assert verify_image(put(whole + b"trailer \xff\xda")).bytes == len(whole) + 10
    with pytest.raises(BrokenImage, match=MEND):
        verify_image(put(whole[:-2]))


def test_a_damaged_png_is_broken(put: Callable[..., Path]) -> None:
    """One changed byte in the middle of a PNG is found by its check sums."""
    data = bytearray(packed(picture(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BrokenImage, match=MEND):
        verify_image(put(bytes(data)))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<title>502 Bad Gateway</title>", "begins with '<!DOCTYPE html>'"),
        (b'{"error":"http_503"}', "no image of a known kind"),
        (b"\0" * 5000, "no image of a known kind"),
        (b"\x89PNG\r\n\x1a\n", "image.png"),
        (b"\xff\xd8\xff", "image.png"),
        (b"RIFF\0\0\0\0WEBP", "image.png"),
        (b"GIF89a", "image.png"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of a known kind"),
    ],
)
def test_what_is_no_image_is_told_so(put: Callable[..., Path], data: bytes, said: str) -> None:
    """Nothing, an error page and bare beginnings are broken, and the text shows what was found and the mend."""
    with pytest.raises(BrokenImage, match=MEND) as caught:
        verify_image(put(data))
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_not_taken(put: Callable[..., Path], kind: str) -> None:
    """An image that no browser or shop is sure to show does not count."""
    with pytest.raises(BrokenImage, match="no image of a known kind"):
        verify_image(put(packed(picture(), kind)))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_decoded(put: Callable[..., Path]) -> None:
    """A few bytes that claim more than 100 megapixels are refused by their head."""
    for side in (11_000, 60_000):
        assert side * side > MAX_PIXELS
        with pytest.raises(BrokenImage, match=r"too large.*100 megapixels.*lower resolution"):
            verify_image(put(png(side, side, zlib.compress(b""))))


def test_a_missing_file_is_no_broken_image(tmp_path: Path) -> None:
    """A file that is not there is told apart from one that is broken."""
    with pytest.raises(FileNotFoundError):
        verify_image(tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: packed(picture(), "PNG"), (300, 200)),
        (lambda: packed(picture(1024, 1024), "PNG"), (384, 384)),
        (lambda: packed(picture(1000, 250), "JPEG"), (384, 96)),
        (lambda: packed(picture(250, 1000), "WEBP"), (96, 384)),
        (lambda: packed(picture(1, 1), "PNG"), (1, 1)),
        (lambda: packed(picture(5000, 2), "PNG"), (384, 1)),
        (lambda: packed(picture(800, 600, "CMYK"), "JPEG"), (384, 288)),
        (lambda: packed(picture(800, 600, "L"), "JPEG"), (384, 288)),
        (lambda: packed(picture(800, 600, "1"), "PNG"), (384, 288)),
        (lambda: packed(picture(800, 600, "LA"), "PNG"), (384, 288)),
        (lambda: packed(picture(800, 600, "RGBA"), "WEBP"), (384, 288)),
        (lambda: packed(picture(800, 600).quantize(64), "PNG", transparency=0), (384, 288)),
        (lambda: packed(Image.new("I;16", (800, 600), 40_000), "PNG"), (384, 288)),
        (lambda: animated("GIF"), (64, 48)),
        (lambda: animated("WEBP"), (64, 48)),
        (lambda: packed(picture(800, 600), "AVIF"), (384, 288)),
    ],
)
def test_every_kind_of_image_gets_a_thumbnail(
    put: Callable[..., Path], tmp_path: Path, make: Callable[[], bytes], size: tuple[int, int]
) -> None:
    """Whatever its colours, an image gives a WEBP of its shape, within 384 pixels and never enlarged."""
    thumbnail = tmp_path / "thumbs" / "product" / "small.webp"
    verify_image(put(make()), thumbnail)
    with Image.open(thumbnail) as small:
        assert (small.format, small.size) == ("WEBP", size)
    assert [path.name for path in thumbnail.parent.iterdir()] == ["small.webp"]


def test_sixteen_bits_keep_their_light(put: Callable[..., Path], tmp_path: Path) -> None:
    """A grey of 16 bits a pixel is as bright in its thumbnail as it is."""
    verify_image(put(packed(Image.new("I;16", (40, 40), 128 * 256), "PNG")), tmp_path / "small.webp")
    with Image.open(tmp_path / "small.webp") as small:
        assert abs(small.convert("L").getpixel((20, 20)) - 128) <= 3  # type: ignore[operator]


def test_transparency_stays_in_the_thumbnail(put: Callable[..., Path], tmp_path: Path) -> None:
    """A see-through palette colour is see-through in the thumbnail."""
    image = Image.new("P", (40, 40), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    verify_image(put(packed(image, "PNG", transparency=0)), tmp_path / "small.webp")
    with Image.open(tmp_path / "small.webp") as small:
        assert small.convert("RGBA").getchannel("A").getextrema() == (0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_turned_image_has_the_size_it_is_seen_at(put: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    """A photo that lies on its side by EXIF is measured and shown upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    found = verify_image(put(packed(picture(), kind, exif=exif)), tmp_path / "small.webp")
    assert (found.width, found.height) == (200, 300)
    with Image.open(tmp_path / "small.webp") as small:
        assert small.size == (200, 300)
        red, _, blue = small.convert("RGB").getpixel((100, 10))  # type: ignore[misc]
        assert red > 200
        assert blue < 100


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_break_the_image(put: Callable[..., Path]) -> None:
    """Rubbish where the EXIF should be is no reason to throw a good picture away."""
    found = verify_image(put(packed(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)))
    assert (found.width, found.height) == (300, 200)


def test_a_thumbnail_that_cannot_be_written_is_no_broken_image(put: Callable[..., Path], tmp_path: Path) -> None:
    """A folder that can't be made is the disk's fault and not the picture's."""
    (tmp_path / "thumbs").write_text("in the way")
    with pytest.raises(OSError, match="thumbs"):
        verify_image(put(packed(picture(), "PNG")), tmp_path / "thumbs" / "small.webp")
