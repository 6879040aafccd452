import hashlib
import os
import re
import shutil
from pathlib import Path, PurePosixPath

import pytest

from flows.batch.files import (
    image_name,
    image_path,
    keep_file,
    original_path,
    replacing,
    slug,
    sync,
    thumbnail_path,
)

FINGERPRINT = "0123456789abcdef" * 4


def mark(sku: str) -> str:
    """Six hex of the sku's hash."""
    return hashlib.sha256(sku.encode()).hexdigest()[:6]


@pytest.mark.parametrize("sku", ["00123", "ts-001", "shirt_white", "a", "x" * 80])
def test_a_plain_sku_names_its_file(sku: str) -> None:
    """A sku that is safe as it is stays as it is."""
    assert image_name(sku) == sku


@pytest.mark.parametrize(
    ("sku", "start"),
    [
        ("TS-001", "ts-001"),
        ("텀블러-01", "teombeulreo-01"),
        ("한강 라면", "hangang-ramyeon"),
        ("Crème brûlée", "creme-brulee"),
        ("Straße", "strasse"),
        ("a/b\\c", "a-b-c"),
        ("../../etc/passwd", "etc-passwd"),
        ("--a--b--", "a-b"),
        (".hidden", "hidden"),
        ("漢字", "sku"),
        ("😀", "sku"),
        ("", "sku"),
        ("..", "sku"),
        ("con", "con"),
        ("lpt1", "lpt1"),
    ],
)
def test_any_other_sku_gets_a_readable_name_and_its_mark(sku: str, start: str) -> None:
    """What is not safe in an address is written in plain letters, with six hex that keep it apart from its likes."""
    assert image_name(sku) == f"{start}-{mark(sku)}"


@pytest.mark.parametrize(
    "sku", ["가" * 128, "A" * 128, "x" * 81, "-" * 128, "a/" * 64, "．．／", "NUL", "\u202ecba", "٣"]
)
def test_names_are_short_and_safe_everywhere(sku: str) -> None:
    """A name is 1 to 80 of a-z, 0-9, dash and underscore, and never begins with a dash or a dot."""
    assert re.fullmatch(r"[a-z0-9_][a-z0-9_-]{0,79}", image_name(sku))


def test_names_stay_apart_where_case_does_not_count() -> None:
    """Skus that differ in case or in a sign only have names that differ on any file system."""
    skus = ["a1", "A1", "a-1", "a 1", "a/1", "A-1", "a--1", "á1", "a1 ", "x" * 100, "x" * 101]
    assert len({image_name(sku).casefold() for sku in skus}) == len(skus)


def test_slug_may_be_empty() -> None:
    """A sku with no letter that can be written plainly has no slug."""
    assert slug("漢字 !") == ""


def test_paths_tell_template_name_and_fingerprint() -> None:
    """Image, original and thumbnail each have a folder, with twelve hex of the fingerprint in the name."""
    assert image_path("product", "ts-1", FINGERPRINT, ".png") == PurePosixPath("images/product/ts-1-0123456789ab.png")
    assert image_path("blog_hero", "ts-1", FINGERPRINT, ".webp", "1200x630-pad") == PurePosixPath(
        "images/blog_hero/ts-1-1200x630-pad-0123456789ab.webp"
    )
    assert original_path("product", "ts-1", FINGERPRINT, ".jpg") == PurePosixPath(
        "originals/product/ts-1-0123456789ab.jpg"
    )
    assert thumbnail_path("product", "ts-1", FINGERPRINT) == PurePosixPath("thumbs/product/ts-1-0123456789ab.webp")


@pytest.mark.parametrize("template", ["../up", "a/b", "", ".", "..", "/etc", "a\\b", "C:"])
def test_a_template_name_never_leaves_the_folder(template: str) -> None:
    """A template's name that is no plain word is refused, with what to write."""
    with pytest.raises(ValueError, match="use letters, digits"):
        image_path(template, "ts-1", FINGERPRINT, ".png")


def test_keeping_a_file_leaves_its_source(tmp_path: Path) -> None:
    """The bytes are at the new place, in a folder made for them, and still at the old one."""
    source, kept = tmp_path / "source.png", tmp_path / "a" / "b" / "kept.png"
    source.write_bytes(b"picture")
    keep_file(source, kept)
    assert source.read_bytes() == kept.read_bytes() == b"picture"
    assert [path.name for path in kept.parent.iterdir()] == ["kept.png"]
    shutil.rmtree(kept.parent)
    assert source.read_bytes() == b"picture"


def test_kept_bytes_outlive_their_source(tmp_path: Path) -> None:
    """Clearing the source away, or putting another file in its place, leaves the kept one as it was."""
    source, kept = tmp_path / "source.png", tmp_path / "kept.png"
    source.write_bytes(b"picture")
    keep_file(source, kept)
    with replacing(source) as beside:
        beside.write_text("something else")
    source.unlink()
    assert kept.read_bytes() == b"picture"


def test_keeping_the_same_again_changes_nothing(tmp_path: Path) -> None:
    """A file that is there with the same bytes is not written a second time, be it a link or a copy."""
    source, kept = tmp_path / "source.png", tmp_path / "kept.png"
    source.write_bytes(b"picture")
    kept.write_bytes(b"picture")
    before = kept.stat()
    keep_file(source, kept)
    keep_file(kept, kept)
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_keeping_replaces_other_bytes(tmp_path: Path) -> None:
    """Spoilt bytes of the same length and time give way to the good ones, and nothing is left beside them."""
    source, kept = tmp_path / "source.png", tmp_path / "kept.png"
    for path, data in ((source, b"picture"), (kept, b"spoiled")):
        path.write_bytes(data)
        os.utime(path, (1_000_000, 1_000_000))
    keep_file(source, kept)
    assert kept.read_bytes() == b"picture"
    assert {path.name for path in tmp_path.iterdir()} == {"source.png", "kept.png"}


def test_keeping_works_from_another_disk(tmp_path: Path) -> None:
    """Where no hard link can be made the bytes are copied."""
    memory = Path("/dev/shm")  # noqa: S108 - it is wanted for being another file system
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    source = memory / f"rowshot-test-{os.getpid()}"
    source.write_bytes(b"picture")
    try:
        keep_file(source, tmp_path / "kept.png")
    finally:
        source.unlink()
    assert (tmp_path / "kept.png").read_bytes() == b"picture"


def test_keeping_what_is_not_there_leaves_the_place_alone(tmp_path: Path) -> None:
    """A missing source is an error, and neither spoils what was kept nor leaves a part behind."""
    kept = tmp_path / "kept.png"
    kept.write_bytes(b"picture")
    with pytest.raises(FileNotFoundError):
        keep_file(tmp_path / "gone.png", kept)
    with pytest.raises(FileNotFoundError):
        keep_file(tmp_path / "gone.png", tmp_path / "new.png")
    assert kept.read_bytes() == b"picture"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.png"]


def test_a_broken_write_leaves_the_old_file(tmp_path: Path) -> None:
    """An error half way leaves the file as it was, without a part beside it."""
    report = tmp_path / "report.csv"
    report.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(report) as beside:
        beside.write_text("ne\ud800", encoding="utf-8")
    assert report.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.csv"]


def test_the_final_name_is_not_there_before_the_end(tmp_path: Path) -> None:
    """While a file is being written nothing bears its name, and what is there is hidden from a listing by type."""
    report = tmp_path / "new" / "report.csv"
    with replacing(report) as beside:
        beside.write_text("half")
        assert not report.exists()
        assert not list(report.parent.glob("*.csv"))
        beside.write_text("whole")
    assert report.read_text() == "whole"


def test_files_can_be_waited_for_until_they_are_on_disk(tmp_path: Path) -> None:
    """Files that are there are waited for; one that is missing is told, and nobody takes it for safe."""
    (tmp_path / "a.png").write_bytes(b"a")
    sync([tmp_path / "a.png"])
    with pytest.raises(FileNotFoundError):
        sync([tmp_path / "a.png", tmp_path / "gone.png"])
