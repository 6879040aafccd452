from pathlib import Path
from typing import Any

import pytest
from small_batch import MODELS, PRICES, SOURCE, SmallBatch

from blocks.image import Capabilities, Mode
from flows.batch.jobs import Batch, Job, Source, identity
from flows.batch.problems import NotStarted, Problem
from flows.batch.row_reader import read_jobs

HEADER = "sku,name,color,template,model,variant,note\n"
PARAMS = {"aspect_ratio": "1:1"}


def read(folder: Path, text: str, source: Source = SOURCE, **changes: Any) -> Batch:
    """The jobs of a CSV with this text."""
    batch = SmallBatch(folder)
    batch.csv(text)
    return read_jobs(batch.settings(**changes), source, PRICES)


def only(folder: Path, text: str, source: Source = SOURCE, **changes: Any) -> Job:
    """The one job of a CSV."""
    (job,) = read(folder, text, source, **changes).jobs
    return job


def problems(folder: Path, text: str, source: Source = SOURCE, **changes: Any) -> tuple[Problem, ...]:
    """What is wrong with a CSV."""
    with pytest.raises(NotStarted) as refused:
        read(folder, text, source, **changes)
    return refused.value.problems


def test_a_row_becomes_a_job(tmp_path: Path) -> None:
    """A row is validated, rendered and named by what decides its image."""
    job = only(tmp_path, "sku,name,color,price\n00123,셔츠,파랑,NA\n")
    assert (job.line, job.sku, job.template, job.generator) == (2, "00123", "product", "anycap")
    assert job.prompt == "이커머스 사진: 셔츠, 파랑, 스튜디오, 흰색 배경, 1024x1024"
    assert (job.model, job.mode, job.params) == ("nano-banana-2", Mode.TEXT_TO_IMAGE, PARAMS)
    assert job.key == ("00123", "product", job.fingerprint)


def test_all_problems_are_told_at_once_with_line_column_and_mend(tmp_path: Path) -> None:
    """Nothing is hidden behind the first error, and lines are those of the file, quoted line breaks included."""
    text = (
        HEADER + "A,Shirt,blue,,,,fine\n"
        "B,,red,,,,\n"
        'C,Cap,red,prodct,,,"two\nlines"\n'
        ",Hat,red,,,,\n"
        "D,Bag,red,,nano-bananna-2,,\n"
        "A,Shirt,green,,,,\n"
        "E,Sock\n"
        'F,Belt,"red,,,,\n'
        " ,,red,,no-such-model,,\n"
    )
    found = problems(tmp_path, text)
    assert [(problem.line, problem.column) for problem in found] == [
        (3, "name"),
        (4, "template"),
        (6, "sku"),
        (7, "model"),
        (8, "sku"),
        (9, ""),
        (10, ""),
        (11, "sku"),
        (11, "name"),
        (11, "model"),
    ]
    assert all(problem.mend for problem in found)
    told = {(problem.line, problem.column): str(problem) for problem in found}
    assert "line 3, column 'name'" in told[3, "name"]
    assert "Did you mean product" in told[4, "template"]
    assert "Did you mean nano-banana-2?" in told[7, "model"]
    assert "--allow-unknown-model" in told[7, "model"]
    assert "stands on line 2 too, with other content" in told[8, "sku"]


def test_a_row_that_holds_its_old_error_in_a_cell_is_refused(tmp_path: Path) -> None:
    """A sheet program fills up a short row of failures.csv, and its error then stands in the place of a cell."""
    error = "line 3: The row has 2 cells and the header has 3. Add what is missing."
    header = "sku,name,color,rowshot_error\n"
    (problem,) = problems(tmp_path, f"{header}C,Cap,{error},\n")
    assert (problem.line, problem.column, "error of an earlier run" in problem.what) == (2, "color", True)
    assert len(read(tmp_path, f"{header}C,Cap,red,{error}\n").jobs) == 1


def test_with_skip_invalid_bad_rows_stay_behind_and_the_others_go_on(tmp_path: Path) -> None:
    """Bad rows keep their cells and get their reason; good rows get their jobs, all in the file's order."""
    text = HEADER + "A,Shirt,blue,,,,a\nB,,red,,,,b\nC,Cap,red,nope,,,c\nD,Bag\nE,Belt,red,,,,e\n"
    batch = read(tmp_path, text, skip_invalid=True)
    assert [(row.line, row.sku, row.job is not None) for row in batch.rows] == [
        (2, "A", True),
        (3, "B", False),
        (4, "C", False),
        (5, "D", False),
        (6, "E", True),
    ]
    assert [job.sku for job in batch.jobs] == ["A", "E"]
    for row in batch.rows:
        assert bool(row.problem) is (row.job is None)
    assert batch.rows[1].cells == ("B", "", "red", "", "", "", "b")
    assert batch.rows[3].cells == ("D", "Bag")
    assert batch.rows[2].template == "nope"
    assert len(batch.problems) == 3


@pytest.mark.parametrize(
    ("text", "changes", "told"),
    [
        ("name,color\nShirt,blue\n", {}, "no column sku"),
        ("SKU,name,color\nA,Shirt,blue\n", {}, "Rename"),
        ("sku,name\nA,Shirt\n", {}, "needs a column color"),
        ("sku,name,color\nA,Shirt,blue\n", {"template": "nope"}, "no template 'nope'"),
        ("sku,name,color\nA,Shirt,blue\n", {"model": "nope"}, "Nobody knows the model 'nope'"),
        ("sku,name,color\nA,Shirt,blue\n", {"columns": "name=title"}, "names a column that the file doesn't have"),
        ("sku,name,color\nA,Shirt,blue\n", {"columns": "nmae=name"}, "names a variable that no template has"),
        ("sku,name,name\nA,Shirt,blue\n", {}, "same name"),
        ("sku,name,color\n", {}, "no rows"),
    ],
)
def test_a_bad_file_stops_even_with_skip_invalid(tmp_path: Path, text: str, changes: dict[str, Any], told: str) -> None:
    """What is wrong with the whole file is not got round by leaving rows out."""
    found = problems(tmp_path, text, skip_invalid=True, **changes)
    assert any(told in str(problem) for problem in found)
    assert all(problem.mend for problem in found)


def test_what_is_wrong_with_the_whole_file_is_told_once(tmp_path: Path) -> None:
    """A missing column or an unknown default model is one problem, however many rows there are."""
    rows = "".join(f"{number},Shirt\n" for number in range(50))
    found = problems(tmp_path, f"sku,name\n{rows}", model="nope")
    assert len(found) == 2
    assert any("--map color=COLUMN" in problem.mend for problem in found)


def test_any_model_is_taken_on_request(tmp_path: Path) -> None:
    """--allow-unknown-model takes a model from a row as well as from the option."""
    text = "sku,name,color,model\nA,Shirt,blue,next-year\nB,Shirt,blue,\n"
    batch = read(tmp_path, text, allow_unknown_model=True, model="next-month")
    assert [job.model for job in batch.jobs] == ["next-year", "next-month"]


def test_a_stand_in_takes_every_priced_model_and_a_provider_its_own(tmp_path: Path) -> None:
    """A proof can stand for any model of the price book; a provider takes its own list and its own prices."""
    text = "sku,name,color,model\nA,Shirt,blue,seedream-5\n"
    assert only(tmp_path, text, Source(Capabilities("proof", any_priced_model=True))).model == "seedream-5"
    assert problems(tmp_path, text, Source(Capabilities("other", frozenset({"nano-banana-2"}))))[0].column == "model"


@pytest.mark.parametrize(
    "sku", ["00123", "가나다", "a/../b\\c", "<b>&'", "=1+1", "  spaced  ", "👕", "x" * 128, "a\u2028b"]
)
def test_any_sku_without_control_characters_is_good(tmp_path: Path, sku: str) -> None:
    """A sku is the user's own word and stays as it is."""
    assert only(tmp_path, f'sku,name,color\n"{sku}",Shirt,blue\n').sku == sku


@pytest.mark.parametrize("sku", ["x" * 129, "a\tb", "a\nb", "a\x7fb", "a\x85b", "a\x1bb", "", "   "])
def test_a_sku_that_cannot_be_is_refused(tmp_path: Path, sku: str) -> None:
    """Control characters, nothing at all and more than 128 characters are no sku."""
    (found,) = problems(tmp_path, f'sku,name,color\n"{sku}",Shirt,blue\n')
    assert (found.line, found.column) == (2, "sku")


def test_equal_rows_share_one_image(tmp_path: Path) -> None:
    """Rows of one sku and template with the same image are one job, whatever else stands in them."""
    text = "sku,name,color,note\nA,Shirt,blue,1\nB,Cap,red,\nA,Shirt,blue,1\nA,Shirt,blue,2\n"
    batch = read(tmp_path, text)
    assert [job.sku for job in batch.jobs] == ["A", "B"]
    assert batch.duplicates == 2
    assert batch.rows[0].job is batch.rows[2].job is batch.rows[3].job


def test_one_sku_may_have_an_image_of_each_template(tmp_path: Path) -> None:
    """The same sku with another template is another image."""
    text = "sku,name,color,template\nA,Shirt,blue,\nA,Shirt,blue,product_hero\n"
    assert [job.template for job in read(tmp_path, text).jobs] == ["product", "product_hero"]


def test_columns_override_template_model_variant_and_params(tmp_path: Path) -> None:
    """A row's own template, model, variant and param.* count; empty cells leave the defaults."""
    text = (
        "sku,name,color,template,model,variant,param.aspect_ratio,param.seed\n"
        "A,Shirt,blue,product_hero,nano-banana-2,2,16:9,7\n"
        "B,Shirt,blue,,,,,\n"
    )
    first, second = read(tmp_path, text, model="seedream-5").jobs
    assert (first.template, first.model, first.variant) == ("product_hero", "nano-banana-2", "2")
    assert first.params == {"aspect_ratio": "16:9", "seed": "7"}
    assert (second.template, second.model, second.variant, second.params) == ("product", "seedream-5", "", PARAMS)


def test_map_takes_a_variable_from_another_column(tmp_path: Path) -> None:
    """--map leads a template's variable to the sheet's own column, in every template that has it."""
    text = "sku,Titel,Farbe,template\nA,Hemd,blau,\nB,Hut,rot,lifestyle\n"
    columns = "name=Titel, color=Farbe, scene=Farbe"
    first, second = read(tmp_path, text, columns=columns).jobs
    assert "Hemd, blau" in first.prompt
    assert "Hut, rot, rot" in second.prompt


PARTS: dict[str, Any] = {
    "source": SOURCE,
    "model": "nano-banana-2",
    "mode": Mode.TEXT_TO_IMAGE,
    "prompt": "a shirt",
    "params": PARAMS,
    "variant": "",
}


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("source", Source(Capabilities("proof", MODELS))),
        ("source", Source(SOURCE.capabilities, "another account")),
        ("model", "seedream-5"),
        ("mode", Mode.IMAGE_TO_IMAGE),
        ("prompt", "a shirt "),
        ("params", {"aspect_ratio": "16:9"}),
        ("params", {**PARAMS, "seed": "1"}),
        ("variant", "2"),
    ],
)
def test_each_part_of_an_image_is_in_its_fingerprint(part: str, other: object) -> None:
    """Whatever decides the image makes another fingerprint."""
    assert identity(**PARTS) != identity(**{**PARTS, part: other})


def test_a_fingerprint_stays_what_it_is() -> None:
    """Ledgers hold these: if this figure changes, everything anybody has bought is bought again."""
    ordered = {**PARTS, "params": {"b": "2", "a": "1"}, "prompt": "셔츠"}
    swapped = {**ordered, "params": {"a": "1", "b": "2"}}
    assert identity(**ordered) == identity(**swapped)
    assert identity(**PARTS) == "457cc2b462a7968e8e27ac52161e14eeb582328d6c707f6f9f9600b0a4a436e3"


def test_what_does_not_decide_the_image_is_not_in_its_fingerprint(tmp_path: Path) -> None:
    """Line, other columns, models on offer, and the size and format made from the original change nothing."""
    own = tmp_path / "own"
    own.mkdir()

    def job(header: str, text: str, capabilities: Capabilities = SOURCE.capabilities) -> Job:
        source = "{#- rowshot\nfor: a test\nvariables: {name: name}\nmodel: seedream-5\n" + header + "-#}\n{{ name }}"
        (own / "mine.jinja").write_text(source)
        return only(tmp_path, text, Source(capabilities), templates=str(own), template="mine")

    plain = job("", "sku,name\nA,Shirt\n")
    sized = job("size: 1200x630\nfit: pad\nformat: webp\n", "sku,name\nA,Shirt\n")
    moved = job("", "note,name,sku\n\nnew,Shirt,A\n", Capabilities("anycap", MODELS | {"x"}, sizes=("1k", "2k")))
    assert plain.fingerprint == sized.fingerprint == moved.fingerprint
    assert str(sized.finish) == "1200x630-pad webp"
    assert moved.line == 3
    assert job('aspect_ratio: "4:3"\n', "sku,name\nA,Shirt\n").fingerprint != plain.fingerprint


def test_cell_text_is_never_evaluated(tmp_path: Path) -> None:
    """A cell that looks like a template goes into the prompt as it is."""
    job = only(tmp_path, 'sku,name,color\nA,"{{ 7 * 7 }}{% for x in y %}",blue\n')
    assert "{{ 7 * 7 }}{% for x in y %}" in job.prompt


def test_a_prompt_beyond_all_bounds_is_refused(tmp_path: Path) -> None:
    """A prompt of more than 32,000 characters is told, not sent."""
    (found,) = problems(tmp_path, f"sku,name,color\nA,{'x' * 40_000},blue\n")
    assert found.line == 2
    assert "32000" in found.mend
