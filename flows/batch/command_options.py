"""The options of the rowshot command."""

import argparse
from collections.abc import Callable, Mapping
from importlib.metadata import version

from flows.batch.delivery_options import add_delivery_commands

EPILOG = """\
exit codes: 0 every row asked for has its image; 1 some rows failed, the rest are delivered; 2 nothing was started;
            3 the run ended early, and the same command goes on from there
"""
RETRY_UNKNOWN = "buy rows of unknown outcome again; they may have been paid for"

Call = Callable[[argparse.Namespace], int]


def parser(calls: Mapping[str, Call]) -> argparse.ArgumentParser:
    """The command's options; scripts hold on to them. `calls` is what each command does, by its name."""
    top = argparse.ArgumentParser(
        prog="rowshot",
        description="A CSV goes in, one generated image a row comes out, and each image is paid for once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"rowshot {version('rowshot')}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, told in (
        ("run", "buy what the CSV asks for and isn't bought yet"),
        ("plan", "tell what would be bought and for how much; buys nothing and starts no server"),
    ):
        command = commands.add_parser(
            name, help=told, description=told, epilog=EPILOG, formatter_class=top.formatter_class
        )
        command.set_defaults(call=calls[name])
        _add_batch_options(command)
        if name == "plan":
            command.add_argument("--json", action="store_true", help="print the plan as JSON")
    again = commands.add_parser("redo", help="make images again on purpose; the old ones stay")
    again.set_defaults(call=calls["redo"])
    again.add_argument("--sku", required=True, metavar="A,B", help='by their sku; one with a comma in "quotes"')
    again.add_argument("--template", metavar="NAME", help="only the images of this template")
    again.add_argument("--add", metavar="WORDS", help="words to put at the end of the prompt")
    again.add_argument("--generator", metavar="NAME", help="default: the one that made the image")
    again.add_argument("--templates", metavar="DIR", help="a folder of your own templates")
    again.add_argument("--concurrency", type=int, metavar="K", help="images in the making at one time (default 4)")
    again.add_argument("--retry-unknown", action="store_true", default=None, help=RETRY_UNKNOWN)
    state = commands.add_parser("status", help="rows by state, spent, rate; while a run goes on, too")
    state.set_defaults(call=calls["status"])
    spent = commands.add_parser("spend", help="what was bought and what it cost, from the ledger")
    spent.set_defaults(call=calls["spend"])
    spent.add_argument("--by", choices=("day", "model", "template", "run"), default="day", help="default day (UTC)")
    spent.add_argument("--json", action="store_true", help="print it as JSON")
    add_delivery_commands(commands, calls)
    _add_money(again)
    _add_output(again)
    _add_output(state)
    for command in (again, state, spent):
        _add_ledger(command)
    return top


def _add_batch_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("csv", metavar="CSV", help="a row an image, with a column sku; a path, s3://BUCKET/KEY or https://...")
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
    _add_output(command)
    _add_ledger(command)
    add("--store", metavar="BLOCK", help="an S3 bucket that images go to as well, as s3-bucket/NAME")
    add(
        "--public-url", metavar="TEMPLATE", help="how an image's address is made, such as https://cdn.example.com/{key}"
    )
    add("--cms", metavar="BLOCK", help="publish each image's address there, as cms-site/NAME")
    add("--notify", metavar="BLOCK", help="tell when the run starts and ends, as slack-webhook/NAME")
    add("--approve", choices=("no", "before-buying", "before-publishing"), help="ask before that is done (default no)")
    add("--limit", type=int, metavar="N", help="buy only the first N rows that have no image yet")
    _add_limits(command)
    _add_money(command)
    add("--canary", type=int, metavar="N", help="buy N rows first, of all kinds, and go on only if they fared well")
    add("--canary-failures", type=float, metavar="SHARE", help="share of the canary's rows that may fail (default 0.2)")
    for flag, told in (
        ("--skip-invalid", "go on without invalid rows, and report them"),
        ("--retry-rejected", "ask again for rows that the provider refused"),
        ("--retry-unknown", RETRY_UNKNOWN),
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
        help="answer yes to every question: over 100 rows that have changed, and --approve",
    )


def _add_limits(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--concurrency", type=int, metavar="K", help="images in the making at one time (default 4)")
    add(
        "--global-limit",
        metavar="NAME",
        help="limit on the server that runs share (default rowshot-PROVIDER, if there)",
    )
    add("--tag-limit", metavar="TAG", help="tag each row's task run, for a limit by tag; slow, see the docs on limits")
    add("--shard-rows", type=int, metavar="N", help="cut a larger file into shards of N rows (default 1000; 0: never)")
    add("--shards-on", metavar="DEPLOYMENT", dest="shard_deployment", help="run each shard as a flow run of it")
    add("--shards-at-once", type=int, metavar="K", help="shards under way at one time, if on a deployment (default 4)")


def _add_money(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--prices", metavar="FILE", help="a price book of your own (default: $ROWSHOT_PRICES, else the built-in one)")
    add("--max-cost", metavar="USD", dest="max_cost_usd", help="cap of this run; at it the run stops and keeps all")
    add(
        "--max-cost-per-day",
        metavar="USD",
        dest="max_cost_per_day_usd",
        help="cap of one day (UTC), over all runs of the ledger",
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output", metavar="DIR", help="where images and reports go (default output)")


def _add_ledger(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--ledger", metavar="URL", help="the ledger of what was bought (default: $ROWSHOT_LEDGER, else your own)"
    )
