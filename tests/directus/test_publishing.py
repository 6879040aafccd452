"""Publishing in a real CMS: what it answers, and what it says and does not do."""

import hashlib
import time
from itertools import pairwise

import pytest
from directus import ADMIN, Directus

from blocks import CmsSite
from blocks.errors import DeliveryForbidden, DeliveryUnavailable, MissingSku, UnknownField
from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import Delivered
from flows.batch.publishing import PublishRow, publish_rows
from flows.batch.withdrawal import withdraw

HANGUL = "셔츠 A/1 흰색"
OLD = "https://cdn.example.com/old.png"


def row(sku: str, template: str = "product") -> PublishRow:
    """A stored image of this sku."""
    fingerprint = hashlib.sha256(f"{sku} {template}".encode()).hexdigest()
    return PublishRow((sku, template, fingerprint), sku, template, f"https://cdn.example.com/{fingerprint}.png")


def states(ledger: Ledger, site: CmsSite, rows: list[PublishRow]) -> list[tuple[str, str]]:
    """How each row stands in the ledger, with the kind of its error."""
    found = ledger.deliveries.standing([one.key for one in rows], site.name)
    return [(found[one.key].state.value, found[one.key].error_kind) if one.key in found else ("", "") for one in rows]


def test_rows_are_published_and_taken_back(cms: Directus, site: CmsSite, ledger: Ledger, prefix: str) -> None:
    """Each item shows its image, a sku with a slash and a space in Hangul too; afterwards each has what it had before,
    but for the one that somebody has changed since, which is named.
    """
    skus = [f"{prefix}-a", f"{prefix}-{HANGUL}", f"{prefix}-empty", f"{prefix}-changed"]
    cms.add(*skus, image_url=OLD)
    cms.change(skus[2], None)
    rows = [row(sku) for sku in skus]
    publish_rows(rows, site, ledger.deliveries, "run-1")
    assert [cms.value(sku) for sku in skus] == [one.url for one in rows]
    assert states(ledger, site, rows) == [("published", "")] * 4

    cms.change(skus[3], "https://elsewhere.example.com/by-hand.png")
    ended = withdraw(ledger, "run-1", lambda _: site)
    assert [cms.value(sku) for sku in skus] == [OLD, OLD, None, "https://elsewhere.example.com/by-hand.png"]
    assert (ended.put_back, [sku for sku, _ in ended.left_alone], ended.exit_code) == (3, [skus[3]], 1)
    assert "by-hand.png" in " ".join(ended.lines())
    again = withdraw(ledger, "run-1", lambda _: site)
    assert (again.put_back, [sku for sku, _ in again.left_alone]) == (0, [skus[3]])


def test_two_images_of_one_item_are_taken_back_to_the_first_value(
    cms: Directus, site: CmsSite, ledger: Ledger, prefix: str
) -> None:
    """Where two templates publish into the same field, taking back ends at what was there before both."""
    cms.add(prefix, image_url=OLD)
    publish_rows([row(prefix, "product"), row(prefix, "blog_hero")], site, ledger.deliveries, "run-2")
    assert cms.value(prefix) == row(prefix, "blog_hero").url
    assert withdraw(ledger, "run-2", lambda _: site).put_back == 2
    assert cms.value(prefix) == OLD


@pytest.mark.parametrize("token", ["", ADMIN])
def test_a_missing_sku_is_that_rows_failure(
    cms: Directus, site: CmsSite, ledger: Ledger, prefix: str, token: str
) -> None:
    """Directus answers a user 403 and an administrator 204 when a sku is missing: both times the row says so, and the
    others are published.
    """
    if token:
        site = CmsSite(base_url=cms.url, token=token)
    cms.add(f"{prefix}-b")
    rows = [row(f"{prefix}-missing"), row(f"{prefix}-b"), row("..")]
    publish_rows(rows, site, ledger.deliveries, "run-3")
    assert states(ledger, site, rows) == [("failed", "MissingSku"), ("published", ""), ("failed", "DeliveryRefused")]
    with pytest.raises(MissingSku, match="no item for the sku"):
        site.publish(f"{prefix}-missing", "https://cdn.example.com/x.png")


@pytest.mark.parametrize("token", ["", ADMIN])
def test_an_unknown_field_is_that_rows_failure(
    cms: Directus, site: CmsSite, ledger: Ledger, prefix: str, token: str
) -> None:
    """Directus takes a field that it doesn't have, says 200 to an administrator and ignores it: that is no success."""
    cms.add(prefix)
    used = {"base_url": cms.url, "token": token or site.token, "body": '{"picture": "{{ url }}"}'}
    wrong = CmsSite.model_validate(used)
    publish_rows([row(prefix)], wrong, ledger.deliveries, "run-4")
    assert states(ledger, wrong, [row(prefix)]) == [("failed", UnknownField.__name__)]
    with pytest.raises(UnknownField, match="no field 'picture'"):
        wrong.publish(prefix, "https://cdn.example.com/x.png")


def test_a_bad_token_stops_publishing(cms: Directus, ledger: Ledger, prefix: str) -> None:
    """No further row is tried, none is marked as failed, and the error doesn't tell the token."""
    cms.add(prefix)
    site = CmsSite(base_url=cms.url, token="not-the-token-0123456789")
    rows = [row(prefix), row(f"{prefix}-2")]
    for refused in (site.check, lambda: publish_rows(rows, site, ledger.deliveries, "run-5")):
        with pytest.raises(DeliveryForbidden, match="valid one") as told:
            refused()
        assert "not-the-token" not in str(told.value)
    assert states(ledger, site, rows) == [("", ""), ("", "")]
    assert cms.value(prefix) is None


def test_a_token_without_rights_is_no_missing_sku(cms: Directus, ledger: Ledger, prefix: str) -> None:
    """Directus says 403 to both; where the token may not even list the items, no row can succeed."""
    cms.add(prefix)
    site = CmsSite(base_url=cms.url)  # no token at all: Directus' public role, which has no rights
    with pytest.raises(DeliveryForbidden, match="the right to read"):
        publish_rows([row(prefix)], site, ledger.deliveries, "run-6")
    assert states(ledger, site, [row(prefix)]) == [("", "")]


def test_a_real_429_is_obeyed(cms: Directus, site: CmsSite, ledger: Ledger, prefix: str) -> None:
    """A CMS that takes 5 requests in 2 seconds gets every row in the end, without a single failure."""
    skus = [f"{prefix}-{number}" for number in range(6)]
    cms.add(*skus)
    rows = [row(sku) for sku in skus]
    with cms.limited():
        began = time.monotonic()
        publish_rows(rows, site, ledger.deliveries, "run-7")
        took = time.monotonic() - began
    assert states(ledger, site, rows) == [("published", "")] * 6
    assert [cms.value(sku) for sku in skus] == [one.url for one in rows]
    assert took > 3  # 12 requests, 5 in each 2 s
    at = [delivery.at for delivery in ledger.deliveries.standing([one.key for one in rows], site.name).values()]
    assert max(later - earlier for earlier, later in pairwise(sorted(at))) > 0.5


def test_a_cms_that_is_down_leaves_its_rows_for_later(
    cms: Directus, site: CmsSite, ledger: Ledger, prefix: str
) -> None:
    """After three rows in vain the others aren't tried; once it is back the same call publishes them all."""
    skus = [f"{prefix}-{number}" for number in range(5)]
    cms.add(*skus, image_url=OLD)
    rows = [row(sku) for sku in skus]
    publish_rows(rows[:1], site, ledger.deliveries, "run-8")
    cms.stop()
    with pytest.raises(DeliveryUnavailable, match="can't be reached"):
        publish_rows(rows, site, ledger.deliveries, "run-8")
    assert [state for state, _ in states(ledger, site, rows)] == ["published", *["failed"] * 3, ""]
    cms.start({})
    publish_rows(rows, site, ledger.deliveries, "run-8")
    assert [cms.value(sku) for sku in skus] == [one.url for one in rows]
    assert states(ledger, site, rows) == [("published", "")] * 5


def test_a_request_that_arrived_and_failed_is_taken_back(
    cms: Directus, site: CmsSite, ledger: Ledger, prefix: str
) -> None:
    """Where the CMS went down right after it had changed the item, the row is a failure and yet is put back; one that
    never arrived is nobody's business.
    """
    cms.add(prefix, f"{prefix}-2", image_url=OLD)
    for one in (row(prefix), row(f"{prefix}-2")):
        ledger.deliveries.publishing(site.name, "run-11", {one.key: (one.url, OLD)})
        ledger.deliveries.failed(site.name, {one.key: DeliveryUnavailable("It went down.")})
    cms.change(prefix, row(prefix).url)
    ended = withdraw(ledger, "run-11", lambda _: site)
    assert (ended.put_back, ended.left_alone, ended.exit_code) == (1, [], 0)
    assert (cms.value(prefix), cms.value(f"{prefix}-2")) == (OLD, OLD)


def test_a_try_that_was_cut_off_loses_no_former_value(
    cms: Directus, site: CmsSite, ledger: Ledger, prefix: str
) -> None:
    """A request that arrived and was never confirmed is found to be ours, and what was there before it is put back."""
    cms.add(prefix, image_url=OLD)
    one = row(prefix)
    ledger.deliveries.publishing(site.name, "run-9", {one.key: (one.url, OLD)})
    cms.change(prefix, one.url)  # it arrived, and the run was killed then
    publish_rows([one], site, ledger.deliveries, "run-10")
    found = ledger.deliveries.standing([one.key], site.name)[one.key]
    assert (found.state, found.previous) == (Delivered.PUBLISHED, OLD)
    assert withdraw(ledger, "run-10", lambda _: site).put_back == 1
    assert cms.value(prefix) == OLD
