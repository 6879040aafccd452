"""What the ledger keeps of handing images on, on each database; and how public addresses are made."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest
from scripted_generator import ScriptedGenerator
from small_batch import SmallBatch

from blocks.errors import DeliveryForbidden, MissingSku
from flows.batch.addresses import Addresses
from flows.batch.deliveries import Deliveries
from flows.batch.ledger_tables import Delivered
from flows.batch.problems import NotStarted

STORE, CMS = "s3://bucket/shop", "cms-site/shop"
A, B = ("a", "product", "f1"), ("b", "product", "f2")


@pytest.fixture
def deliveries(shop: SmallBatch) -> Deliveries:
    """An empty ledger's."""
    return shop.ledger().deliveries


def test_what_is_stored_is_known_by_its_destination(deliveries: Deliveries) -> None:
    """An image in one store is not in another one."""
    deliveries.stored(STORE, {A: ("shop/a.png", "https://cdn/a.png"), B: ("shop/b.png", "")})
    known = deliveries.standing([A, B, ("c", "product", "f3")], STORE)
    assert {key: (one.state, one.object_key, one.url) for key, one in known.items()} == {
        A: (Delivered.STORED, "shop/a.png", "https://cdn/a.png"),
        B: (Delivered.STORED, "shop/b.png", ""),
    }
    assert deliveries.standing([A, B], "s3://bucket/other") == {}


def test_a_failure_is_kept_until_it_is_mended(deliveries: Deliveries) -> None:
    """The reason stands beside the image; once it is stored, it is gone."""
    deliveries.failed(STORE, {A: DeliveryForbidden("Mend the key.")})
    (known,) = deliveries.standing([A], STORE).values()
    assert (known.state, known.error_kind, known.error) == (Delivered.FAILED, "DeliveryForbidden", "Mend the key.")
    assert not known.is_done
    deliveries.stored(STORE, {A: ("shop/a.png", "")})
    (known,) = deliveries.standing([A], STORE).values()
    assert (known.is_done, known.error_kind, known.error) == (True, "", "")


@pytest.mark.parametrize("before", [None, "", "https://old/양말.png", {"src": "x"}, 0])
def test_what_a_cms_had_before_is_kept_as_it_was(deliveries: Deliveries, before: object) -> None:
    """Any JSON value comes back, noted before the request goes out; what is withdrawn is no longer the run's."""
    deliveries.publishing(CMS, "run-1", {A: ("https://cdn/a.png", before)})
    (known,) = deliveries.published_by("run-1")
    assert (known.state, known.previous, known.is_done) == (Delivered.PUBLISHING, before, False)
    deliveries.published(CMS, [A])
    (known,) = deliveries.published_by("run-1")
    assert (known.state, known.previous, known.url) == (Delivered.PUBLISHED, before, "https://cdn/a.png")
    assert deliveries.published_by("run-2") == []
    deliveries.withdrawn(CMS, [A])
    assert deliveries.published_by("run-1") == []


def test_a_failure_to_publish_keeps_what_was_there_before(deliveries: Deliveries) -> None:
    """A try that broke off must not make its own value the one to go back to."""
    deliveries.publishing(CMS, "run-1", {A: ("https://cdn/a.png", "old")})
    deliveries.failed(CMS, {A: MissingSku("Add it there.")})
    (known,) = deliveries.standing([A], CMS).values()
    assert (known.state, known.previous, known.run) == (Delivered.FAILED, "old", "run-1")


def test_two_runs_note_the_same_images_at_once(shop: SmallBatch) -> None:
    """Neither gets in the other's way, whatever they note and in whatever order they have the images."""
    keys = [(f"s{number}", "product", "f") for number in range(20)]
    start = Barrier(4)

    def note(number: int) -> None:
        mine = shop.ledger().deliveries
        some = keys if number % 2 else keys[::-1]
        start.wait()
        for _ in range(5):
            if number < 2:
                mine.publishing(CMS, f"run-{number}", dict.fromkeys(some, ("https://cdn/a.png", None)))
            else:
                mine.failed(CMS, dict.fromkeys(some, MissingSku("Add it there.")))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(note, range(4)))
    assert len(shop.ledger().deliveries.standing(keys, CMS)) == len(keys)


def test_runs_publish_different_images_of_one_row_at_once(shop: SmallBatch) -> None:
    """None of them drops its image for meeting another one, and in the end only one counts as published."""
    skus = [f"s{number}" for number in range(15)]
    start = Barrier(4, timeout=30)

    def publish(fingerprint: str) -> None:
        mine = shop.ledger().deliveries
        for sku in skus:
            start.wait()
            for _ in range(3):
                key = (sku, "product", fingerprint)
                mine.publishing(CMS, fingerprint, {key: (f"https://cdn/{fingerprint}.png", "https://cdn/f0.png")})
                mine.published(CMS, [key])

    fingerprints = [f"f{number}" for number in range(start.parties)]
    with ThreadPoolExecutor(start.parties) as pool:
        list(pool.map(publish, fingerprints))
    known = shop.ledger().deliveries
    for sku in skus:
        standing = known.standing([(sku, "product", fingerprint) for fingerprint in fingerprints], CMS)
        assert sum(one.is_done for one in standing.values()) == 1


def test_a_ledger_from_before_delivery_is_brought_up_to_date(tmp_path: Path) -> None:
    """A ledger of version 2 gets what delivery needs and keeps all it has."""
    shop = SmallBatch(tmp_path)
    shop.products("a")
    shop.run(ScriptedGenerator())
    with closing(sqlite3.connect(shop.ledger_path)) as older, older:
        older.execute("DROP TABLE deliveries")
        older.execute("ALTER TABLE runs DROP COLUMN store")
        older.execute("ALTER TABLE runs DROP COLUMN cms")
        older.execute("UPDATE rowshot_meta SET value = '2' WHERE name = 'schema'")
    assert shop.report("a").status == "stored"
    shop.ledger().deliveries.stored(STORE, {A: ("shop/a.png", "")})
    assert A in shop.ledger().deliveries.standing([A], STORE)
    generator = ScriptedGenerator()
    shop.run(generator)
    assert generator.calls == []


@pytest.mark.parametrize(
    ("template", "address"),
    [
        ("https://cdn.example.com/{key}", "https://cdn.example.com/shop/images/a%20b.png"),
        ("https://{bucket}.s3.{region}.amazonaws.com/{key}", "https://pics.s3.ap-northeast-2.amazonaws.com/shop/images/a%20b.png"),
        ("{endpoint}/{bucket}/{key}", "https://s3.example.com/pics/shop/images/a%20b.png"),
        ("https://cdn.example.com/i?src={key}&w=800", "https://cdn.example.com/i?src=shop/images/a%20b.png&w=800"),
        ("", ""),
    ],
)  # fmt: skip
def test_an_address_is_made_by_the_template(template: str, address: str) -> None:
    """Virtual host, path style and a CDN; the key is URL-quoted, and a private bucket has no addresses."""
    addresses = Addresses(template, "pics", "ap-northeast-2", "https://s3.example.com")
    addresses.check()
    assert addresses.of("shop/images/a b.png") == address


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("https://cdn.example.com/", "lacks {key}"),
        ("https://cdn.example.com/{sku}/{key}", "{sku}, which means nothing"),
        ("https://cdn.example.com/{key.__class__}{key}", "means nothing"),
        ("https://cdn.example.com/{key}}", "a lone brace"),
        ("cdn.example.com/{key}", "makes no web addresses"),
        ("javascript:alert('{key}')", "makes no web addresses"),
        ("https:///{key}", "makes no web addresses"),
        ("https://user:pass@cdn.example.com/{key}", "makes no web addresses"),
        ("https://cdn.example.com/{key} x", "makes no web addresses"),
        ("https://x.{region}.example.com/{key}", "names {region}, and the store's block tells none"),
    ],
)
def test_an_address_template_that_is_wrong_is_refused(template: str, told: str) -> None:
    """It is found at the start, with the mend."""
    with pytest.raises(NotStarted) as refused:
        Addresses(template, "pics").check()
    assert told in str(refused.value)
    assert "--public-url" in str(refused.value)
