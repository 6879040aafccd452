"""The rowshot command: parse, call the flow, print."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from flows.batch.problems import NotStarted

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.batch.plan import Plan
    from flows.batch.run import BatchRun
    from flows.batch.settings import BatchSettings, RedoSettings

Settings = TypeVar("Settings", "BatchSettings", "RedoSettings")

EPILOG = """\
exit codes: 0 every row has its image; 1 some rows failed, the rest are delivered; 2 nothing was started;
            3 the run ended early, and the same command goes on from there
"""
MOST_PROBLEMS = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    options = parser().parse_args(arguments)
    try:
        return int(options.call(options))
    except NotStarted as error:
        _print_problems(error)
        return 2
    except KeyboardInterrupt:
        _say("Stopped. The same command goes on from here.")
        return 3
    except BrokenPipeError:  # such as `rowshot plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run(options: argparse.Namespace) -> int:
    """Buy what a CSV asks for and isn't bought yet."""
    if options.dry_run:
        return plan(options)
    settings = _settings(options)
    from flows.tasks.server import prefect_server  # noqa: PLC0415 - each command loads what it needs

    with prefect_server() as ready, ExitStack() as early:
        if "/" in settings.generator:  # a block, which the server has
            early.enter_context(ready())
        from flows.batch.plan import MANY_CHANGED, check_changed  # noqa: PLC0415 - loaded while the server starts
        from flows.tasks.generators import check_generator, load_generator  # noqa: PLC0415 - as above

        planned, batch_run = _planned(settings)
        _print_plan(planned)
        if planned.changed > MANY_CHANGED and not settings.confirm_changed and sys.stdin.isatty():
            settings = settings.model_copy(update={"confirm_changed": _confirmed(planned.changed)})
        check_changed(settings, planned)
        if planned.to_buy:
            check_generator(load_generator(settings.generator))
        from flows.batch.progress import shown  # noqa: PLC0415 - as above
        from flows.generate_images import generate_images  # noqa: PLC0415 - as above

        with ready(), shown(batch_run.ledger, batch_run.output.name):
            return _ended(generate_images(settings, return_state=True))


def plan(options: argparse.Namespace) -> int:
    """Tell what a run would buy; starts no server."""
    settings = _settings(options)
    if "/" in settings.generator:  # a block, which the server has
        from flows.tasks.server import check_server  # noqa: PLC0415 - each command loads what it needs

        check_server()
    planned, _ = _planned(settings)
    _print_plan(planned)
    return 0


def redo(options: argparse.Namespace) -> int:
    """Make images again on purpose."""
    from flows.batch.settings import RedoSettings  # noqa: PLC0415 - each command loads what it needs

    given = {
        name: value for name, value in vars(options).items() if name in RedoSettings.model_fields and value is not None
    }
    settings = _checked(RedoSettings, given | {"skus": [sku for sku in options.sku.split(",") if sku]})
    from flows.tasks.server import prefect_server  # noqa: PLC0415 - as above

    with prefect_server() as ready:
        from flows.batch.progress import shown  # noqa: PLC0415 - loaded while the server starts
        from flows.batch.redo import find_redo  # noqa: PLC0415 - as above
        from flows.batch.run import BatchRun, Request  # noqa: PLC0415 - as above
        from flows.redo_images import redo_images  # noqa: PLC0415 - as above

        batch_run = BatchRun.open(Request("redo", settings.output, settings.ledger, settings.concurrency))
        find_redo(settings, batch_run.ledger, batch_run.output.root)
        with ready(), shown(batch_run.ledger, batch_run.output.name):
            return _ended(redo_images(settings, return_state=True))


def status(options: argparse.Namespace) -> int:
    """Tell how an output stands."""
    from flows.batch.ledger import Ledger  # noqa: PLC0415 - each command loads what it needs
    from flows.batch.progress import status_lines  # noqa: PLC0415 - as above
    from flows.batch.stores import OutputFolder  # noqa: PLC0415 - as above

    for line in status_lines(Ledger.open(options.ledger or ""), OutputFolder.of(options.output or "output").name):
        print(line)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's options; scripts hold on to them."""
    top = argparse.ArgumentParser(
        prog="rowshot",
        description="A CSV goes in, one generated image a row comes out, and each image is paid for once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"rowshot {version('rowshot')}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, call, told in (
        ("run", run, "buy what the CSV asks for and isn't bought yet"),
        ("plan", plan, "tell what would be bought and for how much; buys nothing and starts no server"),
    ):
        command = commands.add_parser(
            name, help=told, description=told, epilog=EPILOG, formatter_class=top.formatter_class
        )
        command.set_defaults(call=call)
        _add_batch_options(command)
    again = commands.add_parser("redo", help="make images again on purpose; the old ones stay")
    again.set_defaults(call=redo)
    again.add_argument("--sku", required=True, metavar="A,B", help="the rows to make again, by their sku")
    again.add_argument("--template", metavar="NAME", help="only the images of this template")
    again.add_argument("--add", metavar="WORDS", help="words to put at the end of the prompt")
    again.add_argument("--generator", metavar="NAME", help="default: the one that made the image")
    again.add_argument("--templates", metavar="DIR", help="a folder of your own templates")
    again.add_argument("--concurrency", type=int, metavar="K", help="images in the making at one time (default 4)")
    state = commands.add_parser("status", help="rows by state, spent, rate; while a run goes on, too")
    state.set_defaults(call=status)
    _add_places(again)
    _add_places(state)
    return top


def _add_batch_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("csv", metavar="CSV", help="a row an image, with a column sku; .csv, .tsv or .csv.gz")
    add("--template", metavar="NAME", help="prompt template of rows that name none (default product)")
    add("--templates", metavar="DIR", help="a folder of your own templates, searched before the built-in ones")
    add(
        "--map",
        metavar="VAR=COLUMN",
        action="append",
        dest="columns",
        help="take a template's variable from another column",
    )
    add("--generator", metavar="NAME", help="proof (default: drawn here, free), anycap, or a block as type-slug/name")
    add("--model", metavar="M", help="model of rows that name none (default: the template's)")
    _add_places(command)
    add("--limit", type=int, metavar="N", help="buy only the first N rows that have no image yet")
    add("--concurrency", type=int, metavar="K", help="images in the making at one time (default 4)")
    for flag, told in (
        ("--skip-invalid", "go on without invalid rows, and report them"),
        ("--retry-rejected", "ask again for rows that the provider refused"),
        ("--retry-unknown", "buy rows of unknown outcome again; they may have been paid for"),
        ("--rebuy-lost", "buy images again whose files are gone"),
        ("--allow-unknown-model", "take a model that nobody knows"),
        ("--dry-run", "only plan"),
    ):
        add(flag, action="store_true", default=None, help=told)
    add(
        "--yes",
        action="store_true",
        default=None,
        dest="confirm_changed",
        help="buy even if over 100 rows have changed",
    )


def _add_places(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output", metavar="DIR", help="where images and reports go (default output)")
    command.add_argument(
        "--ledger", metavar="URL", help="the ledger of what was bought (default: $ROWSHOT_LEDGER, else your own)"
    )


def _settings(options: argparse.Namespace) -> "BatchSettings":
    from flows.batch.problems import Problem  # noqa: PLC0415 - each command loads what it needs
    from flows.batch.settings import BatchSettings  # noqa: PLC0415 - as above

    given = {
        name: value for name, value in vars(options).items() if name in BatchSettings.model_fields and value is not None
    }
    pairs = [pair.partition("=") for pair in given.pop("columns", [])]
    wrong = [variable for variable, equals, column in pairs if not (variable and equals and column)]
    if wrong:
        raise NotStarted([Problem(f"--map {text} says no column.", "Write --map VARIABLE=COLUMN.") for text in wrong])
    return _checked(BatchSettings, given | {"columns": {variable: column for variable, _, column in pairs}})


def _checked(kind: "type[Settings]", given: dict[str, Any]) -> "Settings":
    from pydantic import ValidationError  # noqa: PLC0415 - each command loads what it needs

    from flows.batch.problems import Problem  # noqa: PLC0415 - as above

    try:
        return kind(**given)
    except ValidationError as error:
        options = {"csv": "CSV", "skus": "--sku"}
        wrong = [(str(found["loc"][0]), found["msg"]) for found in error.errors()]
        raise NotStarted(
            [
                Problem(f"{options.get(name, '--' + name.replace('_', '-'))}: {told}.", "See rowshot --help.")
                for name, told in wrong
            ]
        ) from error


def _planned(settings: "BatchSettings") -> "tuple[Plan, BatchRun]":
    from flows.batch.plan import plan_batch  # noqa: PLC0415 - loaded while the server starts
    from flows.batch.run import BatchRun, Request  # noqa: PLC0415 - as above
    from flows.tasks.generators import load_generator, source_of  # noqa: PLC0415 - as above

    batch_run = BatchRun.open(Request.of(settings))
    return plan_batch(settings, source_of(load_generator(settings.generator)), batch_run), batch_run


def _print_plan(planned: "Plan") -> None:
    from flows.batch.plan_text import plan_lines  # noqa: PLC0415 - as above

    for line in plan_lines(planned):
        print(line, flush=True)


def _confirmed(changed: int) -> bool:
    return input(f"{changed} rows that had an image have changed. Buy them anew? [y/N] ").strip().lower() in {
        "y",
        "yes",
    }


def _print_problems(error: NotStarted) -> None:
    for problem in error.problems[:MOST_PROBLEMS]:
        _say(str(problem))
    if len(error.problems) > MOST_PROBLEMS:
        _say(f"... and {len(error.problems) - MOST_PROBLEMS:,} more.")
    _say("Nothing was started and nothing was bought.")


def _say(text: str) -> None:
    print(f"rowshot: {text}", file=sys.stderr)


def _ended(state: "State[Any]") -> int:
    """Print how the run ended; gives the exit code."""
    from flows.batch.run import Summary  # noqa: PLC0415 - as above

    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, NotStarted):
        raise outcome
    if not isinstance(outcome, Summary):
        _say(
            f"The run broke off: {state.message or outcome!r}. What was bought is kept; "
            "the same command goes on from here."
        )
        return 3
    for line in outcome.lines():
        print(line)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
