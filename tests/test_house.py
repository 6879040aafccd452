"""The house in order: rules that no reviewer should have to remember.

Each rule is a function from a folder to a list of breaches, so that it can be tried on a folder which breaks it.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from flows.batch.settings import BatchSettings

REPO = Path(__file__).parents[1]
MOST_LINES = 300
OURS = {"blocks", "flows", "rowshot"}
MACHINE_PATH = re.compile(r"(?<![\w.~}-])/(?:work|root|home/\w+|Users/\w+)/")
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
# Looks once at each module in turn, so that the first one to load the orchestrator is the one that is named.
LOADS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if any(loaded.split(".")[0].startswith("prefect") for loaded in sys.modules):
        sys.exit(name)
"""


def sources(folder: Path) -> list[Path]:
    """Every Python file below `folder`."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def module_name(root: Path, path: Path) -> str:
    """The dotted name under which `path` is imported."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(path: Path) -> ast.Module:
    """What Python reads in `path`."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(root: Path, path: Path) -> Iterator[str]:
    """Every module that `path` imports, by any of the ways Python has."""
    package = list(path.relative_to(root).parent.parts)
    for node in ast.walk(tree(path)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = ".".join(package[: len(package) - level + 1]) if level else ""
                base = ".".join(filter(None, [start, module]))
                # `from blocks import errors` imports blocks.errors where that is a module.
                inside = [name for name in (f"{base}.{alias.name}" for alias in names) if is_module(root, name)]
                yield from inside or [base]
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def is_module(root: Path, name: str) -> bool:
    """Whether `name` is a module of this house."""
    path = root.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def below(name: str, *packages: str) -> bool:
    """Whether `name` is one of these packages or lies in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imports_that_run_backwards(root: Path) -> list[str]:
    """Flows import tasks, tasks the batch and all blocks, and the batch only the types and errors of blocks."""
    breaches = []
    for path in [*sources(root / "blocks"), *sources(root / "flows")]:
        name = module_name(root, path)
        for imported in imports(root, path):
            if below(name, "blocks"):
                allowed = not below(imported, "flows")
            elif below(name, "flows.batch"):
                allowed = below(imported, "flows.batch", "blocks.errors", "blocks.image") or not below(imported, *OURS)
            elif below(name, "flows.tasks"):
                allowed = below(imported, "flows.tasks", "flows.batch") or not below(imported, "flows")
            else:
                allowed = imported != "flows.__main__"
            if not allowed:
                breaches.append(f"{name} imports {imported}")
    return breaches


def batch_files_that_say_prefect(root: Path) -> list[str]:
    """The batch is plain Python, down to its comments and data."""
    return [
        path.name
        for path in (root / "flows" / "batch").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and b"prefect" in path.read_bytes().lower()
    ]


def flow_files_without_their_flow(root: Path) -> list[str]:
    """Each file directly in flows/ is one flow of the same name; only the command is none."""
    return [
        path.name
        for path in sorted((root / "flows").glob("*.py"))
        if path.stem not in {"__init__", "__main__"}
        and not any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == path.stem and is_flow(node)
            for node in tree(path).body
        )
    ]


def is_flow(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the function is decorated with @flow, @flow(...) or @prefect.flow."""
    named = [decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in function.decorator_list]
    return any(getattr(one, "attr", getattr(one, "id", "")) == "flow" for one in named)


def names_that_hide_others(root: Path) -> list[str]:
    """A path entrypoint puts flows/ first on sys.path, where a file's name would hide a library's."""
    taken = (sys.stdlib_module_names | set(packages_distributions())) - OURS
    flows = root / "flows"
    found = [*flows.glob("*.py"), *(flows / "tasks").glob("*.py"), *(one for one in flows.iterdir() if one.is_dir())]
    return sorted(path.name for path in found if path.stem in taken and not path.stem.startswith("__"))


def long_modules(root: Path) -> list[str]:
    """A module fits in a head."""
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("blocks", "flows")
        for path in sources(root / folder)
    }
    return [f"{module_name(root, path)}: {lines} lines" for path, lines in lengths.items() if lines > MOST_LINES]


def swallowed_errors(root: Path) -> list[str]:
    """No bare except, and no `except Exception` that does nothing."""
    breaches = []
    for path in [source for folder in ("blocks", "flows", "tests", "benchmarks") for source in sources(root / folder)]:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                idle = all(
                    isinstance(line, ast.Pass | ast.Continue)
                    or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
                    for line in node.body
                )
                if node.type is None or (idle and catches_all(node.type)):
                    breaches.append(f"{path.name}:{node.lineno}")
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
                breaches += [f"{path.name}:{node.lineno}" for one in node.args if catches_all(one)]
    return breaches


def catches_all(kind: ast.expr) -> bool:
    """Whether this exception type takes in every error there is."""
    return any(isinstance(node, ast.Name) and node.id in {"Exception", "BaseException"} for node in ast.walk(kind))


def silent_tests(root: Path) -> list[str]:
    """Each test says in its docstring which behaviour it shows."""
    return [
        f"{path.name}: {node.name}"
        for path in sources(root / "tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]


def dead_links(root: Path) -> list[str]:
    """Every relative link in the Markdown leads to a file."""
    return [
        f"{page.relative_to(root)} -> {target}"
        for page in sorted([*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("benchmarks/**/*.md")])
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:|#", target) and not (page.parent / target.split("#")[0]).exists()
    ]


def schedules_without_a_cap(root: Path) -> list[str]:
    """A deployment that a schedule starts, and whose images cost money, has a cap."""
    page = root / "prefect.yaml"
    deployments = (yaml.safe_load(page.read_text(encoding="utf-8")) or {})["deployments"] if page.exists() else []
    breaches = []
    for deployment in deployments:
        given = deployment.get("parameters", {}).get("batch")
        batch = BatchSettings(**given) if given else None
        scheduled = deployment.get("schedules") or deployment.get("schedule")
        if scheduled and batch and batch.generator != "proof" and not batch.money.caps:
            breaches.append(deployment["name"])
    return breaches


def machine_paths(root: Path) -> list[str]:
    """No file names a place that only one machine has."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [
        f"{name}:{number}"
        for name in sorted(set(filter(None, listed.split("\0"))))
        if (root / name).is_file()
        for number, line in enumerate((root / name).read_text(encoding="utf-8", errors="ignore").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]


Rule = Callable[[Path], list[str]]
# Rule, a file that breaks it, and what stands in that file.
BREACHES: list[tuple[Rule, str, str]] = [
    (imports_that_run_backwards, "blocks/x.py", "from flows.batch import jobs"),
    (imports_that_run_backwards, "blocks/x.py", "import importlib\nimportlib.import_module('flows.batch.jobs')"),
    (imports_that_run_backwards, "flows/batch/x.py", "from blocks import Proof"),
    (imports_that_run_backwards, "flows/batch/x.py", "def late():\n    from blocks.anycap import AnyCap"),
    (imports_that_run_backwards, "flows/batch/x.py", "import flows.tasks.report"),
    (imports_that_run_backwards, "flows/batch/x.py", "from ..tasks import report"),
    (imports_that_run_backwards, "flows/batch/x.py", "from flows import generate_images"),
    (imports_that_run_backwards, "flows/tasks/x.py", "from flows.generate_images import generate_images"),
    (imports_that_run_backwards, "flows/x.py", "from flows.__main__ import main"),
    (batch_files_that_say_prefect, "flows/batch/x.csv", "# from Prefect's pages"),
    (flow_files_without_their_flow, "flows/x.py", "from prefect import flow\n\n@flow\ndef y(): ..."),
    (flow_files_without_their_flow, "flows/x.py", "def x(): ..."),
    (names_that_hide_others, "flows/json.py", ""),
    (names_that_hide_others, "flows/tasks/requests.py", ""),
    (long_modules, "blocks/x.py", "x = 1\n" * (MOST_LINES + 1)),
    (swallowed_errors, "flows/x.py", "try:\n    x()\nexcept:\n    raise"),
    (swallowed_errors, "tests/x.py", "try:\n    x()\nexcept (ValueError, Exception):\n    '''Never mind.'''"),
    (swallowed_errors, "flows/x.py", "with contextlib.suppress(Exception):\n    x()"),
    (silent_tests, "tests/x/test_x.py", "class TestX:\n    def test_y(self): ..."),
    (dead_links, "README.md", "See [the rest](docs/rest.md#start)."),
    (
        schedules_without_a_cap,
        "prefect.yaml",
        "deployments:\n- {name: x, parameters: {batch: {csv: a.csv, generator: anycap}}, schedules: [{interval: 60}]}",
    ),
    (machine_paths, "docs/x.md", "cd /" + "work/main"),
]
# What may look like a breach and is none.
GOOD = {
    "blocks/x.py": "from blocks.image import ImageRequest",
    "flows/batch/x.py": "import blocks.errors\nfrom blocks import image\nfrom flows.batch import jobs\nimport json",
    "flows/tasks/x.py": "from blocks import AnyCap\nfrom flows.batch.jobs import Job\nfrom prefect import task",
    "flows/make.py": "import prefect\n\n@prefect.flow(name='make')\ndef make(): ...\n\ndef other(): ...",
    "flows/__main__.py": "from flows.make import make\ntry:\n    make()\nexcept Exception as error:\n    print(error)",
    "tests/x/test_x.py": "def test_x():\n    'It holds.'",
    "prefect.yaml": "deployments:\n"
    "- {name: a, parameters: {batch: {csv: a.csv, generator: anycap}}, schedules: []}\n"
    "- {name: b, parameters: {batch: {csv: a.csv}}, schedules: [{cron: 0 3 * * *}]}\n"
    "- {name: c, parameters: {batch: {csv: a, generator: anycap, money: {max_cost_usd: '5'}}},\n"
    "   schedules: [{interval: 60}]}\n"
    "- {name: d, schedules: [{interval: 60}]}\n",
    "README.md": '[here](docs/x.md) [there](https://example.com/a) [below](#below) [top](docs/x.md#top "Top")',
    "docs/x.md": "/api/products/work and ~/work/x and example.com/root/x",
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house in good order."""
    for folder in ("blocks", "flows/batch", "flows/tasks", "tests", "benchmarks", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("blocks/image.py", "blocks/errors.py", "flows/batch/jobs.py", "flows/tasks/report.py"):
        (tmp_path / name).touch()
    (tmp_path / "flows" / "generate_images.py").write_text("@flow\ndef generate_images(): ...")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    for name, text in GOOD.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


RULES = sorted({rule for rule, _, _ in BREACHES}, key=lambda rule: rule.__name__)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_is_kept(rule: Rule) -> None:
    """This repository keeps the rule."""
    assert rule(REPO) == []


@pytest.mark.parametrize(
    ("rule", "name", "text"), BREACHES, ids=[f"{rule.__name__}-{name}" for rule, name, _ in BREACHES]
)
def test_a_breach_is_noticed(rule: Rule, name: str, text: str, house: Path) -> None:
    """A rule is silent on a house in good order, and names the one file that breaks it."""
    assert rule(house) == []
    (house / name).parent.mkdir(parents=True, exist_ok=True)
    (house / name).write_text(text)
    assert len(rule(house)) == 1


def test_the_batch_loads_no_prefect() -> None:
    """A fresh interpreter that imports all of flows.batch, and the types and errors of blocks, has no Prefect in it."""
    names = [module_name(REPO, path) for path in sources(REPO / "flows" / "batch")]
    names += ["blocks", "blocks.image", "blocks.errors"]
    loaded = [sys.executable, "-c", LOADS]
    done = subprocess.run([*loaded, *names], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"Prefect is loaded by {done.stderr}"
    done = subprocess.run([*loaded, "blocks.image_generator"], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "blocks.image_generator", "the check itself notices nothing"


def test_a_server_started_in_the_clone_gets_the_batched_recorder() -> None:
    """Prefect finds the settings in pyproject.toml that keep its recorder from dropping task runs."""
    script = (
        "from prefect.settings import get_current_settings; server = get_current_settings().server;"
        "services = server.services; recorder, persister = services.task_run_recorder, services.event_persister;"
        "print(server.analytics_enabled, recorder.batch_size, recorder.read_batch_size, recorder.flush_interval,"
        " persister.batch_size, persister.read_batch_size, services.triggers.read_batch_size)"
    )
    # Without the tests' own PREFECT_ variables, which would answer in the file's place.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-c", script]
    seen = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=True).stdout
    assert seen.split() == ["False", "100", "100", "1.0", "200", "200", "200"]
