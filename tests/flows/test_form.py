"""The form of each deployment: fit for a person who knows the CSV and nothing else, and told in words what is wrong."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from prefect.client.schemas.objects import State
from prefect.utilities.callables import parameter_schema

from flows.batch.form_words import in_form_words
from flows.batch.problems import NotStarted
from flows.batch.reading import read_settings
from flows.batch.settings import BatchSettings
from flows.check_setup import check_setup
from flows.generate_images import generate_images
from flows.plan_batch import plan_batch

FORMS = {flow.name: parameter_schema(flow.fn).model_dump() for flow in (generate_images, plan_batch, check_setup)}


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a form, its groups included, by the name of its group."""
    for name, group in schema["definitions"].items():
        for field in group.get("properties", {}).values():
            yield name, schema["definitions"].get(field.get("$ref", "").rpartition("/")[2], {}) | field


@pytest.mark.parametrize("name", FORMS)
def test_every_field_is_told_and_has_its_place(name: str) -> None:
    """It has a title, a description in sentences and a place of its own in its group; all can be left alone."""
    schema = FORMS[name]
    places: dict[str, list[int]] = {}
    for group, field in fields(schema):
        assert field["title"]
        assert field["description"].endswith(".")
        places.setdefault(group, []).append(field["position"])
    assert all(found == list(range(len(found))) for found in places.values())
    assert not any(group.get("required") for group in schema["definitions"].values())


@pytest.mark.parametrize("name", FORMS)
def test_no_field_needs_json_or_a_type(name: str) -> None:
    """No choice of types, no list, no pattern that would be quoted to a person, no secret."""
    told = json.dumps(FORMS[name])
    assert not [word for word in ("anyOf", "oneOf", '"array"', "pattern", '"password"', "null") if word in told]


def test_templates_and_models_are_lists() -> None:
    """The built-in templates and the price book's models, and for the model what the template says."""
    batch = FORMS["generate-images"]["definitions"]["BatchSettings"]["properties"]
    assert batch["template"]["enum"] == ["blog_hero", "lifestyle", "product", "product_hero", "social_post"]
    assert batch["template"]["default"] == "product"
    assert batch["model"]["enum"] == ["as the template says", "nano-banana-2", "seedream-5"]
    assert batch["model"]["default"] == "as the template says"
    assert BatchSettings(csv="a.csv", model="as the template says").model == ""


def test_lists_hold_what_the_team_has_when_it_deploys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates of ROWSHOT_TEMPLATES and models of ROWSHOT_PRICES are offered, but for models that are retired."""
    (tmp_path / "banner.jinja").write_text(
        (Path(__file__).parents[2] / "templates/product.jinja").read_text(encoding="utf-8"), encoding="utf-8"
    )
    prices = tmp_path / "prices.csv"
    head = "generator,model,resolution,usd,credits,date,retires,source,note\n"
    prices.write_text(
        f"{head}anycap,new-one,*,0.01,,2026-05-01,,us,\nanycap,old-one,*,0.01,,2026-05-01,2026-06-01,us,\n"
    )
    monkeypatch.setenv("ROWSHOT_TEMPLATES", str(tmp_path))
    monkeypatch.setenv("ROWSHOT_PRICES", str(prices))
    batch = BatchSettings.model_json_schema()["properties"]
    assert "banner" in batch["template"]["enum"]
    assert batch["model"]["enum"] == ["as the template says", "new-one"]


@pytest.mark.parametrize(
    "given", [{"csv": "a.csv"}, {"pasted": "sku\nA"}, {"csv": "a.csv", "money": {"max_cost_usd": "5"}}]
)
def test_the_server_takes_what_the_form_sends(given: dict[str, Any]) -> None:
    """All fields as the form fills them in, and the few that a command gives."""
    schema = FORMS["generate-images"]
    Draft202012Validator(schema).validate({"batch": given})
    Draft202012Validator(schema).validate({"batch": _as_the_form_sends(schema, "BatchSettings") | given})


def _as_the_form_sends(schema: dict[str, Any], group: str) -> dict[str, Any]:
    return {name: field["default"] for name, field in schema["definitions"][group]["properties"].items()}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "Name a CSV file, or paste its rows."),
        (
            {"csv": "a.csv", "money": {"max_cost_usd": "lots"}},
            "Money, Spend at most (USD): 'lots' can't be used. Write US",
        ),
        ({"csv": "a.csv", "concurrency": 500}, "At once: 500 can't be used. Write 256 or less."),
        ({"csv": "a.csv", "concurrency": "many"}, "At once: 'many' can't be used. Write a whole number."),
        (
            {"csv": "a.csv", "delivery": {"store": "bucket"}},
            "Delivery, Store: 'bucket' can't be used. Write a block as",
        ),
        ({"csv": "a.csv", "approve": "maybe"}, "Ask for approval: 'maybe' can't be used. Choose one of 'no'"),
        ({"csv": "a.csv", "max_cost": "5"}, "There is no setting 'max_cost'. There are: csv, pasted"),
        ({"csv": 5}, "CSV file: 5 can't be used. Write text."),
        ("a.csv", "It is a group of settings, not one value."),
        (None, "It is a group of settings, not one value."),
    ],
)
def test_a_bad_value_is_told_by_the_name_that_the_form_shows(given: Any, told: str) -> None:
    """Which field it is, what stands there and what to write; no word of a program's."""
    with pytest.raises(NotStarted) as refused:
        read_settings(BatchSettings, given)
    assert told in str(refused.value)
    assert "Input should" not in str(refused.value)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"csv": "nowhere.csv"}, "There is no file nowhere.csv."),
        ({"csv": "a.csv", "limit": -1}, "At most this many images: -1 can't be used. Write 0 or more."),
        ({"pasted": "name,color\nSock,red"}, "There is no column sku."),
    ],
)
def test_a_refusal_is_the_state_of_the_run(batch: dict[str, Any], told: str, tmp_path: Path) -> None:
    """Whoever looks at the run sees what to mend, and that nothing was bought; not a Python error."""
    ledger = {"ledger": f"sqlite:///{tmp_path / 'ledger.db'}"}
    state: State[Any] = generate_images(
        {"output": str(tmp_path), "advanced": ledger, **batch},
        return_state=True,
    )
    assert (state.type.value, state.name) == ("FAILED", "NotStarted")
    assert state.message
    assert told in state.message
    assert "Nothing was started and nothing was bought." in state.message


def test_options_of_the_command_are_told_as_fields() -> None:
    """Who fills in a form has never seen an option; a command in backticks is left as it is typed."""
    told = "Raise --max-cost-per-day, or --max-cost, or buy with --limit 5; map with --map color=Colour, or --yes."
    assert in_form_words(told) == (
        "Raise 'Spend at most a day (USD)', or 'Spend at most (USD)', or buy with 'At most this many images' 5; "
        "map with 'Column names' color=Colour, or 'Buy many changed rows'."
    )
    assert in_form_words("`prefect gcl create NAME --limit N`, --all") == "`prefect gcl create NAME --limit N`, --all"


@pytest.mark.usefixtures("prefect_server")
def test_pasted_rows_are_planned(tmp_path: Path) -> None:
    """Rows copied out of a spreadsheet, with tabs between and an empty cell at the end, are a batch like any other."""
    ledger = {"ledger": f"sqlite:///{tmp_path / 'ledger.db'}"}
    pasted = "sku\tname\tcolor\tnote\nA1\tSock\tred\tnew\nB2\tHat\tblue\t\n"
    given: Any = {"csv": "products.csv", "pasted": pasted, "output": str(tmp_path / "out"), "advanced": ledger}
    state = plan_batch(given, return_state=True)
    assert state.name == "Planned"
    assert state.message == "pasted rows: 2 images to buy, free, 0 bought already"
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("prefect_server")
def test_check_setup_tells_what_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each door that is named is tried; the state names the ones that fail, and how to mend them."""
    works = check_setup({"generator": "proof"}, return_state=True)
    assert (works.name, works.message) == ("Completed", "All 1 work: proof")
    monkeypatch.setenv("ROWSHOT_ANYCAP", "/nowhere/anycap")
    fails = check_setup({"generator": "anycap", "store": "s3-bucket/nobody"}, return_state=True)
    assert fails.name == "Failed"
    assert fails.message
    assert fails.message.startswith("2 of 2 failed.\ngenerator anycap: ")
    assert "The Prefect server has no block 's3-bucket/nobody'." in fails.message


@pytest.mark.parametrize("given", ["{", "{error.__traceback__.tb_frame.f_globals}", "{error}"])
def test_what_was_filled_in_is_quoted_and_never_filled_out(given: str) -> None:
    """Braces in a field are text: nothing of this process, which may know secrets, can be had by them."""
    with pytest.raises(NotStarted) as refused:
        read_settings(BatchSettings, {"csv": "a.csv", "advanced": {"columns": given}})
    assert f"{given!r} says no column" in str(refused.value)
