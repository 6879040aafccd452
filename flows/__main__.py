"""The rowshot command: parse, call the flow, print."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from flows.batch.command_options import parser
from flows.batch.problems import LedgerUnavailable, NotStarted

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.batch.plan import Plan
    from flows.batch.run import BatchRun
    from flows.batch.settings import BatchSettings


MOST_PROBLEMS = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    code = _run(arguments)
    server = sys.modules.get("flows.tasks.server")
    if arguments is None and server is not None and server.unheard():  # at exit, Prefect would try for many minutes
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    calls = {call.__name__: call for call in (run, plan, redo, status, spend, setup, check, unpublish)}
    options = parser(calls).parse_args(arguments)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the same as Ctrl-C
    try:
        return int(options.call(options))
    except NotStarted as error:
        for line in error.lines(MOST_PROBLEMS):
            _say(line)
        return 2
    except LedgerUnavailable as error:
        _say(f"{error} Nothing was started.")
        return 2
    except KeyboardInterrupt:
        _say("Stopped. The same command goes on from here.")
        return 3
    except BrokenPipeError:  # such as `rowshot plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0 if options.call in {plan, status, spend, check} else 3
    finally:
        signal.signal(signal.SIGTERM, before)


def run(options: argparse.Namespace) -> int:
    """Buy what a CSV asks for and isn't bought yet."""
    if options.dry_run:
        return plan(options)
    from flows.batch.command_settings import batch_settings  # noqa: PLC0415 - each command loads what it needs

    settings = batch_settings(options)
    from flows.tasks.server import prefect_server  # noqa: PLC0415 - as above

    with prefect_server() as ready, ExitStack() as early:
        if _names_blocks(settings):
            early.enter_context(ready())
        from flows.batch.cap_check import check_caps  # noqa: PLC0415 - loaded while the server starts
        from flows.batch.plan import MANY_CHANGED, check_changed  # noqa: PLC0415 - as above
        from flows.tasks.generators import check_generator, load_generator  # noqa: PLC0415 - as above
        from flows.tasks.terminal import ask_about_changed, ask_to_buy, run_approved  # noqa: PLC0415 - as above

        planned, batch_run = _planned(settings)
        _print_plan(planned)
        check_caps(planned.to_buy, batch_run)
        if planned.changed > MANY_CHANGED and not settings.rows.confirm_changed and sys.stdin.isatty():
            settings = settings.model_copy(
                update={"rows": settings.rows.model_copy(update={"confirm_changed": ask_about_changed(planned)})}
            )
        check_changed(settings, planned)
        if planned.to_buy:
            check_generator(load_generator(settings.generator))
        from flows.batch.progress import shown  # noqa: PLC0415 - as above
        from flows.generate_images import generate_images  # noqa: PLC0415 - as above
        from flows.tasks.sources import carrying_csv  # noqa: PLC0415 - as above

        settings = ask_to_buy(settings, planned, said_yes=bool(options.confirm_changed))

        def once() -> int:
            with shown(batch_run.ledger, batch_run.output.name):
                return _ended(lambda: generate_images(settings, return_state=True))

        with ready(), carrying_csv(batch_run):
            return run_approved(settings, planned, once, lambda: _planned(settings))


def plan(options: argparse.Namespace) -> int:
    """Tell what a run would buy; starts no server."""
    from flows.batch.command_settings import batch_settings  # noqa: PLC0415 - each command loads what it needs

    settings = batch_settings(options)
    if _names_blocks(settings):
        from flows.tasks.server import check_server  # noqa: PLC0415 - each command loads what it needs

        check_server()
    from flows.batch.cap_check import check_caps  # noqa: PLC0415 - each command loads what it needs

    planned, batch_run = _planned(settings)
    if getattr(options, "json", False):
        from flows.batch.plan_json import plan_json  # noqa: PLC0415 - as above

        _print_json(plan_json(planned, batch_run))
    else:
        _print_plan(planned)
    check_caps(planned.to_buy, batch_run)
    return 0


def redo(options: argparse.Namespace) -> int:
    """Make images again on purpose."""
    from flows.batch.command_settings import redo_settings  # noqa: PLC0415 - each command loads what it needs

    settings = redo_settings(options)
    from flows.tasks.server import prefect_server  # noqa: PLC0415 - as above

    with prefect_server() as ready:
        from flows.batch.progress import shown  # noqa: PLC0415 - loaded while the server starts
        from flows.batch.redo import find_redo  # noqa: PLC0415 - as above
        from flows.batch.request import Request  # noqa: PLC0415 - as above
        from flows.batch.run import BatchRun  # noqa: PLC0415 - as above
        from flows.redo_images import redo_images  # noqa: PLC0415 - as above

        batch_run = BatchRun.open(Request.of_redo(settings))
        find_redo(settings, batch_run.ledger, batch_run.output.root)
        with ready(), shown(batch_run.ledger, batch_run.output.name):
            return _ended(lambda: redo_images(settings, return_state=True))


def status(options: argparse.Namespace) -> int:
    """Tell how an output stands."""
    from flows.batch.ledger import Ledger  # noqa: PLC0415 - each command loads what it needs
    from flows.batch.progress import status_lines  # noqa: PLC0415 - as above
    from flows.batch.stores import OutputFolder  # noqa: PLC0415 - as above

    for line in status_lines(Ledger.open(options.ledger or ""), OutputFolder.of(options.output or "output").name):
        print(line)
    return 0


def spend(options: argparse.Namespace) -> int:
    """Tell what was bought and what it cost."""
    from flows.batch.ledger import Ledger  # noqa: PLC0415 - each command loads what it needs
    from flows.batch.spend import By, read_spending, spending_json, spending_lines  # noqa: PLC0415 - as above

    by = By(options.by)
    lines = read_spending(Ledger.open(options.ledger or ""), by)
    if options.json:
        _print_json(spending_json(lines, by))
        return 0
    for line in spending_lines(lines, by):
        print(line)
    return 0


def setup(options: argparse.Namespace) -> int:
    """Make the blocks that a .env describes."""
    from flows.tasks import setup_commands  # noqa: PLC0415 - each command loads what it needs

    return setup_commands.setup(options, print)


def check(options: argparse.Namespace) -> int:
    """Try each door to the outside for real."""
    from flows.tasks import setup_commands  # noqa: PLC0415 - each command loads what it needs

    return setup_commands.check(options, print)


def unpublish(options: argparse.Namespace) -> int:
    """Put back what the CMS had before a run."""
    from flows.tasks import setup_commands  # noqa: PLC0415 - each command loads what it needs

    return setup_commands.unpublish(options, print)


def _planned(settings: "BatchSettings") -> "tuple[Plan, BatchRun]":
    from flows.batch.plan import plan_batch  # noqa: PLC0415 - loaded while the server starts
    from flows.batch.request import Request  # noqa: PLC0415 - as above
    from flows.batch.run import BatchRun  # noqa: PLC0415 - as above
    from flows.batch.sources import is_remote  # noqa: PLC0415 - as above
    from flows.tasks.generators import load_generator, source_of  # noqa: PLC0415 - as above

    batch_run = BatchRun.open(Request.of(settings))
    if settings.delivery.store or settings.delivery.cms or settings.delivery.public_url:
        from flows.tasks.destinations import open_doors  # noqa: PLC0415 - a run without them doesn't pay for it

        open_doors(settings, batch_run)
    if is_remote(settings.csv):
        from flows.tasks.sources import bring_csv  # noqa: PLC0415 - as above

        bring_csv(settings, batch_run)
    return plan_batch(settings, source_of(load_generator(settings.generator)), batch_run), batch_run


def _names_blocks(settings: "BatchSettings") -> bool:
    """Whether only the server knows what the settings name."""
    return "/" in settings.generator or bool(settings.delivery.store or settings.delivery.cms)


def _print_plan(planned: "Plan") -> None:
    from flows.batch.plan_text import plan_lines  # noqa: PLC0415 - as above

    for line in plan_lines(planned):
        print(line, flush=True)


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, ensure_ascii=False, indent=2))


def _say(text: str) -> None:
    print(f"rowshot: {text}", file=sys.stderr)


def _ended(flow: "Callable[[], State[Any]]") -> int:
    """Run a flow and print how it ended; gives the exit code."""
    from prefect.exceptions import Abort  # noqa: PLC0415 - each command loads what it needs

    from flows.batch.summary import Summary  # noqa: PLC0415 - as above
    from flows.tasks.final_states import summaries  # noqa: PLC0415 - as above
    from flows.tasks.run_state import UNREACHABLE  # noqa: PLC0415 - as above

    told: list[Summary] = []
    summaries.set(told)
    try:
        state = flow()
    except (*UNREACHABLE, Abort) as error:
        _say(f"The Prefect server was not told how the run ended ({type(error).__name__}). What was bought is kept.")
        if not told:
            _say("Once the server is there again, the same command goes on from here.")
            return 3
        outcome: Any = told[0]
    else:
        outcome = told[0] if told else state.result(raise_on_failure=False)
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
