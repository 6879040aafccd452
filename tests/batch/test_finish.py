from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms, ImageDraw

from flows.batch.finish import Finish, Fit, finish_image
from flows.batch.verify import VerifiedImage, verify_image


def saved(image: Image.Image, path: Path, kind: str = "PNG", **options: Any) -> Path:
    """The image as a file of this format."""
    image.save(path, kind, **options)
    return path


def quarters(width: int = 400, height: int = 400) -> Image.Image:
    """A picture in four colours: red, green above; blue, white below."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), fill=(255, 0, 0))
    draw.rectangle((width // 2, 0, width, height // 2 - 1), fill=(0, 255, 0))
    draw.rectangle((0, height // 2, width // 2 - 1, height), fill=(0, 0, 255))
    return image


def colour(path: Path, x: int, y: int) -> tuple[int, ...]:
    """The colour of one pixel, in RGB or RGBA."""
    with Image.open(path) as image:
        found = (image if image.mode in {"RGB", "RGBA"} else image.convert("RGB")).getpixel((x, y))
    assert isinstance(found, tuple)
    return tuple(int(level) for level in found)


def near(found: tuple[int, ...], wanted: tuple[int, ...], by: int = 12) -> bool:
    """Whether two colours are as good as the same after a lossy format."""
    return len(found) == len(wanted) and all(abs(a - b) <= by for a, b in zip(found, wanted, strict=True))


def seen(width: int = 1024, height: int = 1024, kind: str = "png") -> VerifiedImage:
    """What verifying an image of this size and format would tell."""
    return VerifiedImage(kind, f".{kind}", f"image/{kind}", width, height, 1, "")


@pytest.mark.parametrize(
    ("words", "finish", "suffix"),
    [
        ({}, Finish(), ""),
        ({"size": "1200x630"}, Finish(1200, 630), "1200x630"),
        ({"size": " 1200 × 630 ", "fit": "Pad", "format": "WEBP"}, Finish(1200, 630, Fit.PAD, "webp"), "1200x630-pad"),
        ({"size": "1X1", "fit": "cover", "format": "jpg"}, Finish(1, 1, Fit.COVER, "jpeg"), "1x1"),
        ({"format": "png"}, Finish(format="png"), ""),
    ],
)
def test_words_of_a_template_are_read(words: dict[str, str], finish: Finish, suffix: str) -> None:
    """Size, fit and format are read as people write them, and the file's name tells the size."""
    assert Finish.parse(**words) == finish
    assert finish.suffix == suffix


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        ({"size": "1200"}, "WIDTHxHEIGHT"),
        ({"size": "big"}, "WIDTHxHEIGHT"),
        ({"size": "-1x5"}, "WIDTHxHEIGHT"),
        ({"size": "1200x630.5"}, "WIDTHxHEIGHT"),
        ({"size": "0x630"}, "1 to 10000"),
        ({"size": "99999x1"}, "1 to 10000"),
        ({"size": "1200x630", "fit": "stretch"}, "cover .* or pad"),
        ({"fit": "pad"}, "size: 1200x630"),
        ({"format": "bmp"}, "png, jpeg or webp"),
    ],
)
def test_wrong_words_are_refused_with_the_mend(words: dict[str, str], mend: str) -> None:
    """What can't be made is refused with what to write instead."""
    with pytest.raises(ValueError, match=mend):
        Finish.parse(**words)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ({}, False),
        ({"size": "1024x1024"}, False),
        ({"size": "1024x1024", "fit": "pad", "format": "png"}, False),
        ({"size": "1024x1023"}, True),
        ({"format": "webp"}, True),
        ({"size": "1024x1024", "format": "jpeg"}, True),
    ],
)
def test_an_image_that_is_right_already_is_left_alone(words: dict[str, str], changes: bool) -> None:
    """Only an image of another size or format needs finishing."""
    assert Finish.parse(**words).changes(seen()) is changes


def test_cover_cuts_the_middle_out(tmp_path: Path) -> None:
    """Cover fills the asked size, from the centre: all four colours stay, each in its corner."""
    made = finish_image(saved(quarters(), tmp_path / "o"), tmp_path / "a" / "i.png", Finish(600, 200))
    path = tmp_path / "a" / "i.png"
    assert (made.width, made.height, made.format) == (600, 200, "png")
    corners = [colour(path, x, y) for x, y in ((5, 5), (594, 5), (5, 194), (594, 194))]
    assert corners == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_pad_fills_up_with_the_borders_colour(tmp_path: Path) -> None:
    """A product on a plain ground is padded with that ground, and all of it stays in the picture."""
    image = Image.new("RGB", (400, 400), (240, 235, 220))
    ImageDraw.Draw(image).ellipse((50, 50, 350, 350), fill="navy")
    finish_image(saved(image, tmp_path / "o"), tmp_path / "i.png", Finish(800, 400, Fit.PAD))
    assert colour(tmp_path / "i.png", 3, 200) == colour(tmp_path / "i.png", 796, 3) == (240, 235, 220)
    assert near(colour(tmp_path / "i.png", 400, 60), (0, 0, 128))


def test_pad_is_white_round_a_scene(tmp_path: Path) -> None:
    """Where the border has many colours the rest is white."""
    image = Image.new("RGB", (400, 400), "navy")
    ImageDraw.Draw(image).rectangle((300, 0, 400, 400), fill="olive")
    finish_image(saved(image, tmp_path / "o"), tmp_path / "i.png", Finish(800, 400, Fit.PAD))
    assert colour(tmp_path / "i.png", 3, 200) == (255, 255, 255)
    assert colour(tmp_path / "i.png", 210, 10) == (0, 0, 128)


def test_pad_of_a_cut_out_stays_see_through(tmp_path: Path) -> None:
    """A cut-out product on nothing is padded with nothing; as a JPEG it stands on white."""
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((20, 20, 80, 80), fill=(0, 0, 255, 255))
    original = saved(image, tmp_path / "o")
    finish_image(original, tmp_path / "i.png", Finish(200, 100, Fit.PAD))
    assert colour(tmp_path / "i.png", 3, 50)[3] == 0
    finish_image(original, tmp_path / "i.jpg", Finish(200, 100, Fit.PAD, "jpeg"))
    assert near(colour(tmp_path / "i.jpg", 3, 50), (255, 255, 255))
    assert near(colour(tmp_path / "i.jpg", 100, 50), (0, 0, 255))


@pytest.mark.parametrize(("kind", "extension"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "I;16"])
def test_every_kind_of_image_becomes_every_format(tmp_path: Path, mode: str, kind: str, extension: str) -> None:
    """Whatever colours it has, an image can be made into each format, and what is told of it is what it is."""
    image = Image.new(mode, (90, 60), 30_000) if mode == "I;16" else quarters(90, 60).convert(mode)
    original = saved(image, tmp_path / "o", "JPEG" if mode == "CMYK" else "PNG")
    finish = Finish.parse(size="40x40", format=kind)
    path = tmp_path / f"i{finish.extension}"
    assert finish_image(original, path, finish) == verify_image(path)
    assert path.suffix == extension


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
def test_without_a_format_the_originals_own_stays(tmp_path: Path, kind: str) -> None:
    """A new size alone keeps the format, of an animation the first frame."""
    made = finish_image(saved(quarters(), tmp_path / "o", kind), tmp_path / "i", Finish(50, 80))
    assert made.format == kind.lower()
    assert made == verify_image(tmp_path / "i")


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    """Of moving pictures the first is taken."""
    frames = [Image.new("RGB", (50, 50), name) for name in ("red", "blue")]
    original = saved(frames[0], tmp_path / "o", "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    finish_image(original, tmp_path / "i.png", Finish(format="png"))
    assert colour(tmp_path / "i.png", 25, 25)[:3] == (255, 0, 0)


def test_a_turned_photo_is_set_upright_and_its_metadata_dropped(tmp_path: Path) -> None:
    """The EXIF turn is applied to the pixels, and neither EXIF nor comment nor profile goes out."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    original = saved(
        quarters(300, 200), tmp_path / "o", "JPEG", exif=exif, icc_profile=profile, comment=b"secret", quality=95
    )
    for kind in ("png", "jpeg", "webp"):
        made = finish_image(original, tmp_path / kind, Finish(format=kind))
        assert (made.width, made.height) == (200, 300)
        assert near(colour(tmp_path / kind, 150, 50), (255, 0, 0), 20)
        with Image.open(tmp_path / kind) as image:
            assert not dict(image.getexif())
            assert not {"exif", "icc_profile", "comment", "dpi"} & set(image.info)


def test_another_profile_is_turned_into_srgb(tmp_path: Path) -> None:
    """Colours in another colour space look the same once their profile is gone."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    swapped = bytearray(srgb.tobytes())
    red, green = swapped.find(b"rXYZ"), swapped.find(b"gXYZ")
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    original = saved(Image.new("RGB", (10, 10), (255, 0, 0)), tmp_path / "o", icc_profile=bytes(swapped))
    finish_image(original, tmp_path / "i.png", Finish(format="png"))
    assert near(colour(tmp_path / "i.png", 5, 5), (0, 255, 0))


def test_a_broken_profile_is_passed_over(tmp_path: Path) -> None:
    """Rubbish in place of a profile leaves the colours as they are."""
    original = saved(Image.new("RGB", (10, 10), (200, 30, 30)), tmp_path / "o", icc_profile=b"rubbish" * 30)
    finish_image(original, tmp_path / "i.png", Finish(format="png"))
    assert colour(tmp_path / "i.png", 5, 5) == (200, 30, 30)


def test_the_original_stays_and_nothing_half_is_left(tmp_path: Path) -> None:
    """The original keeps its bytes, an older finish is replaced, and no part lies beside it."""
    original = saved(quarters(), tmp_path / "o")
    before = original.read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "i.webp").write_bytes(b"old")
    finish_image(original, tmp_path / "out" / "i.webp", Finish.parse(size="100x50", format="webp"))
    assert original.read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["i.webp"]
    assert verify_image(tmp_path / "out" / "i.webp").width == 100


def test_the_same_finish_gives_the_same_bytes(tmp_path: Path) -> None:
    """Finishing twice gives one and the same file, as an address that is kept for ever needs."""
    original = saved(quarters(), tmp_path / "o")
    finish = Finish.parse(size="120x63", format="jpeg")
    made = [finish_image(original, tmp_path / name, finish).sha256 for name in ("a", "b")]
    assert made[0] == made[1]
