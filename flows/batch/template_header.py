"""The header of a template: its first comment, in YAML, which says what the template is for and what it takes."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from blocks.image import Mode
from flows.batch.problems import NotStarted, Problem

_HEADER = re.compile(r"\s*\{#-?\s*rowshot\s(.*?)[-+]?#\}", re.DOTALL)
_HEADER_MEND = "Begin the file with {#- rowshot, lines such as 'for: ...' and 'variables: {name: name}', and -#}."


class Variable(BaseModel):
    """Where a variable's text comes from. With a `default` its column, or the cell in it, may be missing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str = Field(min_length=1)
    default: str | None = None


def _check_identifier(name: str) -> str:
    if not name.isidentifier():
        raise ValueError("a variable's name has letters, digits and _, and does not begin with a digit")
    return name


def _check_mode(mode: Mode) -> Mode:
    if mode is Mode.IMAGE_TO_IMAGE:
        raise ValueError("image-to-image needs reference images, which a row can't name yet; take the line out")
    return mode


VariableName = Annotated[str, AfterValidator(_check_identifier)]
VariableSource = Annotated[Variable, BeforeValidator(lambda v: {"column": v} if isinstance(v, str) else v)]
ParamName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class TemplateHeader(BaseModel):
    """The first comment of a template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    purpose: str = Field(alias="for", min_length=1)
    variables: dict[VariableName, VariableSource] = {}
    model: str = Field(min_length=1)
    mode: Annotated[Mode, AfterValidator(_check_mode)] = Mode.TEXT_TO_IMAGE
    aspect_ratio: str = Field(default="1:1", pattern=r"^[1-9][0-9]*:[1-9][0-9]*$")
    params: dict[ParamName, str] = {}
    size: str = ""
    fit: str = ""
    format: str = ""


def read_header(path: Path, source: str) -> TemplateHeader:
    """Read the header off a template's text. Raises: NotStarted with all that is wrong with it."""
    found = _HEADER.match(source)
    if not found:
        raise broken(path, "it does not begin with a rowshot header.", _HEADER_MEND)
    try:
        # The base loader takes every value as text: others read 16:9 as 969 and no as False.
        fields = yaml.BaseLoader(found[1]).get_single_data()
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        line = source[: found.start(1)].count("\n") + (mark.line if mark else 0) + 1
        reason = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        mend = "Write 'name: value' lines, with quotes around a value that holds ': ' or begins with a sign."
        raise broken(path, f"its header is not YAML at line {line} ({reason}).", mend) from error
    try:
        header = TemplateHeader.model_validate(fields if isinstance(fields, dict) else {})
    except ValidationError as error:
        problems = [_field_problem(path, detail["type"], detail["loc"], detail["msg"]) for detail in error.errors()]
        raise NotStarted(problems) from error
    if "aspect_ratio" in header.params:
        raise broken(path, "its header has aspect_ratio among params.", "Give it a line of its own, aspect_ratio: ...")
    return header


def _field_problem(path: Path, kind: str, place: Sequence[int | str], message: str) -> Problem:
    field = ".".join(str(part) for part in place)
    thing: type[BaseModel] = TemplateHeader if len(place) == 1 else Variable
    known = [info.alias or name for name, info in thing.model_fields.items()]
    if kind == "missing":
        return template_problem(path, f"its header has no {field}.", f"Add a line '{field}: ...'.")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), known, 1)
        mend = f"Did you mean {near[0]}?" if near else f"Take it out; what can stand there: {', '.join(known)}."
        return template_problem(path, f"its header has {field!r}, which means nothing here.", mend)
    what = f"{field} in its header is wrong: {message}."
    return template_problem(path, what, "docs/templates.md tells what each field takes.")


def template_problem(path: Path, what: str, mend: str) -> Problem:
    """Put the words for something wrong with a template's file."""
    return Problem(f"Template {path}: {what}", mend, whole_file=True)


def broken(path: Path, what: str, mend: str) -> NotStarted:
    """Make the error of a template with one thing wrong."""
    return NotStarted([template_problem(path, what, mend)])
