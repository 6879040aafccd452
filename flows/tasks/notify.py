"""The task that tells Slack of a run. Slack being down never fails a run; it is only said."""

from typing import Any

from prefect import get_run_logger, task
from prefect.blocks.notifications import SlackWebhook
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from blocks.errors import DeliveryError, DeliveryRefused, DeliveryStopped, DeliveryUnavailable
from blocks.slack import check_webhook, post_message
from flows.batch.problems import NotStarted, Problem
from flows.batch.publishing import Patience
from flows.batch.slack_message import Message, without_pictures
from flows.tasks.block_documents import load_block
from flows.tasks.run_state import UNREACHABLE

PATIENCE_S = 60.0  # for one message: nobody should wait longer for a run's end because of it
HURRIED_S = 2.0
TRIES = 3
MEND = "Name one as slack-webhook/NAME; `rowshot setup` makes one, or the Prefect server's page of blocks."


def load_webhook(name: str) -> SlackWebhook:
    """The Slack webhook of this name, `slack-webhook/NAME`. Raises: NotStarted where there is none that can be used."""
    webhook = load_block(name, SlackWebhook, "Slack webhook", MEND)
    try:
        check_webhook(webhook.url.get_secret_value())
    except DeliveryStopped as error:
        raise NotStarted([Problem(f"{name}: {error}", "")]) from error
    return webhook


async def is_worth_a_retry(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether Slack may take the message a little later; not before it has said that it will."""
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, DeliveryUnavailable) and not error.asked


@task(
    name="notify_slack",
    retries=TRIES - 1,
    retry_delay_seconds=[1, 4],
    retry_condition_fn=is_worth_a_retry,
    cache_policy=NO_CACHE,  # a message is news
    persist_result=False,
)
def notify_slack(webhook: SlackWebhook, message: Message, patience_s: float = PATIENCE_S) -> None:
    """Post one message, doing as Slack says where it asks for patience. Raises: a leaf of DeliveryError."""
    url = webhook.url.get_secret_value()
    patience = Patience(patience_s)
    try:
        patience.call(lambda: post_message(url, message))
    except DeliveryRefused:
        plain = without_pictures(message)
        if plain["blocks"] == message["blocks"]:
            raise
        patience.call(lambda: post_message(url, plain))


def tell_slack(webhook: SlackWebhook, message: Message, *, in_a_hurry: bool = False) -> str:
    """Have a message posted. Gives the sentence that says why it was not; empty if it was.

    `in_a_hurry`: it is tried once, as whoever ends the run will not wait.
    """
    notify = notify_slack.with_options(retries=0) if in_a_hurry else notify_slack
    patience_s = HURRIED_S if in_a_hurry else PATIENCE_S
    try:
        state: State[Any] = notify(webhook, message, patience_s, return_state=True)
    except UNREACHABLE as error:
        return f"Slack was not told: the Prefect server is gone ({type(error).__name__})."
    problem = state.result(raise_on_failure=False)
    if not state.is_failed() and not state.is_crashed():
        return ""
    told = str(problem) if isinstance(problem, DeliveryError) else f"It broke off ({type(problem).__name__})."
    told = f"Slack was not told: {told}"
    get_run_logger().warning(told)
    return told
