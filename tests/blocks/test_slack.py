import logging
import traceback

import pytest
from slack_server import SECRET, SlackServer

from blocks.errors import DeliveryError, DeliveryRefused, DeliveryStopped, DeliveryUnavailable
from blocks.slack import check_webhook, post_message
from flows.batch.publishing import Patience

MESSAGE = {"text": "hello", "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "hello"}}]}


def test_a_message_arrives() -> None:
    """What is posted is what the webhook gets, Hangul and all."""
    message = {"text": "셔츠 1,000장", "blocks": []}
    with SlackServer() as slack:
        post_message(slack.webhook, message)
    assert slack.messages == [message]


@pytest.mark.parametrize(
    ("fault", "kind", "mend"),
    [
        ("action_prohibited", DeliveryStopped, "administrators"),
        ("no_service", DeliveryStopped, "new webhook"),
        ("channel_is_archived", DeliveryStopped, "archived"),
        ("not ok", DeliveryStopped, "new webhook"),
        ("rollup_error", DeliveryUnavailable, "later"),
        ("429", DeliveryUnavailable, "later"),
        ("hang up", DeliveryUnavailable, "network"),
    ],
)
def test_each_refusal_is_noticed(fault: str, kind: type[DeliveryError], mend: str) -> None:
    """Every answer that is not `ok` with 200 is an error that says what to do, and none tells the address."""
    with SlackServer(fault) as slack, pytest.raises(kind, match=mend) as told:
        post_message(slack.webhook, MESSAGE)
    assert SECRET not in "".join(traceback.format_exception(told.value))
    assert slack.messages == []


def test_a_message_that_slack_does_not_take() -> None:
    """One block too many is refused, and it is this message's failure."""
    with SlackServer() as slack, pytest.raises(DeliveryRefused, match="invalid_blocks"):
        post_message(slack.webhook, {"text": "x", "blocks": [{"type": "divider"}] * 51})


def test_a_slack_that_is_down_tells_no_address(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the error nor its causes nor any log hold the webhook's address, which is a secret."""
    with SlackServer() as slack:
        url = slack.webhook
    with caplog.at_level(logging.INFO), pytest.raises(DeliveryUnavailable, match="can't be reached") as told:
        post_message(url, MESSAGE)
    assert told.value.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(told.value)) + caplog.text


def test_patience_is_obeyed_within_its_bound() -> None:
    """Two answers of 429 with Retry-After are waited out; one that asks for an hour is not."""
    with SlackServer("429", "429") as slack:
        Patience(30).call(lambda: post_message(slack.webhook, MESSAGE))
        assert (slack.requests, len(slack.messages)) == (3, 1)
    with SlackServer("429", retry_after="3600") as slack, pytest.raises(DeliveryUnavailable) as told:
        Patience(30).call(lambda: post_message(slack.webhook, MESSAGE))
    assert (told.value.retry_after_s, slack.requests) == (3600, 1)


@pytest.mark.parametrize("url", ["", "hooks", "ftp://x/y", "https://hooks.slack.com/", "http://[x/services/T/B/x"])
def test_what_is_no_webhook_is_told(url: str) -> None:
    """An address that can't be one is found without a message."""
    with pytest.raises(DeliveryStopped, match="new webhook"):
        check_webhook(url)
