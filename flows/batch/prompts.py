"""Prompt templates: Jinja files whose first comment says what they are for and which columns they take.

Everything about a template that can be wrong is found when it is loaded. A cell's text goes into the prompt as it is:
it is never evaluated, whatever it looks like.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from blocks.image import Mode
from flows.batch.finish import Finish
from flows.batch.problems import NotStarted, Problem
from flows.batch.template_header import broken, read_header, template_problem

BUILT_IN = Path(__file__).parents[2] / "templates"
SUFFIX = ".jinja"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_IN_MEMORY = re.compile(r"\bat\W+0x[0-9a-f]+", re.IGNORECASE)  # as Python prints what is no text


class RenderError(ValueError):
    """This row makes no prompt. The text ends without a full stop; `column` is the one to look at, if one is known."""

    def __init__(self, message: str, *, column: str = "") -> None:
        super().__init__(message)
        self.column = column


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """One template, ready to render.

    `columns`: variable to CSV column. `defaults`: the text of the variables that a row may leave out. `params`: what
    the header gives the provider besides `aspect_ratio`. `finish`: what is made of the bought original.
    """

    name: str
    path: Path
    purpose: str
    columns: Mapping[str, str]
    defaults: Mapping[str, str]
    model: str
    mode: Mode
    aspect_ratio: str
    params: Mapping[str, str]
    finish: Finish
    compiled: jinja2.Template = dataclasses.field(repr=False, compare=False)

    @property
    def optional(self) -> frozenset[str]:
        """The variables that a row may leave out."""
        return frozenset(self.defaults)

    def with_columns(self, columns: Mapping[str, str]) -> "PromptTemplate":
        """Take some variables from other columns; names of variables that are not this template's are passed over."""
        own = {variable: columns.get(variable, column) for variable, column in self.columns.items()}
        return dataclasses.replace(self, columns=own)

    def render(self, cells: Mapping[str, str]) -> str:
        """Make the prompt of one row. `cells`: column to text. Outer white space goes, inner stays.

        Raises: RenderError where a needed cell is missing or empty, the template fails on the text, or makes none.
        """
        values = {}
        for variable, column in self.columns.items():
            text = cells.get(column, "")
            if not text or text.isspace():
                if variable not in self.defaults:
                    raise RenderError(f"the cell in column {column} is empty", column=column)
                text = self.defaults[variable]
            values[variable] = text
        try:
            prompt = self.compiled.render(values).strip()
        except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise RenderError(str(error).rstrip(".") or type(error).__name__) from error
        except RecursionError as error:
            raise RenderError("it nests too deep: let no macro that calls itself go on without end") from error
        # an address is another one in every process, so each run would buy the row anew
        own = "\0".join(values.values()).lower()
        if any(found.lower() not in own for found in _IN_MEMORY.findall(prompt)):
            raise RenderError(
                "the template prints an address in memory where it should print text: write a method with its (), "
                "as in name.lower(), and end a list with | join"
            )
        if not prompt:
            raise RenderError("it comes out empty")
        return prompt


class Templates(Mapping[str, PromptTemplate]):
    """The templates at hand, by name. A file that is broken stands in the way only of a batch that asks for it."""

    def __init__(self, good: Mapping[str, PromptTemplate], broken: Mapping[str, Sequence[Problem]]) -> None:
        self._good = dict(sorted(good.items()))
        self._broken = broken

    def __getitem__(self, name: str) -> PromptTemplate:
        return self._good[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._good)

    def __len__(self) -> int:
        return len(self._good)

    @property
    def names(self) -> tuple[str, ...]:
        """The templates that can be used, in alphabetical order."""
        return tuple(self._good)

    def find(self, name: str) -> PromptTemplate | None:
        """Look up a template; None where there is no such file, and `unknown` has the words for that.

        Raises: NotStarted where the file is there and broken.
        """
        if name in self._broken:
            raise NotStarted(self._broken[name])
        return self._good.get(name)

    def unknown(self, name: str) -> Problem:
        """What to say of a name that is not there."""
        near = difflib.get_close_matches(name[:100], self.names, 1)
        mend = f"Did you mean {near[0]}? " if near else ""
        mend += f"Templates: {', '.join(self.names)}."
        if not NAME.fullmatch(name):
            mend += " A name is letters, digits, - and _, without folder and ending."
        return Problem(f"There is no template {name!r}.", mend, whole_file=True)


def load_templates(folders: Sequence[Path]) -> Templates:
    """Load every *.jinja file of the folders and, last, of BUILT_IN; of two with one name the first counts.

    Raises: NotStarted where a folder can't be read.
    """
    good: dict[str, PromptTemplate] = {}
    broken: dict[str, Sequence[Problem]] = {}
    for folder in [*folders, BUILT_IN]:
        for path in _template_files(folder):
            name = path.name.removesuffix(SUFFIX)
            if name in good or name in broken:
                continue
            try:
                good[name] = load_template(path)
            except NotStarted as error:
                broken[name] = error.problems
    return Templates(good, broken)


def _template_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX))
    except OSError as error:
        what = f"The templates folder {folder} can't be read ({error.strerror})."
        raise NotStarted([Problem(what, "Name a folder that holds .jinja files.", whole_file=True)]) from error


def load_template(path: Path) -> PromptTemplate:
    """Load and check one file. Raises: NotStarted with all that is wrong with it."""
    name = path.name.removesuffix(SUFFIX)
    if not NAME.fullmatch(name):
        raise broken(path, "its name can't be used in a CSV.", "Rename it with letters, digits, - and _ only.")
    try:
        source = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise broken(path, f"byte {error.start + 1} is not UTF-8.", "Save it as UTF-8.") from error
    except OSError as error:
        raise broken(path, f"it can't be read ({error.strerror}).", "Check your rights to it.") from error
    header = read_header(path, source)
    compiled = _compile(path, source, set(header.variables))
    try:
        finish = Finish.parse(size=header.size, fit=header.fit, format=header.format)
    except ValueError as error:
        raise broken(path, f"{error}", "Mend it in the header.") from error
    return PromptTemplate(
        name=name,
        path=path,
        purpose=header.purpose,
        columns={variable: found.column for variable, found in header.variables.items()},
        defaults={variable: found.default for variable, found in header.variables.items() if found.default is not None},
        model=header.model,
        mode=header.mode,
        aspect_ratio=header.aspect_ratio,
        params=header.params,
        finish=finish,
        compiled=compiled,
    )


def _compile(path: Path, source: str, declared: set[str]) -> jinja2.Template:
    try:
        tree = _ENVIRONMENT.parse(source)
        problems = list(_body_problems(path, tree, declared))
        if problems:
            raise NotStarted(problems)
        return _ENVIRONMENT.from_string(tree)
    except jinja2.TemplateSyntaxError as error:
        reason = (error.message or "syntax error").rstrip(".")
        what = f"line {error.lineno} is no Jinja that can be used here: {reason}."
        raise broken(path, what, "Mend that line.") from error


def _body_problems(path: Path, tree: jinja2.nodes.Template, declared: set[str]) -> Iterator[Problem]:
    if list(jinja2.meta.find_referenced_templates(tree)):
        yield template_problem(path, "it includes or extends another file.", "Write that text into this file.")
    reaches: Iterator[jinja2.nodes.Getattr | jinja2.nodes.Getitem]
    reaches = chain(tree.find_all(jinja2.nodes.Getattr), tree.find_all(jinja2.nodes.Getitem))
    for node in reaches:
        reached = node.attr if isinstance(node, jinja2.nodes.Getattr) else getattr(node.arg, "value", None)
        if isinstance(reached, str) and reached.startswith("_"):
            what = f"line {node.lineno} reaches for {reached}, which is Python's inside and no text."
            yield template_problem(path, what, "Take it out.")
    lines = {name.name: name.lineno for name in reversed(list(tree.find_all(jinja2.nodes.Name)))}
    used = jinja2.meta.find_undeclared_variables(tree)
    for variable in sorted(used - declared, key=lambda name: (lines[name], name)):
        what = f"line {lines[variable]} uses {variable}, which its header does not declare."
        near = difflib.get_close_matches(variable, declared - used, 1)
        hint = f"Did you mean {near[0]}? Otherwise add" if near else "Add"
        yield template_problem(path, what, f"{hint} '{variable}: COLUMN' to variables.")
    for variable in sorted(declared - used):
        what = f"its header declares {variable}, and the text does not use it."
        yield template_problem(path, what, "Use it or take it out.")


def _only_text(value: Any) -> Any:
    """Let text and numbers through, and undefined ones, which raise by themselves; the rest would print as Python."""
    if isinstance(value, (str, int, float, jinja2.Undefined)):
        return value
    raise TypeError(f"the template prints a {type(value).__name__} where it should print text")


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False, finalize=_only_text)
    # One row must make the same prompt every time, or every run would buy its image anew: nothing random is left in.
    environment.globals.clear()
    del environment.filters["random"]
    return environment


_ENVIRONMENT = _environment()
