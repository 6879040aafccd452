import random
from pathlib import Path

import pytest

from blocks.image import Mode
from flows.batch.finish import Finish
from flows.batch.problems import NotStarted
from flows.batch.prompts import BUILT_IN, PromptTemplate, RenderError, load_template, load_templates

HEADER = "for: a test\nvariables: {name: name, color: {column: colour, default: red}}\nmodel: nano-banana-2"
BODY = "Photo: {{ name }}, {{ color }}"


def write(folder: Path, body: str = BODY, header: str = HEADER, name: str = "mine.jinja") -> Path:
    """Put a template into the folder."""
    path = folder / name
    path.write_text(f"{{#- rowshot\n{header}\n-#}}\n{body}\n", encoding="utf-8")
    return path


def template(folder: Path, body: str = BODY, header: str = HEADER) -> PromptTemplate:
    """Load a template of this text."""
    return load_template(write(folder, body, header))


def one_name(folder: Path, body: str) -> PromptTemplate:
    """Load a template whose only variable is name."""
    return template(folder, body, "for: a test\nvariables: {name: name}\nmodel: m")


def refused(path: Path) -> list[str]:
    """Give what is said of a template that can't be used; all of it names the file and a mend."""
    with pytest.raises(NotStarted) as caught:
        load_template(path)
    for problem in caught.value.problems:
        assert str(path) in problem.what
        assert problem.mend
        assert problem.whole_file
    return [str(problem) for problem in caught.value.problems]


def test_header_is_read(tmp_path: Path) -> None:
    """Every field of the header is there afterwards, as text."""
    header = (
        "for: a banner\nvariables:\n  name: title\n  color: {column: colour, default: ''}\nmodel: seedream-5\n"
        "mode: text-to-image\naspect_ratio: 16:9\nparams: {resolution: 2k, seed: 0042, draft: no}\n"
        "size: 1200x630\nfit: pad\nformat: webp"
    )
    found = template(tmp_path, header=header)
    assert (found.name, found.purpose) == ("mine", "a banner")
    assert (found.model, found.mode) == ("seedream-5", Mode.TEXT_TO_IMAGE)
    assert found.columns == {"name": "title", "color": "colour"}
    assert found.optional == {"color"}
    assert found.aspect_ratio == "16:9"
    assert found.params == {"resolution": "2k", "seed": "0042", "draft": "no"}
    assert found.finish == Finish.parse(size="1200x630", fit="pad", format="webp")


def test_a_mode_that_needs_what_no_row_can_name_is_refused(tmp_path: Path) -> None:
    """Else an image would be bought that has seen no reference image."""
    (told,) = refused(write(tmp_path, header="for: edits\nmodel: seedream-5\nmode: image-to-image"))
    assert "reference images" in told


def test_header_defaults(tmp_path: Path) -> None:
    """What a header leaves out is neutral: a square, from text, kept as it was bought."""
    found = template(tmp_path)
    assert (found.mode, found.aspect_ratio, found.params) == (Mode.TEXT_TO_IMAGE, "1:1", {})
    assert found.finish == Finish.parse(size="", fit="", format="")


def test_prompt_holds_the_cells(tmp_path: Path) -> None:
    """Cells come from their columns; the prompt's outer white space goes and its inner stays."""
    found = template(tmp_path, "\n  {{ name }},\n  {{ color }}  \n\n")
    assert found.render({"name": " Mug  X ", "colour": "코랄\r\n레드", "other": "x"}) == "Mug  X ,\n  코랄\r\n레드"


@pytest.mark.parametrize("cells", [{"name": "Mug"}, {"name": "Mug", "colour": ""}, {"name": "Mug", "colour": " \n"}])
def test_default_stands_in(tmp_path: Path, cells: dict[str, str]) -> None:
    """A variable with a default takes it where the column is missing or the cell has no text."""
    assert template(tmp_path).render(cells) == "Photo: Mug, red"


@pytest.mark.parametrize("cells", [{}, {"name": ""}, {"name": "  "}])
def test_a_needed_cell_must_have_text(tmp_path: Path, cells: dict[str, str]) -> None:
    """A variable without a default names its column when the row has nothing for it."""
    with pytest.raises(RenderError, match="column name is empty") as caught:
        template(tmp_path).render(cells)
    assert caught.value.column == "name"


@pytest.mark.parametrize(
    "text",
    [
        "{{ 7*7 }}",
        "{% raw %}",
        "{% endraw %}{{ name }}",
        "{# x #}",
        "<b>&amp;</b>",
        "{{ ''.__class__ }}",
        "%s {0}",
        "\\n",
    ],
)
def test_a_cell_is_never_evaluated(tmp_path: Path, text: str) -> None:
    """Whatever a cell looks like, it is in the prompt as it stands."""
    assert template(tmp_path).render({"name": text}) == f"Photo: {text}, red"


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    """A mapped variable comes from its new column, others and the template itself stay as they were."""
    found = template(tmp_path)
    mapped = found.with_columns({"name": "상품명", "unknown": "x"})
    assert mapped.columns == {"name": "상품명", "color": "colour"}
    assert mapped.render({"상품명": "머그", "name": "no"}) == "Photo: 머그, red"
    assert found.columns["name"] == "name"


def test_conditions_and_filters_work(tmp_path: Path) -> None:
    """The text is Jinja: conditions, filters and loops over what a cell holds."""
    body = "{% if color %}{{ color | upper }} {% endif %}{% for x in name.split(';') %}[{{ x | trim }}]{% endfor %}"
    assert template(tmp_path, body).render({"name": "a; b", "colour": "red"}) == "RED [a][b]"


def test_variables_of_text_and_header_must_agree(tmp_path: Path) -> None:
    """Undeclared and unused variables are all told at once, with the line and the near miss."""
    told = refused(write(tmp_path, "{{ name }}\n{{ colour }} {{ mood }}"))
    assert len(told) == 3
    assert "line 7 uses colour" in told[0]
    assert "Did you mean color?" in told[0]
    assert "line 7 uses mood" in told[1]
    assert "declares color" in told[2]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{{ name", "line 6"),
        ("{{ name | sparkle }}", "sparkle"),
        ("{{ name | random }}", "random"),
        ("{{ name }}{{ range(3) }}", "uses range"),
        ("{{ name }}{{ lipsum() }}", "uses lipsum"),
        ("{% include 'product.jinja' %}{{ name }}", "includes or extends"),
        ("{% extends name %}", "includes or extends"),
        ("{{ name.__class__ }}", "reaches for __class__"),
        ("{{ name['__class__'] }}", "reaches for __class__"),
    ],
)
def test_what_a_text_may_not_do(tmp_path: Path, body: str, words: str) -> None:
    """Broken Jinja, other files, chance and Python's insides are refused when the template is loaded."""
    told = refused(write(tmp_path, body, "for: a test\nvariables: {name: name}\nmodel: m"))
    assert words in told[0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{{ name | attr('__class__') }}", "unsafe"),
        ("{{ name['__cla' ~ 'ss__'] }}", "unsafe"),
        ("{{ name.colour }}", "colour"),
        ("{{ name.upper }}", "builtin_function_or_method"),
        ("{{ name ~ name.lower }}", r"name\.lower\(\)"),
        ("{{ name.strip | upper }}", r"with its \(\)"),
        ("{{ [name.title] | join | e }}", r"with its \(\)"),
        ("{{ name ~ (name | map('upper')) }}", r"\| join"),
        ("{% macro m(t) %}{{ m(t) }}{% endmacro %}{{ m(name) }}", "macro that calls itself"),
        ("{{ name.split() }}", "list"),
        ("{{ 1 / (name | length - 3) }}", "division"),
        ("{{ name | int('x') | round }}", "round"),
        ("{% if name == 'never' %}{{ name }}{% endif %}", "empty"),
    ],
)
def test_failures_of_one_row_are_that_rows(tmp_path: Path, body: str, words: str) -> None:
    """What only shows when a row is rendered is a RenderError that says what it was."""
    with pytest.raises(RenderError, match=words):
        one_name(tmp_path, body).render({"name": "Mug"})


def test_a_cell_may_look_like_an_address_in_memory(tmp_path: Path) -> None:
    """Only what the template prints of Python itself is refused: a cell's text is the user's own."""
    text = "<Lamp at 0x7f3A>"
    assert one_name(tmp_path, "{{ name | upper }}").render({"name": text}) == text.upper()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("for: x", "no model"),
        ("model: m", "no for"),
        ("just words", "no for"),
        ("for: x\nmodel: m\nmdoel: n", "Did you mean model?"),
        ("for: x\nmodel: m\nprice: 3", "'price'"),
        ("for: x\nmodel: m\nvariables: {name: {column: a, defualt: b}}", "Did you mean default?"),
        ("for: x\nmodel: m\nvariables: {na-me: name}", "letters, digits and _"),
        ("for: x\nmodel: m\nvariables: [name]", "variables in its header"),
        ("for: x\nmodel: m\nmode: video", "text-to-image"),
        ("for: x\nmodel: m\naspect_ratio: 16x9", "aspect_ratio"),
        ("for: x\nmodel: m\nparams: {aspect_ratio: 1:1}", "line of its own"),
        ("for: x\nmodel: m\nparams: {a b: c}", "params"),
        ("for: x\nmodel: {m", "not YAML at line"),
        ("for: a: b\nmodel: m", "not YAML at line 2"),
        ("for: x\nmodel: m\nsize: large", "size"),
        ("for: x\nmodel: m\nformat: bmp", "format"),
        ("for: x\nmodel: m\nsize: 10x10\nfit: stretch", "fit"),
    ],
)
def test_headers_that_are_wrong(tmp_path: Path, header: str, words: str) -> None:
    """A slip in the header is told with its field and its mend."""
    assert words in "\n".join(refused(write(tmp_path, "text", header)))


def test_all_slips_of_a_header_come_at_once(tmp_path: Path) -> None:
    """Three wrong fields are three problems."""
    assert len(refused(write(tmp_path, "text", "for: x\nmdoel: m\nmode: video"))) == 3


def test_a_file_without_header_is_refused(tmp_path: Path) -> None:
    """A prompt alone is no template yet, and neither is one whose header comes later."""
    path = tmp_path / "bare.jinja"
    path.write_text("Photo of {{ name }} {#- rowshot for: x -#}", encoding="utf-8")
    assert "does not begin with a rowshot header" in refused(path)[0]


def test_files_that_are_not_utf8_or_badly_named_are_refused(tmp_path: Path) -> None:
    """A template in CP949 and one whose name no CSV could give are told as such."""
    path = tmp_path / "korean.jinja"
    path.write_bytes("{#- rowshot\nfor: 사진\n-#}".encode("cp949"))
    assert "not UTF-8" in refused(path)[0]
    assert "Rename" in refused(write(tmp_path, name="내 것.jinja"))[0]


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Windows' editors put a mark before the header."""
    path = write(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_template(path).render({"name": "Mug"}) == "Photo: Mug, red"


def test_own_folder_is_searched_first(tmp_path: Path) -> None:
    """A file in the user's folder takes the place of a built-in of its name; the other built-ins stay."""
    write(tmp_path, name="product.jinja")
    templates = load_templates([tmp_path, BUILT_IN])
    assert templates["product"].path.parent == tmp_path
    assert templates["lifestyle"].path.parent == BUILT_IN
    assert templates.names == tuple(sorted(templates.names))


def test_unknown_templates_are_told_with_those_at_hand(tmp_path: Path) -> None:
    """A name that is not there gets a near one and the list; a path is never opened."""
    write(tmp_path)
    templates = load_templates([tmp_path])
    assert templates.find("prodcut") is None
    problem = templates.unknown("prodcut")
    assert problem.whole_file
    assert "Did you mean product?" in problem.mend
    assert "blog_hero, lifestyle, mine, product, product_hero, social_post" in problem.mend
    for name in ["../mine", str(tmp_path / "mine"), "mine.jinja", "", "x" * 10_000]:
        assert templates.find(name) is None
    assert "without folder and ending" in templates.unknown("../mine").mend


def test_a_broken_file_stops_only_who_asks_for_it(tmp_path: Path) -> None:
    """Half-written templates don't stand in the way of others, and never let a built-in take their place unseen."""
    write(tmp_path, "{{ nme }}", name="product.jinja")
    templates = load_templates([tmp_path])
    assert "product" not in templates.names
    found = templates.find("lifestyle")
    assert found is not None
    assert found.path.parent == BUILT_IN
    with pytest.raises(NotStarted, match="uses nme"):
        templates.find("product")


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """A templates folder that is not there stops the run, for a typing error must not fall back to the built-ins."""
    with pytest.raises(NotStarted, match="nowhere"):
        load_templates([tmp_path / "nowhere"])


def test_same_row_same_prompt(tmp_path: Path) -> None:
    """Rendering does not depend on chance or on rows before, or a rerun would buy images anew."""
    path = write(tmp_path, "{% set seen = name | list | unique | join %}{{ seen }} {{ color }}")
    rows = [{"name": "abcabc" * n, "colour": str(n)} for n in range(1, 20)]
    first = [load_template(path).render(row) for row in rows]
    shuffled = list(rows)
    random.shuffle(shuffled)
    again = load_template(path)
    prompts = {row["colour"]: again.render(row) for row in shuffled}
    assert [prompts[row["colour"]] for row in rows] == first
