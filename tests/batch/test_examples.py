from collections import Counter
from pathlib import Path

import pytest

from flows.batch.csv_file import Sheet, read_csv
from flows.batch.prompts import Templates, load_templates

EXAMPLES = Path(__file__).parents[2] / "examples"
ROW = {"name": "머그", "color": "코랄", "scene": "창가"}


@pytest.fixture(scope="module")
def sheet() -> Sheet:
    """The example file."""
    return read_csv(EXAMPLES / "products.csv")


@pytest.fixture(scope="module")
def templates() -> Templates:
    """The templates that come with Rowshot."""
    return load_templates([])


def test_every_example_row_makes_its_prompt(sheet: Sheet, templates: Templates) -> None:
    """All rows are well-formed, name a template that exists and render with their text in the prompt."""
    assert sheet.problems == ()
    assert len(sheet.frame) >= 24
    for cells in sheet.frame.to_dict("records"):
        row = {str(column): str(text) for column, text in cells.items()}
        prompt = templates[row["template"] or "product"].render(row)
        assert row["name"] in prompt
        assert row["scene"] in prompt or row["template"] != "lifestyle"


def test_the_example_shows_what_a_csv_can_do(sheet: Sheet, templates: Templates) -> None:
    """Each template, a model and a ratio of its own, Korean and English, zeros in front, a comma and a line break."""
    frame = sheet.frame
    assert {name or "product" for name in frame["template"]} == set(templates.names)
    assert {"seedream-5", "nano-banana-2"} == set(frame["model"]) - {""}
    assert set(frame["param.aspect_ratio"]) - {""}
    assert any(sku.startswith("00") for sku in frame["sku"])
    assert any("," in scene and "\n" in scene for scene in frame["scene"])
    assert any(name.isascii() for name in frame["name"])
    assert any(not name.isascii() for name in frame["name"])
    assert max(sheet.lines) > len(frame) + 1


def test_no_example_row_stands_in_anothers_way(sheet: Sheet) -> None:
    """A sku comes once with each template."""
    pairs = Counter(zip(sheet.frame["sku"], sheet.frame["template"].replace("", "product"), strict=True))
    assert set(pairs.values()) == {1}


@pytest.mark.parametrize(
    ("name", "model", "ratio", "prompt"),
    [
        ("product", "nano-banana-2", "1:1", "이커머스 사진: 머그, 코랄, 스튜디오, 흰색 배경, 1024x1024"),
        (
            "product_hero",
            "seedream-5",
            "1:1",
            "이커머스 제품 사진: 머그, 코랄, 스튜디오 조명, 흰색 배경, 1024x1024, 상업용 사진",
        ),
        ("lifestyle", "nano-banana-2", "1:1", "라이프스타일 사진: 머그, 코랄, 창가, 자연광, 1024x1024"),
        (
            "blog_hero",
            "seedream-5",
            "16:9",
            "블로그 헤더 일러스트: 머그, 미니멀 스타일, 따뜻하고 차분한 분위기, 1200x630, 에디토리얼",
        ),
        (
            "social_post",
            "nano-banana-2",
            "1:1",
            "소셜 미디어 비주얼: 머그, 인스타그램 형식, 밝고 경쾌한 무드, 1080x1080",
        ),
    ],
)
def test_built_in_prompts(templates: Templates, name: str, model: str, ratio: str, prompt: str) -> None:
    """The five texts come out word for word, with their model and ratio, from one row of name, color and scene."""
    found = templates[name]
    assert found.render(ROW) == prompt
    assert (found.model, found.aspect_ratio) == (model, ratio)


def test_blog_hero_is_made_to_size(templates: Templates) -> None:
    """The one template whose text promises 1200x630 delivers it; the others leave the image as it was bought."""
    neutral = templates["product"].finish
    assert {name for name in templates.names if templates[name].finish != neutral} == {"blog_hero"}
