"""Posting to a Slack incoming webhook. Prefect's own Slack webhook block holds its address, which is a secret."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import requests

from blocks.errors import DeliveryError, DeliveryRefused, DeliveryStopped, DeliveryUnavailable
from blocks.http_answers import one_line, retry_after_s

TIMEOUT_S: Final = (5, 15)
_OWN_HOSTS: Final = frozenset({"hooks.slack.com", "hooks.slack-gov.com"})
_NEW_ONE: Final = "Make a new webhook at api.slack.com/apps and put its address into the block."
_MEANINGS: Final = {
    "no_service": f"Slack knows no such webhook, or it was turned off. {_NEW_ONE}",
    "no_active_hooks": f"The webhook was turned off. {_NEW_ONE}",
    "invalid_token": f"The webhook's address is wrong. {_NEW_ONE}",
    "channel_not_found": f"The webhook's channel is gone. {_NEW_ONE}",
    "channel_is_archived": f"The webhook's channel is archived. Bring it back, or: {_NEW_ONE}",
    "action_prohibited": "The workspace's administrators don't allow this. Ask them to allow the webhook.",
    "posting_to_general_channel_denied": "Only administrators may post there. Take a webhook of another channel.",
}


def check_webhook(url: str) -> None:
    """Raise DeliveryStopped where this can't be a webhook's address. Posts nothing, and so proves little."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        parts, usable = None, False
    if parts is None or not usable:
        raise DeliveryStopped(f"The webhook's address is no web address. {_NEW_ONE}")
    if parts.hostname in _OWN_HOSTS and not (parts.scheme == "https" and parts.path.startswith("/services/")):
        raise DeliveryStopped(f"The webhook's address is not like https://hooks.slack.com/services/... {_NEW_ONE}")


def post_message(url: str, message: Mapping[str, Any]) -> None:
    """Post one message, with one request. The address stands in no error.

    Raises: DeliveryUnavailable (down, or it asks for patience); DeliveryRefused (this message); DeliveryStopped.
    """
    problem = _post(url, message)
    if problem is not None:
        raise problem  # here, where no exception that names the address is its context


def _post(url: str, message: Mapping[str, Any]) -> DeliveryError | None:  # noqa: PLR0911 - one answer after the other
    try:
        check_webhook(url)
        answer = requests.post(url, json=message, timeout=TIMEOUT_S, allow_redirects=False)
    except DeliveryError as error:
        return error
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        return DeliveryUnavailable(f"Slack can't be reached ({type(error).__name__}). Check the network.")
    except (requests.RequestException, ValueError) as error:
        return DeliveryStopped(f"No request to the webhook can be made ({type(error).__name__}). {_NEW_ONE}")
    said = answer.text[:1000]
    if answer.status_code == requests.codes.ok and said.strip() == "ok":
        return None
    path = urlsplit(url).path
    secrets = (url, path, *(part for part in path.split("/") if part != "services"))
    told = f"{answer.status_code}: {one_line(said, secrets) or 'no text'}"
    for code, meaning in _MEANINGS.items():
        if code in said:
            return DeliveryStopped(f"{meaning} (Slack said {told}.)")
    if answer.status_code in {requests.codes.bad_request, requests.codes.request_entity_too_large}:
        return DeliveryRefused(f"Slack doesn't take the message ({told}). Please report it as a bug.")
    if answer.status_code in {408, 429} or answer.status_code >= requests.codes.internal_server_error:
        return DeliveryUnavailable(
            f"Slack takes no message for now ({told}). Run again later to be told.",
            retry_after_s=retry_after_s(answer.headers.get("Retry-After", "")),
            asked=answer.status_code in {429, 503},
        )
    return DeliveryStopped(f"The webhook doesn't answer as Slack does ({told}). {_NEW_ONE}")
