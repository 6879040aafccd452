"""The commands that README.md and docs/ tell people to type, read out of the pages themselves."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[2]
PROGRAMS = frozenset(
    {"rowshot", "prefect", "make", "npm", "export", "cp", "docker", "pip", "python", "sqlite3", "from", "AnyCap"}
    | {"git", "curl", "cd", "kubectl", "bash", "sudo", "apt-get", "psql", "sed"}
)
LANGUAGES = frozenset({"", "sh", "bash", "console", "shell"})


@dataclass(frozen=True)
class Command:
    """A line of a page, with its continuation lines, without its comment and the `.venv/bin/` before it."""

    page: str
    text: str


def commands() -> list[Command]:
    """Every command of every page, in their order; a line that two pages have is there twice."""
    pages = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
    return [Command(page.relative_to(REPO).as_posix(), line) for page in pages for line in _typed(page)]


def documented(start: str) -> str:
    """The one command that begins so."""
    (found,) = {command.text for command in commands() if command.text.startswith(start)}
    return found


def fenced(page: str, language: str) -> list[str]:
    """The fenced blocks of a language on a page."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", (REPO / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def _typed(page: Path) -> Iterator[str]:
    language = None
    for line in re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8")).splitlines():
        if fence := re.match(r"```(\w*)", line):
            language = fence[1] if language is None else None
            continue
        indented = language is None and re.match(r"    \S", line)
        if not indented and (language is None or language not in LANGUAGES):
            continue
        text = re.sub(r"\s{2,}#\s.*$", "", line.strip()).removeprefix(".venv/bin/")
        text = re.sub(r" {2,}", " ", text)
        if re.split(r"[ (]", text)[0] in PROGRAMS:
            yield text
