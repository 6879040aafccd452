import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cms_server import CmsServer, as_json
from http_double import Answer
from pydantic import SecretStr, ValidationError

from blocks import CmsSite
from blocks.errors import (
    DeliveryError,
    DeliveryForbidden,
    DeliveryRefused,
    DeliveryStopped,
    DeliveryUnavailable,
    MissingSku,
    UnknownField,
    ValueNotTaken,
)

TOKEN = "cms-token-0123456789"
NEW = "https://cdn.example.com/new.png"
OLD = "https://cdn.example.com/old.png"


def site(server: CmsServer, **fields: Any) -> CmsSite:
    """The block of a server."""
    return CmsSite.model_validate({"base_url": server.url, "token": SecretStr(TOKEN), **fields})


class Items:
    """Items in a shape of one's own: `wrap` makes an answer of a value; `echoes`: whether a change tells it."""

    def __init__(self, wrap: Callable[[Any], Any], find: Callable[[Any], Any], *, echoes: bool = True) -> None:
        self.value: Any = OLD
        self.wrap, self.find, self.echoes = wrap, find, echoes

    def __call__(self, method: str, path: str, body: Any) -> Answer:
        """Answer one request."""
        if method != "GET":
            self.value = self.find(body)
            if not self.echoes:
                return Answer(status=204)
        return as_json(self.wrap(self.value))


def test_the_form_of_the_brief() -> None:
    """PATCH of /api/products/{sku} with image_url and a Bearer token; the sku is URL-quoted whole."""
    items = Items(lambda value: {"sku": "x", "image_url": value}, lambda body: body["image_url"])
    with CmsServer(items) as server:
        block = site(server, path="/api/products/{{ sku }}")
        assert block.read("셔츠 A/1?#").value == OLD
        block.publish("셔츠 A/1?#", NEW)
    method, path, body, headers = server.requests[-1]
    assert (method, path) == ("PATCH", "/api/products/%EC%85%94%EC%B8%A0%20A%2F1%3F%23")
    assert body == {"image_url": NEW}
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("fields", "wrap", "find"),
    [
        ({}, lambda v: {"data": {"image_url": v}}, lambda b: b["image_url"]),
        (
            {"body": '{"data": {"image_url": "{{ url }}"}}', "method": "PUT"},
            lambda v: {"data": {"id": 1, "attributes": {"image_url": v}}},
            lambda b: b["data"]["image_url"],
        ),
        (
            {"body": '{"images": [{"src": "{{ url }}", "alt": "{{ sku }} 사진"}]}', "field": "item.images.0.src"},
            lambda v: {"item": {"images": [{"src": v}]}},
            lambda b: b["images"][0]["src"],
        ),
    ],
    ids=["directus", "strapi", "nested"],
)
@pytest.mark.parametrize("echoes", [True, False])
def test_other_shapes(
    fields: dict[str, str], wrap: Callable[[Any], Any], find: Callable[[Any], Any], echoes: bool
) -> None:
    """The value is found in the shapes of others, by the echo or by a read where there is none; null is put back."""
    items = Items(wrap, find, echoes=echoes)
    with CmsServer(items) as server:
        block = site(server, **fields)
        block.publish("a", NEW)
        assert (items.value, block.read("a").value) == (NEW, NEW)
        block.publish("a", None)
        assert items.value is None
        assert [method for method, *_ in server.requests].count("GET") == (1 if echoes else 3)


def test_a_success_that_kept_another_value_is_none() -> None:
    """What the CMS has in the end counts, not its status."""
    stubborn = as_json({"image_url": OLD})
    with CmsServer(lambda *_: stubborn) as server, pytest.raises(ValueNotTaken, match=r"old\.png"):
        site(server).publish("a", NEW)
    with CmsServer(lambda *_: as_json({"sku": "a"})) as server, pytest.raises(UnknownField, match="'image_url'"):
        site(server).publish("a", NEW)


@pytest.mark.parametrize(
    ("answer", "kind", "mend"),
    [
        (as_json({"message": f"bad token {TOKEN}"}, 401), DeliveryForbidden, r"token \(401: bad token \*\*\*\)"),
        (as_json({}, 404), MissingSku, "path"),
        (as_json({}, 405), DeliveryStopped, "method"),
        (as_json({"error": {"message": "no"}}, 409), DeliveryRefused, "409: no"),
        (as_json({}, 500), DeliveryUnavailable, "later"),
        (as_json({}, 429, **{"Retry-After": "7"}), DeliveryUnavailable, "later"),
        (Answer(status=302, headers={"Location": "http://127.0.0.1:1/login?next=x"}), DeliveryStopped, "final address"),
        (Answer(b"<html>Sign in</html>", headers={"Content-Type": "text/html"}), DeliveryStopped, "JSON"),
        (Answer(b" " * 5_000_000), DeliveryStopped, "bytes"),
    ],
)
def test_each_refusal_says_what_to_mend(answer: Answer, kind: type[DeliveryError], mend: str) -> None:
    """Of the error's own class, with the CMS's words, and without the token even where the CMS repeats it."""
    with CmsServer(lambda *_: answer) as server, pytest.raises(kind, match=mend) as told:
        site(server).read("a")
    assert type(told.value) is kind
    assert TOKEN not in "".join(traceback.format_exception(told.value))
    if isinstance(told.value, DeliveryUnavailable):
        assert (told.value.asked, told.value.retry_after_s) == ((True, 7) if answer.status == 429 else (False, None))


def test_the_token_goes_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect to another host is not followed, and a .netrc of whoever runs it takes no token's place."""
    with CmsServer(lambda *_: as_json({"image_url": OLD})) as other:
        moved = Answer(status=307, headers={"Location": f"{other.url}/items/products/a"})
        with CmsServer(lambda *_: moved) as server, pytest.raises(DeliveryStopped):
            site(server).publish("a", NEW)
        assert other.requests == []
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login somebody password something\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        site(other).read("a")
        assert other.requests[-1][3]["Authorization"] == f"Bearer {TOKEN}"
        site(other, token=SecretStr("")).read("a")
        assert "Authorization" not in other.requests[-1][3]


@pytest.mark.parametrize("token", ["two\nlines", "한글"])
def test_a_token_that_no_header_can_hold(token: str) -> None:
    """It is said before a request goes out, and not shown."""
    with CmsServer(lambda *_: as_json({})) as server, pytest.raises(DeliveryForbidden, match="anew") as told:
        site(server, token=SecretStr(token)).check()
    assert token not in str(told.value)
    assert server.requests == []


def test_a_cms_without_a_list_can_only_be_asked_for_an_item() -> None:
    """The check says so, and a 403 for an item then is taken for a missing one."""

    def no_list(_method: str, path: str, _body: Any) -> Answer:
        return as_json({}, 404 if path.startswith("/api/products?") else 403)

    with CmsServer(no_list) as server:
        block = site(server, path="/api/products/{{ sku }}")
        assert block.check() is False
        with pytest.raises(MissingSku, match="hides it"):
            block.read("a")


@pytest.mark.parametrize("sku", [".", ".."])
def test_a_sku_that_would_lead_elsewhere(sku: str) -> None:
    """HTTP clients resolve dots, so these would change the collection itself."""
    with CmsServer(lambda *_: as_json({})) as server, pytest.raises(DeliveryRefused, match="web address"):
        site(server).publish(sku, NEW)
    assert server.requests == []


def test_values_stay_values() -> None:
    """Quotes, braces and Jinja's own signs in a sku neither end the JSON nor are evaluated."""
    items = Items(lambda value: {"image_url": value}, lambda body: body["image_url"])
    sku = '"}{{ 7*7 }}{% raw %}'
    with CmsServer(items) as server:
        site(server, body='{"image_url": "{{ url }}", "alt": "of {{ sku }}"}').publish(sku, NEW)
    assert server.requests[-1][2] == {"image_url": NEW, "alt": f"of {sku}"}


@pytest.mark.parametrize(
    ("fields", "mend"),
    [
        ({"base_url": "https://user:secret@cms.example.com"}, "pattern"),
        ({"base_url": "cms.example.com"}, "pattern"),
        ({"path": "items/{{ sku }}"}, "Begin the path with a slash"),
        ({"path": "/items/all"}, "names no item"),
        ({"path": "/items/{{ url }}"}, "It may name sku, template"),
        ({"path": "/items/{{ sku.__class__.__mro__ }}"}, "unsafe"),
        ({"body": '{"image_url": {{ url }}}'}, "no JSON"),
        ({"body": '{"image_url": "fixed"}'}, "image's address"),
        ({"body": '{"image_url": "{{ url }}", "alt": "{{ nonsense }}"}'}, "'nonsense' is undefined"),
        ({"method": "DELETE"}, "PATCH"),
    ],
)
def test_a_block_that_could_not_work_is_not_made(fields: dict[str, str], mend: str) -> None:
    """What is wrong is said with its mend, and the error shows no value, for one may be a secret."""
    with pytest.raises(ValidationError, match=mend) as told:
        CmsSite.model_validate({"base_url": "https://cms.example.com", "token": TOKEN, **fields})
    assert TOKEN not in str(told.value)
    assert "user:secret" not in str(told.value)
