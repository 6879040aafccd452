"""A shop of the test's own: a bucket on a real S3, a CMS that keeps an item a sku, and a webhook that hears of runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import unquote

from cms_server import CmsServer, as_json
from documents import s3_bucket
from http_double import Answer
from prefect.blocks.notifications import SlackWebhook
from pydantic import SecretStr
from seaweed import Seaweed
from slack_server import SlackServer

from blocks import CmsSite

PUBLIC = "https://cdn.example.com/{key}"
_numbers = count(1)


@dataclass
class Items:
    """The CMS's items, any sku's but those that it `lacks`: `values` by sku."""

    values: dict[str, Any] = field(default_factory=dict)
    lacks: set[str] = field(default_factory=set)

    def __call__(self, method: str, path: str, body: Any) -> Answer:
        """Answer one request."""
        sku = unquote(path.partition("?")[0].rpartition("/")[2])
        if sku in self.lacks:
            return as_json({}, 404)
        if method != "GET":
            self.values[sku] = body["image_url"]
        return as_json({"data": [] if sku == "products" else {"image_url": self.values.get(sku)}})


@dataclass
class Catalog:
    """Where a run hands its images on to. `delivery` are the settings that name it; `items` what the CMS shows; `lacks`
    the skus that it has no item for.
    """

    delivery: dict[str, str]
    items: dict[str, Any]
    lacks: set[str]
    slack: SlackServer

    @property
    def heard(self) -> list[str]:
        """What the webhook was told, each message's headline."""
        return [message["blocks"][0]["text"]["text"] for message in self.slack.messages]


@contextmanager
def catalog(s3: Seaweed) -> Iterator[Catalog]:
    """An empty shop, and its block documents on the Prefect server that is in use."""
    name = f"a-catalog-{next(_numbers)}"
    items = Items()
    with CmsServer(items) as cms, SlackServer() as slack:
        CmsSite(base_url=cms.url, token=SecretStr("made-up")).save(name, overwrite=True)
        SlackWebhook(url=SecretStr(slack.webhook)).save(name, overwrite=True)
        store = s3_bucket(s3, s3.bucket(name), name)
        delivery = {"store": store, "public_url": PUBLIC, "cms": f"cms-site/{name}", "notify": f"slack-webhook/{name}"}
        yield Catalog(delivery, items.values, items.lacks, slack)
