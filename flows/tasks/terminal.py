"""The approvals of a command: questions on its own terminal."""

import sys
from collections.abc import Callable

from flows.batch.approval import Reviewed, mark_of_purchase, price_told, skus_in
from flows.batch.plan import Plan
from flows.batch.prices import PriceBook
from flows.batch.problems import NotStarted, Problem
from flows.batch.publishing import PublishRow
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.batch.settings_groups import Approve
from flows.batch.words import counted
from flows.tasks.approval import Terminal, terminal

_OTHERWISE = "Give --yes to go on without being asked, leave out --approve, or start a deployment from the UI."


def ask_to_buy(batch: BatchSettings, plan: Plan, *, said_yes: bool) -> BatchSettings:
    """The settings with which the run goes on. `said_yes`: `--yes` was given, and stands for every answer.

    Raises: NotStarted where somebody said no, or there is no terminal to ask on.
    """
    if batch.approve is Approve.NO:
        return batch
    if not said_yes and not sys.stdin.isatty():
        raise NotStarted([Problem("A person is to approve this run, and there is no terminal to ask on.", _OTHERWISE)])
    if said_yes:
        return batch.model_copy(update={"approve": Approve.NO})
    if batch.approve is Approve.BEFORE_PUBLISHING or not plan.to_buy:
        return batch
    if not _is_yes(f"Buy {counted(len(plan.to_buy), 'image')} {price_told(plan)}?"):
        raise NotStarted([Problem("It was not approved.", "")])
    return batch


def run_approved(
    batch: BatchSettings, plan: Plan, run: Callable[[], int], plan_again: Callable[[], tuple[Plan, BatchRun]]
) -> int:
    """Do a run: of no other plan than the approved one, where one had to be. Gives its exit code.

    `run` does what the plan says and gives its exit code; `plan_again` plans the same once more.
    """
    if batch.approve is Approve.BEFORE_PUBLISHING:
        return _run_and_publish(run, plan_again)
    if batch.approve is Approve.NO:
        return run()
    before = terminal.set(Terminal(to_buy=mark_of_purchase(plan, PriceBook.open(batch.money.prices))))
    try:
        return run()
    finally:
        terminal.reset(before)


def _run_and_publish(run: Callable[[], int], plan_again: Callable[[], tuple[Plan, BatchRun]]) -> int:
    """Do a run; where a person is to look before anything is published, ask when its images are there, and publish.

    `run` does what the plan says and gives its exit code; `plan_again` plans the same once more. Gives the exit code.
    """
    before = terminal.set(Terminal())
    try:
        code = run()
        approved: set[PublishRow] = set()
        while code <= 1:
            plan, batch_run = plan_again()
            if not set(plan.to_publish) - approved:  # what is left of them the CMS has refused
                break
            print(f"\n{len(plan.to_publish):,} images wait to be published. Look at {batch_run.output.root}/index.html")  # noqa: T201 - a question
            said = _ask_about(plan)
            if said is None:
                print("They were not published; the same command asks again.")  # noqa: T201 - as above
                break
            terminal.set(Terminal(said))
            try:
                code = run()
                approved = set(said.to_publish(plan.to_publish))
            except NotStarted as slip:
                print(slip)  # noqa: T201 - a slip of the pen: asked again
            terminal.set(Terminal())
    finally:
        terminal.reset(before)
    return code


def ask_about_changed(plan: Plan) -> bool:
    """Whether rows that had an image may be bought anew, of which there are many."""
    return _is_yes(f"{plan.changed} rows that had an image have changed. Buy them anew?")


def _ask_about(plan: Plan) -> Reviewed | None:
    left_out = skus_in(_input("SKUs to leave out, separated by commas (Enter: none): "))
    again = skus_in(_input("SKUs to make again (Enter: none): "))
    add = _input("Words to add to their prompts: ").strip() if again else ""
    said = Reviewed(left_out, again, add)
    makes = f", and make {len(again):,} again" if again else ""
    return said if _is_yes(f"Publish {len(said.to_publish(plan.to_publish)):,} images{makes}?") else None


def _is_yes(question: str) -> bool:
    return _input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}


def _input(question: str) -> str:
    try:
        return input(question)
    except EOFError:  # Ctrl-D, or the terminal is gone
        return ""
