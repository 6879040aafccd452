"""What a CMS is told of a row over several runs, and what they take back, on each of the ledger's databases."""

from collections.abc import Callable

import pytest
from shop_site import ShopSite
from small_batch import SmallBatch

from blocks.errors import DeliveryUnavailable
from flows.batch.deliveries import Deliveries
from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import Delivered
from flows.batch.publishing import PublishRow, publish_rows
from flows.batch.withdrawal import withdraw

OLD = "https://cdn/old.png"


def image(name: str, template: str = "product") -> PublishRow:
    """An image of the one row of a CSV."""
    return PublishRow(("a", template, name), "a", template, f"https://cdn/{name}.png")


A, B, C = image("blue"), image("red"), image("green")


@pytest.fixture
def ledger(shop: SmallBatch) -> Ledger:
    """An empty one."""
    return shop.ledger()


@pytest.fixture
def deliveries(ledger: Ledger) -> Deliveries:
    """The ledger's."""
    return ledger.deliveries


@pytest.fixture
def site() -> ShopSite:
    """A CMS that shows an image of old."""
    return ShopSite({"a": OLD})


def test_a_row_that_is_changed_back_is_published_again(deliveries: Deliveries, site: ShopSite) -> None:
    """The CMS shows the image of the row as it is now, and only that one counts as published."""
    for run, row in (("run-1", A), ("run-2", B), ("run-3", A)):
        publish_rows([row], site, deliveries, run)
        assert site.values["a"] == row.url
        known = deliveries.standing([A.key, B.key], site.name)
        assert [key for key, one in known.items() if one.is_done] == [row.key]


@pytest.mark.parametrize("lost", [DeliveryUnavailable("Run it again."), KeyboardInterrupt()], ids=["answer", "process"])
def test_a_change_whose_answer_is_lost_counts_as_shown(
    deliveries: Deliveries, site: ShopSite, lost: BaseException
) -> None:
    """The image before it is due again, since nobody can know whether the CMS still shows it."""
    publish_rows([A], site, deliveries, "run-1")
    site.on_change = lambda: quit_with(site, lost)
    with pytest.raises(type(lost)):
        publish_rows([B], site, deliveries, "run-2")
    assert site.values["a"] == B.url
    assert not deliveries.standing([A.key], site.name)[A.key].is_done
    publish_rows([A], site, deliveries, "run-3")
    assert site.values["a"] == A.url


def test_a_change_that_never_arrived_costs_no_other(ledger: Ledger, site: ShopSite) -> None:
    """The CMS still shows the image before it, which is noted as published without asking the CMS for a change."""
    publish_rows([A], site, ledger.deliveries, "run-1")
    ledger.deliveries.publishing(site.name, "run-2", {B.key: (B.url, A.url)})
    publish_rows([A], site, ledger.deliveries, "run-3")
    assert len(site.changes) == 1
    assert ledger.deliveries.standing([A.key], site.name)[A.key].is_done
    assert withdraw(ledger, "run-3", lambda _: site).put_back == 1
    assert site.values["a"] == OLD


def test_an_image_of_another_template_is_not_replaced(deliveries: Deliveries, site: ShopSite) -> None:
    """Each template's image is a row of its own."""
    hero = image("blue", "blog_hero")
    publish_rows([A, hero], site, deliveries, "run-1")
    assert [one.is_done for one in deliveries.standing([A.key, hero.key], site.name).values()] == [True, True]
    assert not deliveries.standing([A.key], "cms-site/other")


def test_what_was_replaced_is_left_alone_and_named(ledger: Ledger, site: ShopSite) -> None:
    """Taking back the older of two runs changes nothing, and says what is there instead."""
    publish_rows([A], site, ledger.deliveries, "run-1")
    publish_rows([B], site, ledger.deliveries, "run-2")
    ended = withdraw(ledger, "run-1", lambda _: site)
    assert (ended.put_back, ended.exit_code, site.values["a"]) == (0, 1, B.url)
    assert B.url in " ".join(ended.lines())


def test_runs_are_taken_back_one_after_the_other(ledger: Ledger, site: ShopSite) -> None:
    """The newer gives the item the older one's image, which that one takes back in turn."""
    publish_rows([A], site, ledger.deliveries, "run-1")
    publish_rows([B], site, ledger.deliveries, "run-2")
    assert withdraw(ledger, "run-2", lambda _: site).put_back == 1
    assert site.values["a"] == A.url
    assert withdraw(ledger, "run-1", lambda _: site).put_back == 1
    assert site.values["a"] == OLD
    assert {one.state for one in ledger.deliveries.standing([A.key, B.key], site.name).values()} == {
        Delivered.WITHDRAWN
    }


def test_what_is_shown_again_counts_as_published(ledger: Ledger, site: ShopSite) -> None:
    """Where taking back has brought an earlier image, it is that run's as before, and a later one has nothing to do."""
    publish_rows([A], site, ledger.deliveries, "run-1")
    publish_rows([B], site, ledger.deliveries, "run-2")
    withdraw(ledger, "run-2", lambda _: site)
    assert ledger.deliveries.standing([A.key], site.name)[A.key].is_done
    changes = len(site.changes)
    publish_rows([A], site, ledger.deliveries, "run-3")
    assert len(site.changes) == changes
    assert withdraw(ledger, "run-1", lambda _: site).put_back == 1
    assert site.values["a"] == OLD


def test_a_row_changed_back_keeps_what_was_there_before_all_of_it(ledger: Ledger, site: ShopSite) -> None:
    """Each run gives the item what it had before, and the last one what it had before the first."""
    for run, row in (("run-1", A), ("run-2", B), ("run-3", C), ("run-4", A), ("run-5", B)):
        publish_rows([row], site, ledger.deliveries, run)
    shown = []
    for run in ("run-5", "run-4", "run-3"):
        assert withdraw(ledger, run, lambda _: site).put_back == 1
        shown.append(site.values["a"])
    assert shown == [A.url, C.url, OLD]


def test_it_is_kept_where_changing_back_takes_two_tries(ledger: Ledger, site: ShopSite) -> None:
    """A try that failed before it reached the CMS loses nothing of it either."""
    publish_rows([A], site, ledger.deliveries, "run-1")
    publish_rows([B], site, ledger.deliveries, "run-2")
    ledger.deliveries.failed(site.name, {A.key: DeliveryUnavailable("Run it again.")})
    publish_rows([A], site, ledger.deliveries, "run-3")
    assert [withdraw(ledger, run, lambda _: site).put_back for run in ("run-3", "run-2")] == [1, 1]
    assert site.values["a"] == OLD


def test_an_older_run_of_a_row_changed_back_is_left_alone_and_named(ledger: Ledger, site: ShopSite) -> None:
    """The item has what it had before that run, but from a newer one: nothing is taken back, and the run keeps its
    turn.
    """
    for run, row in (("run-1", A), ("run-2", B), ("run-3", A)):
        publish_rows([row], site, ledger.deliveries, run)
    ended = withdraw(ledger, "run-2", lambda _: site)
    assert (ended.put_back, ended.exit_code, site.values["a"]) == (0, 1, A.url)
    assert A.url in " ".join(ended.lines())
    assert [withdraw(ledger, run, lambda _: site).put_back for run in ("run-3", "run-2")] == [1, 1]
    assert site.values["a"] == OLD


def test_two_runs_at_once_keep_what_was_there_before(ledger: Ledger, site: ShopSite) -> None:
    """A run that finds its image shown by another one, which was quicker, leaves that one's note as it is."""
    site.on_read = lambda: quicker(site, lambda: publish_rows([A], site, ledger.deliveries, "quicker"))
    publish_rows([A], site, ledger.deliveries, "slower")
    assert len(site.changes) == 1
    assert withdraw(ledger, "quicker", lambda _: site).put_back == 1
    assert site.values["a"] == OLD


def test_two_runs_at_once_keep_it_while_nothing_is_confirmed(ledger: Ledger, site: ShopSite) -> None:
    """The same where the other run has told the CMS and not yet noted that it has."""

    def tell() -> None:
        ledger.deliveries.publishing(site.name, "quicker", {A.key: (A.url, OLD)})
        site.values["a"] = A.url

    site.on_read = lambda: quicker(site, tell)
    publish_rows([A], site, ledger.deliveries, "slower")
    ledger.deliveries.published(site.name, [A.key])
    assert withdraw(ledger, "slower", lambda _: site).put_back == 1
    assert site.values["a"] == OLD


def quit_with(site: ShopSite, error: BaseException) -> None:
    """Raise this once, after a change."""
    site.on_change = lambda: None
    raise error


def quicker(site: ShopSite, work: Callable[[], None]) -> None:
    """Do this once, before a look at the CMS."""
    site.on_read = lambda: None
    work()
