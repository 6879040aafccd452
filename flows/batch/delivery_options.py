"""The options of the commands about delivery: setup, check and unpublish."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[argparse.Namespace], int]

SETUP = "make the blocks that a .env describes, on the server that is configured; safe to run again"
CHECK = "try each door to the outside for real; buys nothing"
UNPUBLISH = "put back what the CMS had before a run; what somebody has changed since is left alone"


def add_delivery_commands(commands: Any, calls: Mapping[str, Call]) -> None:
    """Add them to the command's own. `calls` is what each does, by its name."""
    made = {}
    for name, told in (("setup", SETUP), ("check", CHECK), ("unpublish", UNPUBLISH)):
        made[name] = commands.add_parser(name, help=told, description=told)
        made[name].set_defaults(call=calls[name])
    add = made["setup"].add_argument
    add("--env", metavar="FILE", default=".env", help="default .env; .env.example shows what it may hold")
    add("--name", metavar="NAME", default="rowshot", help="what the blocks are called (default rowshot)")
    add = made["check"].add_argument
    add("--generator", metavar="NAME", help="proof, anycap, or a block as type-slug/name")
    add("--store", metavar="BLOCK", help="put a probe object and delete it: s3-bucket/NAME")
    add("--cms", metavar="BLOCK", help="have the items listed: cms-site/NAME")
    add("--sku", metavar="SKU", help="read this item of the CMS instead")
    add("--notify", metavar="BLOCK", help="look at the webhook's address: slack-webhook/NAME")
    add("--send-test", action="store_true", help="send a message, too: nothing else can prove a webhook")
    add = made["unpublish"].add_argument
    add("run", metavar="RUN", help="the run's id, or how it begins; rowshot spend --by run lists them")
    add("--ledger", metavar="URL", help="the ledger of what was bought (default: $ROWSHOT_LEDGER, else your own)")
