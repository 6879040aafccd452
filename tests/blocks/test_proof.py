from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blocks.errors import InvalidRequest
from blocks.image import ImageRequest, Mode
from blocks.proof import Proof
from blocks.proof_drawing import LONG_SIDES, proof_size
from blocks.proof_text import fit_paragraph, font, printable, shorten, text_width

PROMPT = "이커머스 제품 사진: 린넨 셔츠, 화이트, 스튜디오 조명, 흰색 배경, 1024x1024, 상업용 사진"


def ask(folder: Path, **wishes: Any) -> ImageRequest:
    """A request for a proof in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return ImageRequest(**{"sku": "SHIRT-01", "prompt": PROMPT, "model": "seedream-5", "folder": folder, **wishes})


def bytes_of(folder: Path, **wishes: Any) -> bytes:
    """The bytes of the proof for such a request."""
    return Proof().generate(ask(folder, **wishes)).path.read_bytes()


def ink_rows(picture: Image.Image) -> int:
    """How many rows of the words' side of a square card hold something dark."""
    words = picture.convert("L").crop((60, 500, 1000, 870)).point(lambda level: 255 * (level < 110))
    return sum(1 for row in range(words.height) if words.crop((0, row, words.width, row + 1)).getbbox())


@pytest.mark.parametrize(
    ("ratio", "resolution", "size"),
    [
        ("1:1", "1k", (1024, 1024)),
        ("16:9", "1k", (1024, 576)),
        ("9:16", "1k", (576, 1024)),
        ("3:4", "2k", (1536, 2048)),
        ("1.91:1", "1k", (1024, 536)),
        (" 4 : 5 ", "1K", (820, 1024)),
        ("8:1", "1k", (1024, 128)),
        ("1:1", "4k", (4096, 4096)),
    ],
)
def test_size_follows_ratio_and_resolution(tmp_path: Path, ratio: str, resolution: str, size: tuple[int, int]) -> None:
    """A proof has the pixels that the ratio and the resolution ask for, even numbers both."""
    image = Proof().generate(ask(tmp_path, params={"aspect_ratio": ratio, "resolution": resolution}))
    with Image.open(image.path) as picture:
        assert (picture.format, picture.size) == ("PNG", size)


def test_plain_request_is_a_square_of_1024(tmp_path: Path) -> None:
    """Without parameters a proof is 1024 pixels square, costs nothing and names its model."""
    image = Proof().generate(ask(tmp_path))
    with Image.open(image.path) as picture:
        assert picture.size == (1024, 1024)
    assert image.path.parent == tmp_path
    assert (image.model, image.credits_used) == ("seedream-5", Decimal(0))
    assert [path.name for path in tmp_path.iterdir()] == [image.path.name]


@pytest.mark.parametrize("ratio", ["square", "0:1", "1:0", "16x9", "9:1", "1:9", "-1:1", "1:1:1", "", "٣:٤"])
def test_bad_ratio_is_refused_with_the_mend(tmp_path: Path, ratio: str) -> None:
    """A ratio that is none is the row's own fault, and the text says what to write."""
    with pytest.raises(InvalidRequest, match=r"write .*1:1|write one between") as caught:
        Proof().generate(ask(tmp_path, params={"aspect_ratio": ratio}))
    assert repr(ratio) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_unknown_resolution_is_refused_with_the_mend(tmp_path: Path) -> None:
    """A resolution that no proof has is refused, and the text lists those there are."""
    with pytest.raises(InvalidRequest, match="1k, 2k, 4k"):
        Proof().generate(ask(tmp_path, params={"resolution": "8k"}))


def test_missing_reference_is_refused(tmp_path: Path) -> None:
    """A reference image that is not there is told of now, not by the provider that is paid."""
    with pytest.raises(InvalidRequest, match=r"shirt\.png is not there"):
        Proof().generate(ask(tmp_path, mode=Mode.IMAGE_TO_IMAGE, references=(tmp_path / "shirt.png",)))


def test_same_request_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two calls with the same wishes in different folders draw the same file, byte for byte."""
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


@pytest.mark.parametrize(
    "other", [{"sku": "SHIRT-02"}, {"prompt": PROMPT + "!"}, {"model": "nano-banana-2"}, {"params": {"seed": "7"}}]
)
def test_other_request_gives_another_picture(tmp_path: Path, other: dict[str, Any]) -> None:
    """Whatever differs in the request can be seen in the picture."""
    assert bytes_of(tmp_path / "a") != bytes_of(tmp_path / "b", **other)


def test_hangul_is_drawn_as_hangul() -> None:
    """The font has Hangul: two syllables look different, and neither is the box that stands for a missing sign."""
    drawn = [bytes(font(64).getmask(letter)) for letter in ("가", "힣", "\U0010fffd")]
    assert len(set(drawn)) == 3


def test_words_are_on_the_card(tmp_path: Path) -> None:
    """A longer prompt puts more ink on the card, and an empty one none where the prompt stands."""
    rows = []
    for name, prompt in (("none", ""), ("word", "머그"), ("all", PROMPT)):
        with Image.open(Proof().generate(ask(tmp_path / name, prompt=prompt)).path) as picture:
            rows.append(ink_rows(picture))
    assert rows[0] == 0 < rows[1] < rows[2]


@pytest.mark.parametrize("ratio", ["1:1", "8:1", "1:8", "16:9", "9:16"])
@pytest.mark.parametrize("prompt", ["가" * 5000, "word " * 3000, "a" * 900, "🏔️", "\n\t", "أهلا"])
def test_any_prompt_fits_any_card(tmp_path: Path, ratio: str, prompt: str) -> None:
    """Endless words, one endless word, signs without a shape, nothing at all: there is a proof for each."""
    image = Proof().generate(ask(tmp_path, prompt=prompt, sku="키" * 128, params={"aspect_ratio": ratio}))
    with Image.open(image.path) as picture:
        assert picture.size == proof_size(ratio, "1k")


def test_long_text_is_shortened_inside_its_box() -> None:
    """A prompt too long for the smallest size fills its box, ends with an ellipsis and stands over nowhere."""
    paragraph = fit_paragraph("린넨 셔츠, 화이트, " * 200, (600, 300), largest=60, smallest=20)
    assert paragraph.size == 20
    assert paragraph.lines[-1].endswith("…")
    assert len(paragraph.lines) * 1.36 * 20 <= 300
    assert max(text_width(line, 20) for line in paragraph.lines) <= 600


def test_hangul_without_spaces_wraps_by_character() -> None:
    """A Hangul word longer than a line goes on in the next one, and no letter is lost."""
    word = "대한민국" * 20
    paragraph = fit_paragraph(word, (400, 2000), largest=40, smallest=40)
    assert len(paragraph.lines) > 1
    assert "".join(paragraph.lines) == word


def test_words_are_kept_whole_where_they_fit() -> None:
    """A line breaks at a space as long as each word fits a line by itself."""
    text = "해질녘 호숫가 캠핑장에서 찍은 티타늄 캠핑 머그"
    paragraph = fit_paragraph(text, (300, 900), largest=40, smallest=40)
    assert " ".join(paragraph.lines) == text


def test_decomposed_hangul_is_composed() -> None:
    """Hangul from a Mac's files, letter by letter, is drawn in syllables; emoji that the font lacks are left out."""
    assert printable("\u1112\u1161\u11ab 🎁 ™") == "한 ™"


def test_shortened_text_keeps_to_its_width() -> None:
    """A sku of 128 signs is cut to the room it has, and a short one is left alone."""
    assert text_width(shorten("W" * 128, 30, 500), 30) <= 500
    assert shorten("TS-01", 30, 500) == "TS-01"


def test_64_threads_draw_what_one_draws(tmp_path: Path) -> None:
    """Sixty-four at once give the very bytes that they give one after the other."""
    wishes = [{"sku": f"SKU-{number}", "prompt": f"{PROMPT} {number}"} for number in range(64)]
    alone = [bytes_of(tmp_path / "alone" / str(number), **wish) for number, wish in enumerate(wishes)]
    with ThreadPoolExecutor(64) as pool:
        together = pool.map(lambda pair: bytes_of(tmp_path / "pool" / str(pair[0]), **pair[1]), enumerate(wishes))
        assert list(together) == alone


def test_a_lost_proof_is_drawn_again(tmp_path: Path) -> None:
    """What a dead run left half done is simply drawn once more, with the same bytes."""
    request = ask(tmp_path)
    first = Proof().generate(request)
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:100])
    again = Proof().recover(replace(request, folder=tmp_path), None)
    assert again == first
    assert again.path.read_bytes() == whole


def test_it_says_what_it_can_do() -> None:
    """A proof is free, stands for any priced model, and takes both modes and every resolution it can draw."""
    Proof().check()
    told = Proof.capabilities
    assert (told.provider, told.free, told.any_priced_model) == ("proof", True, True)
    assert told.modes == {Mode.TEXT_TO_IMAGE, Mode.IMAGE_TO_IMAGE}
    assert told.sizes == tuple(LONG_SIDES) == ("1k", "2k", "4k")
    assert Proof.get_block_type_slug() == "proof"
