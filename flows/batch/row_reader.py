"""From the rows of a CSV to jobs: each validated and rendered, and all that is wrong told at once."""

import difflib
from collections.abc import Iterator, Mapping, Sequence

from flows.batch.choices import template_folders
from flows.batch.csv_file import Sheet, read_csv
from flows.batch.jobs import Batch, InputRow, Job, Source, identity
from flows.batch.prices import PriceBook
from flows.batch.problems import NotStarted, Problem
from flows.batch.prompts import PromptTemplate, RenderError, Templates, load_templates
from flows.batch.row_report import ERROR_COLUMN, RAGGED_BEFORE
from flows.batch.settings import BatchSettings
from flows.batch.sources import CsvSource

LONGEST_SKU = 128
LONGEST_PROMPT = 32_000
PARAM = "param."


def read_jobs(settings: BatchSettings, source: Source, prices: PriceBook, csv: CsvSource | None = None) -> Batch:
    """Read, validate and render every row of the batch's CSV: `csv` where it was fetched, else the file that it names.

    Raises: NotStarted with all that is wrong, unless it is only single rows and `skip_invalid` says to go on.
    """
    csv = csv or CsvSource.local(settings)
    sheet = read_csv(csv.path, csv.content)
    reader = _RowReader(
        settings, source, prices, load_templates(template_folders(settings.advanced.templates)), sheet.columns
    )
    reader.check_file()
    rows = sorted([*reader.read(sheet), *_left_out(sheet)], key=lambda row: row.line)
    problems = sorted([*sheet.problems, *reader.problems], key=lambda problem: problem.line)
    if any(problem.whole_file for problem in problems) or (problems and not settings.rows.skip_invalid):
        raise NotStarted(problems)
    jobs = {row.job.key: row.job for row in rows if row.job}
    return Batch(csv.name, sheet.columns, tuple(rows), tuple(jobs.values()), tuple(problems))


def _left_out(sheet: Sheet) -> Iterator[InputRow]:
    reasons = {problem.line: str(problem) for problem in sheet.problems}
    for bad in sheet.bad_rows:
        sku = dict(zip(sheet.columns, bad.cells, strict=False)).get("sku", "")
        sku = sku.replace("\0", "")  # PostgreSQL takes no text with a NUL
        yield InputRow(bad.line, sku[:LONGEST_SKU], "", bad.cells, None, reasons.get(bad.line, "not a row"))


class _RowReader:
    """Turns rows into jobs and collects what is wrong with them."""

    def __init__(
        self, settings: BatchSettings, source: Source, prices: PriceBook, templates: Templates, columns: Sequence[str]
    ) -> None:
        self.problems: list[Problem] = []
        self._settings = settings
        self._source = source
        self._columns = tuple(columns)
        self._named = settings.advanced.column_names
        self._templates = templates
        self._mapped: dict[str, PromptTemplate] = {}
        self._params = [column for column in columns if column.startswith(PARAM)]
        capabilities = source.capabilities
        priced = prices.models("" if capabilities.any_priced_model else capabilities.provider)
        self._models = set(capabilities.models) | priced
        self._seen: dict[tuple[str, str], Job] = {}
        self._missing: set[tuple[str, str]] = set()

    def check_file(self) -> None:
        """What no row could survive: no sku column, a --map that names nothing, a default template that isn't there."""
        if "sku" not in self._columns:
            near = difflib.get_close_matches("sku", [c.lower() for c in self._columns], 1, 0.6)
            hint = f"Rename the column {near[0]!r} to sku." if near else "Add a column sku that names each row."
            self._whole_file("There is no column sku.", hint, "sku")
        for variable, column in self._named.items():
            if column not in self._columns:
                self._whole_file(
                    f"--map {variable}={column} names a column that the file doesn't have.",
                    f"Its columns are {', '.join(self._columns)}.",
                    column,
                )
        if self._templates.find(self._settings.template) is None:
            self.problems.append(self._templates.unknown(self._settings.template))
        used = {v for name in self._templates.names for v in self._templates[name].columns}
        for variable in sorted(set(self._named) - used):
            self._whole_file(
                f"--map {variable}=... names a variable that no template has.",
                f"Variables are {', '.join(sorted(used))}.",
                "",
            )

    def read(self, sheet: Sheet) -> Iterator[InputRow]:
        """Every well-formed row, as a job or with its problem."""
        for line, cells in zip(sheet.lines, sheet.frame.itertuples(index=False, name=None), strict=True):
            before = len(self.problems)
            job = self._job(int(line), dict(zip(self._columns, cells, strict=True)))
            sku = cells[self._columns.index("sku")] if "sku" in self._columns else ""
            found = self.problems[before:]
            template = job.template if job else self._template_name(dict(zip(self._columns, cells, strict=True)))
            yield InputRow(
                int(line),
                sku[:LONGEST_SKU],
                template[:LONGEST_SKU],
                cells,
                job,
                "; ".join(f"{p.what} {p.mend}" for p in found),
            )

    def _template_name(self, cells: Mapping[str, str]) -> str:
        return cells.get("template", "").strip() or self._settings.template

    def _whole_file(self, what: str, mend: str, column: str) -> None:
        self.problems.append(Problem(what, mend, column=column, whole_file=True))

    def _problem(self, line: int, column: str, what: str, mend: str) -> None:
        self.problems.append(Problem(what, mend, line=line, column=column))

    def _template(self, line: int, name: str) -> PromptTemplate | None:
        if name not in self._mapped:
            if self._templates.find(name) is None:
                unknown = self._templates.unknown(name)
                if name != self._settings.template:  # the default was named once, for the whole file
                    self._problem(line, "template", unknown.what, unknown.mend)
                return None
            template = self._templates[name]
            known = {v: c for v, c in self._named.items() if v in template.columns}
            self._mapped[name] = template.with_columns(known)
        return self._mapped[name]

    def _job(self, line: int, cells: Mapping[str, str]) -> Job | None:
        before = len(self.problems)
        sku = cells.get("sku", "")
        self._check_sku(line, sku)
        self._check_for_old_error(line, cells)
        name = self._template_name(cells)
        template = self._template(line, name)
        if template is None:
            return None
        prompt = self._prompt(line, template, cells)
        model = cells.get("model", "").strip() or self._settings.model or template.model
        self._check_model(line, model, in_row=bool(cells.get("model", "").strip()))
        params = {"aspect_ratio": template.aspect_ratio, **template.params}
        params.update({column[len(PARAM) :]: cells[column].strip() for column in self._params if cells[column].strip()})
        if len(self.problems) > before or prompt is None:
            return None
        variant = cells.get("variant", "").strip()
        job = Job(
            line=line,
            sku=sku,
            template=name,
            fingerprint=identity(self._source, model, template.mode, prompt, params, variant),
            generator=self._source.capabilities.provider,
            account=self._source.account,
            model=model,
            mode=template.mode,
            prompt=prompt,
            params=params,
            finish=template.finish,
            variant=variant,
        )
        return self._once(job)

    def _once(self, job: Job) -> Job | None:
        """The job of an equal earlier row; a problem where an earlier row of the same sku and template differs."""
        first = self._seen.setdefault((job.sku, job.template), job)
        if first.fingerprint == job.fingerprint:
            return first
        self._problem(
            job.line,
            "sku",
            f"{job.sku!r} with template {job.template} stands on line {first.line} too, with other content.",
            "Give one of them another sku or template, or delete it.",
        )
        return None

    def _check_sku(self, line: int, sku: str) -> None:
        if not sku.strip():
            self._problem(line, "sku", "The sku is empty.", "Give the row a name of its own.")
        elif len(sku) > LONGEST_SKU:
            self._problem(line, "sku", f"The sku has {len(sku)} characters.", f"Use {LONGEST_SKU} at most.")
        elif not sku.isprintable() and any(ord(c) < ord(" ") or 0x7F <= ord(c) < 0xA0 for c in sku):  # noqa: PLR2004 - the C0 and C1 control ranges
            self._problem(
                line, "sku", f"The sku {sku!r} holds a control character.", "Take out tabs, line breaks and the like."
            )

    def _check_for_old_error(self, line: int, cells: Mapping[str, str]) -> None:
        """A sheet program fills up a short row of failures.csv, and its error then stands in the place of a cell."""
        if ERROR_COLUMN not in cells:
            return
        for column, text in cells.items():
            if column != ERROR_COLUMN and RAGGED_BEFORE.match(text):
                what = "The cell holds the error of an earlier run."
                self._problem(line, column, what, "Put each of the row's cells under its column, and empty this one.")

    def _check_model(self, line: int, model: str, *, in_row: bool) -> None:
        if self._settings.rows.allow_unknown_model or model in self._models:
            return
        near = difflib.get_close_matches(model, sorted(self._models), 1)
        mend = f"Did you mean {near[0]}? " if near else ""
        mend += f"Known models: {', '.join(sorted(self._models))}; --allow-unknown-model takes any."
        if in_row:
            self._problem(line, "model", f"Nobody knows the model {model!r}.", mend)
        elif ("model", model) not in self._missing:
            self._missing.add(("model", model))
            self._whole_file(f"Nobody knows the model {model!r}.", mend, "")

    def _prompt(self, line: int, template: PromptTemplate, cells: Mapping[str, str]) -> str | None:
        complete = True
        for variable, column in template.columns.items():
            if variable in template.optional:
                continue
            if column not in cells:
                complete = False
                if (template.name, column) not in self._missing:
                    self._missing.add((template.name, column))
                    self._whole_file(
                        f"The template {template.name} needs a column {column} (first on line {line}).",
                        f"Add it, or name yours with --map {variable}=COLUMN.",
                        column,
                    )
            elif not cells[column].strip():
                complete = False
                self._problem(
                    line, column, f"The cell is empty, and the template {template.name} needs it.", "Fill it in."
                )
        if not complete:
            return None
        try:
            prompt = template.render(cells)
        except RenderError as error:
            self._problem(
                line, "", f"The prompt can't be rendered: {error}.", f"Mend the row or templates/{template.name}.jinja."
            )
            return None
        if len(prompt) > LONGEST_PROMPT:
            self._problem(
                line, "", f"The prompt has {len(prompt)} characters.", f"Shorten the row to {LONGEST_PROMPT} at most."
            )
            return None
        return prompt
