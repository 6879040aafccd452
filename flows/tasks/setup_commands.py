"""What `rowshot setup`, `rowshot check` and `rowshot unpublish` do; each gives the exit code and tells by `say`."""

import argparse
from collections.abc import Callable

from prefect.client.orchestration import get_client

from flows.batch.env_file import read_doors
from flows.batch.ledger import Ledger
from flows.batch.problems import NotStarted, Problem
from flows.batch.withdrawal import find_run, withdraw
from flows.tasks.automations import SILENCE_S, set_up_crash_automation
from flows.tasks.block_setup import set_up
from flows.tasks.checking import Trial, needs_server, try_cms, try_generator, try_notify, try_store
from flows.tasks.limit_setup import set_up_limits
from flows.tasks.publish import load_site
from flows.tasks.server import check_server

Say = Callable[[str], None]
KINDS = {"anycap": "generator", "s3-bucket": "store", "cms-site": "cms", "slack-webhook": "notify"}


def setup(options: argparse.Namespace, say: Say) -> int:
    """Make blocks and limits of a `.env`, and what notices a dead run. Raises: NotStarted."""
    doors = read_doors(options.env)
    check_server()
    made = []
    for document, done in set_up(doors, options.name):
        say(f"{document:<28} {done}")
        made.append(document)
    if doors.anycap or doors.limits:
        for limit, done in set_up_limits("anycap", doors.limits):
            say(f"{limit:<28} {done}")
    say(f"{'automation/crashed-runs':<28} {set_up_crash_automation()} (after {SILENCE_S} s of silence)")
    tried = " ".join(f"--{KINDS[slug]} {slug}/{options.name}" for slug in KINDS if f"{slug}/{options.name}" in made)
    say(f"Try them: rowshot check {tried}")
    return 0


def check(options: argparse.Namespace, say: Say) -> int:
    """Try each door that is named, or all that the server has; 2 if a run would fail at one. Raises: NotStarted."""
    named = {kind: getattr(options, kind) for kind in KINDS.values() if getattr(options, kind)}
    if not named or needs_server(*named.values()):
        check_server()
    doors = list(named.items()) or _all_doors()
    if not doors:
        raise NotStarted([Problem("The Prefect server has no block to try.", "Make some: rowshot setup --env .env")])
    failed = 0
    for kind, name in doors:
        trial = _try(kind, name, options)
        for line in trial.lines():
            say(line)
        failed += trial.failed
    say(f"{failed} of {len(doors)} failed." if failed else "Nothing was bought.")
    return 2 if failed else 0


def unpublish(options: argparse.Namespace, say: Say) -> int:
    """Put back what a CMS had before a run. Raises: NotStarted, LedgerUnavailable."""
    ledger = Ledger.open(options.ledger or "")
    run = find_run(ledger, options.run)
    check_server()
    ended = withdraw(ledger, run, load_site)
    for line in ended.lines():
        say(line)
    return ended.exit_code


def _try(kind: str, name: str, options: argparse.Namespace) -> Trial:
    match kind:
        case "generator":
            return try_generator(name)
        case "store":
            return try_store(name)
        case "cms":
            return try_cms(name, options.sku or "")
        case _:
            return try_notify(name, send=options.send_test)


def _all_doors() -> list[tuple[str, str]]:
    with get_client(sync_client=True) as client:
        return [
            (kind, f"{slug}/{document.name}")
            for slug, kind in KINDS.items()
            for document in client.read_block_documents_by_type(slug, include_secrets=False)
            if document.name
        ]
