"""A block of finished images on its way into a store: what is noted, what is told, and what a rerun takes up."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from object_store import ObjectStore
from scripted_generator import DRAWS, ScriptedGenerator, picture
from shop_site import ShopSite
from small_batch import SOURCE, FileServer, Outcome, Ran, SmallBatch, buy, put_state, table

from blocks.errors import DeliveryForbidden, DeliveryRefused, DeliveryUnavailable
from flows.batch.addresses import Addresses
from flows.batch.approval import mark_of_publishing
from flows.batch.canary import canary_first
from flows.batch.ledger_tables import State
from flows.batch.plan import plan_batch
from flows.batch.prompts import BUILT_IN
from flows.batch.publishing import PublishRow, publish_rows
from flows.batch.purchase import Bought
from flows.batch.row_report import Status
from flows.batch.run import BatchRun
from flows.batch.stored_reports import folder_of, upload_reports
from flows.batch.stores import NEVER
from flows.batch.uploads import RunEnded, Shelf, StoreRow, content_type, upload_rows

PUBLIC = "https://cdn.example.com/{key}"
DOWN = DeliveryUnavailable("It can't be reached.")
SKUS = [f"s{number}" for number in range(6)]


@pytest.fixture
def place(tmp_path: Path) -> SmallBatch:
    """Six rows."""
    shop = SmallBatch(tmp_path)
    shop.products(*SKUS)
    return shop


def shelved(run: BatchRun, store: ObjectStore, public_url: str = PUBLIC) -> Shelf:
    """Give a run a store."""
    run.shelf = Shelf(store, Addresses(public_url, "bucket"), run.ledger.deliveries, run.output.root)
    return run.shelf


def other_size(folder: Path) -> Path:
    """A folder with the template blog_hero, which asks for another size there."""
    mine = folder / "templates"
    mine.mkdir()
    text = (BUILT_IN / "blog_hero.jinja").read_text(encoding="utf-8")
    (mine / "blog_hero.jinja").write_text(text.replace("size: 1200x630", "size: 600x315"), encoding="utf-8")
    return mine


def run_into(
    shop: SmallBatch,
    store: ObjectStore,
    generator: ScriptedGenerator | None = None,
    public_url: str = PUBLIC,
    **changes: Any,
) -> tuple[Ran, list[PublishRow], Exception | None]:
    """Run products.csv into a store as the flow does, in one block; gives what a CMS would be told, and the error."""
    settings = shop.settings(**changes)
    run = shop.open(settings)
    shelf = shelved(run, store, public_url)
    plan = plan_batch(settings, SOURCE, run)
    run.begin("anycap", plan.batch)
    outcomes: dict[str, Outcome] = {}
    for jobs in canary_first(settings, plan, run):
        outcomes |= buy(run, generator or ScriptedGenerator(), jobs)
    rows = [*plan.to_store, *(StoreRow(one.job, one.place) for one in outcomes.values() if isinstance(one, Bought))]
    told: list[PublishRow] = []
    failed = None
    try:
        upload_rows(rows, shelf, run.ledger.request_ids(row.job.key for row in rows), NEVER, told.extend)
    except (DeliveryUnavailable, DeliveryForbidden) as error:
        failed = error
    return Ran(run, plan, outcomes, run.finish()), told, failed


def test_images_are_stored_with_what_is_known_of_them(place: SmallBatch) -> None:
    """Each lies under its path, with its type from the bytes, its thumbnail, and metadata; reports have its address."""
    store = ObjectStore()
    ran, told, failed = run_into(place, store)
    assert failed is None
    row = place.report("s1")
    assert row.status is Status.STORED
    assert row.url == f"https://cdn.example.com/shop/{row.path}"
    key = f"shop/{row.path}"
    assert store.objects[key] == (place.output / row.path).read_bytes()
    assert store.kinds[key] == "image/png"
    assert {"fingerprint", "model", "request_id", "sha256"} == set(store.metadata[key])
    assert store.metadata[key]["request_id"].startswith("request-s1")
    assert store.kinds[f"shop/{row.thumbnail}"].startswith("image/webp")
    assert sorted(one.url for one in told) == sorted(row.url for row in ran.run.ledger.rows.report(str(place.output)))
    assert {line["image_url"] for line in table(place.output / "results.csv")} == {one.url for one in told}
    assert (ran.summary.exit_code, ran.summary.undelivered) == (0, 0)


def test_a_rerun_has_nothing_to_store(place: SmallBatch) -> None:
    """What is stored is not written again, and nothing is bought."""
    store, generator = ObjectStore(), ScriptedGenerator()
    run_into(place, store)
    before = len(store.puts)
    ran, told, _ = run_into(place, store, generator)
    assert (generator.calls, len(store.puts), told) == ([], before, [])
    assert ran.plan
    assert ran.plan.to_store == ()


def test_a_store_that_goes_down_leaves_the_rest_for_a_rerun(place: SmallBatch) -> None:
    """What arrived before is stored, the rest stays bought: exit 1; the next run stores it, and the generator rests."""
    store = ObjectStore({"images/": [None, None, DOWN]})
    ran, told, failed = run_into(place, store)
    assert failed is DOWN
    assert len(told) == 2
    assert ran.summary.counts == {Status.STORED: 2, Status.BOUGHT: 4}
    assert (ran.summary.exit_code, ran.summary.undelivered) == (1, 4)
    assert "4 of them not handed on yet" in str(ran.summary)
    generator = ScriptedGenerator()
    again, told, failed = run_into(place, store, generator)
    assert again.plan
    assert len(again.plan.to_store) == 4
    assert "4 to store" in again.plan.headline
    assert (generator.calls, failed, len(told)) == ([], None, 4)
    assert again.summary.exit_code == 0


def test_an_image_that_the_store_refuses_is_that_rows_failure(place: SmallBatch) -> None:
    """The others go on; the row is told with its reason, also in failures.csv, and its picture stays."""
    store = ObjectStore({"images/product/s2": [DeliveryRefused("Another image is there.")]})
    ran, told, failed = run_into(place, store)
    assert (failed, len(told)) == (None, 5)
    row = place.report("s2")
    assert (row.status, row.error_kind, row.error) == (Status.BOUGHT, "DeliveryRefused", "Another image is there.")
    assert (row.undelivered, row.is_failure, row.url) == (True, True, "")
    assert [line["sku"] for line in table(place.output / "failures.csv")] == ["s2"]
    assert ran.summary.exit_code == 1


def test_a_run_that_ends_begins_no_further_image(place: SmallBatch) -> None:
    """Once calls are waited for no longer, nor are uploads."""
    store = ObjectStore()
    ran, _, _ = run_into(place, ObjectStore({"images/": [DOWN]}))
    shelf = shelved(ran.run, store)
    left = threading.Event()
    left.set()
    settings = place.settings()
    rows = plan_batch(settings, SOURCE, ran.run).to_store
    told: list[PublishRow] = []
    with pytest.raises(RunEnded):
        upload_rows(rows, shelf, {}, left, told.extend)
    assert told == []
    assert store.puts == []


def test_a_new_public_address_costs_no_upload(place: SmallBatch) -> None:
    """Reports and the CMS get the new address of what is there already."""
    store = ObjectStore()
    run_into(place, store)
    before = len(store.puts)
    _, told, _ = run_into(place, store, public_url="https://new.example.com/{key}")
    assert len(store.puts) == before
    assert len(told) == len(SKUS)
    assert place.report("s0").url.startswith("https://new.example.com/shop/images/")


def test_a_private_bucket_has_names_and_no_addresses(place: SmallBatch) -> None:
    """Reports name the object; the stored sheet has signed links, and says when they end."""
    store = ObjectStore()
    ran, _, _ = run_into(place, store, public_url="")
    row = place.report("s0")
    assert row.url == f"s3://bucket/shop/{row.path}"
    address = upload_reports(ran.run)
    folder = f"shop/{folder_of(place.output)}"
    assert address == f"https://signed.example/{folder}/index.html?signature=abc"
    sheet = store.objects[f"{folder}/index.html"].decode()
    assert f"https://signed.example/shop/{row.path}?signature=abc" in sheet
    assert "2027-01-02 03:04 UTC" in sheet
    assert "originals/" not in sheet
    assert "2027-01-02" not in (place.output / "index.html").read_text()
    assert store.objects[f"{folder}/results.csv"] == (place.output / "results.csv").read_bytes()


def test_the_stored_sheet_leads_to_public_addresses(place: SmallBatch) -> None:
    """With a public address no link ends, and only pictures that are there are linked."""
    store = ObjectStore({"images/product/s2": [DeliveryRefused("No.")]})
    ran, _, _ = run_into(place, store)
    upload_reports(ran.run)
    sheet = store.objects[f"shop/{folder_of(place.output)}/index.html"].decode()
    assert f"https://cdn.example.com/shop/{place.report('s1').path}" in sheet
    assert f"https://cdn.example.com/shop/{place.report('s2').path}" not in sheet
    assert "links end" not in sheet


def test_two_outputs_share_images_and_not_reports(place: SmallBatch) -> None:
    """The same bucket takes both: an image once, the reports of each in a folder of its own."""
    assert folder_of(place.output) != folder_of(place.root / "other" / "output")


def test_a_lost_file_comes_back_from_the_store(place: SmallBatch) -> None:
    """With the folder gone and nothing at the provider's address, the store has it: nothing is bought, nothing lost."""
    store, generator = ObjectStore(), ScriptedGenerator()
    run_into(place, store)
    row = place.report("s3")
    data = (place.output / row.path).read_bytes()
    (place.output / row.path).unlink()
    before = len(store.puts)
    ran, _, _ = run_into(place, store, generator)
    assert generator.calls == []
    assert (place.output / row.path).read_bytes() == data
    assert (ran.summary.exit_code, len(store.puts)) == (0, before)


def test_an_object_that_was_deleted_is_stored_again(place: SmallBatch) -> None:
    """Where neither the store nor anybody else has an image any more it is lost; bought again, it is uploaded again."""
    store = ObjectStore()
    run_into(place, store)
    row = place.report("s3")
    (place.output / row.path).unlink()
    del store.objects[f"shop/{row.path}"]
    run_into(place, store)
    assert place.report("s3").status is Status.LOST
    ran, told, _ = run_into(place, store, rebuy_lost=True)
    again = place.report("s3")
    assert (again.status, ran.summary.exit_code) == (Status.STORED, 0)
    assert store.objects[f"shop/{again.path}"] == (place.output / again.path).read_bytes()
    assert [one.sku for one in told] == ["s3"]


def test_an_object_that_was_deleted_and_its_file_too(place: SmallBatch) -> None:
    """What the provider's address still brings is stored again by the same run."""
    store = ObjectStore()
    with FileServer() as provider:
        run_into(place, store)
        row = place.report("s3")
        data = (place.output / row.path).read_bytes()
        (place.output / row.path).unlink()
        del store.objects[f"shop/{row.path}"]
        provider.files["/s3.png"] = data
        put_state(place.ledger(), State.BOUGHT, url=f"{provider.url}/s3.png")
        generator = ScriptedGenerator()
        ran, _, _ = run_into(place, store, generator)
    assert (generator.calls, ran.summary.exit_code) == ([], 0)
    assert store.objects[f"shop/{row.path}"] == data


def test_a_stored_file_that_was_tampered_with_is_not_taken(place: SmallBatch) -> None:
    """Other bytes than those that were stored are no copy; the row is lost, and said so."""
    store = ObjectStore()
    run_into(place, store)
    row = place.report("s3")
    (place.output / row.path).unlink()
    store.objects[f"shop/{row.path}"] = picture("another")
    generator = ScriptedGenerator()
    run_into(place, store, generator)
    assert generator.calls == []
    assert place.report("s3").status is Status.LOST


@pytest.mark.parametrize("output", ["output", "another"])
def test_what_is_stored_is_published_where_no_file_is(place: SmallBatch, output: str) -> None:
    """A worker with an empty folder, the same or another one, has the same images to publish as the one that made them;
    it brings them back too, and the CMS is told once.
    """
    store, site = ObjectStore(), ShopSite()
    made, _, _ = run_into(place, store)
    made.run.site = site
    at_home = plan_batch(place.settings(), SOURCE, made.run)
    shutil.rmtree(place.output)
    settings = place.settings(output=str(place.root / output))
    run = place.open(settings)
    run.site = site
    shelf = shelved(run, store)
    plan = plan_batch(settings, SOURCE, run)
    assert [row.sku for row in plan.to_publish] == SKUS
    assert mark_of_publishing(plan) == mark_of_publishing(at_home)
    assert plan.headline == at_home.headline
    run.begin("anycap", plan.batch)
    publish_rows(plan.to_publish, site, run.ledger.deliveries, run.id)
    outcomes = buy(run, ScriptedGenerator(), plan.todo)
    back = [StoreRow(one.job, one.place) for one in outcomes.values() if isinstance(one, Bought)]
    upload_rows(back, shelf, {}, NEVER, lambda rows: publish_rows(rows, site, run.ledger.deliveries, run.id))
    assert (len(back), len(site.changes)) == (len(SKUS), len(SKUS))
    assert run.finish().counts == {Status.PUBLISHED: len(SKUS)}
    assert plan_batch(settings, SOURCE, run).to_publish == ()


def test_what_is_stored_otherwise_than_it_is_wanted_now_is_not_published(tmp_path: Path) -> None:
    """An image that is not here and whose template asks for another size now is brought back and made that first, and
    so is one whose address has changed.
    """
    shop = SmallBatch(tmp_path)
    shop.csv("sku,name,template\na,Shirt,blog_hero\n")
    store = ObjectStore()
    run_into(shop, store)
    shutil.rmtree(shop.output)
    for settings, public_url, due in (
        (shop.settings(), PUBLIC, 1),
        (shop.settings(), "https://new.example.com/{key}", 0),
        (shop.settings(templates=str(other_size(tmp_path))), PUBLIC, 0),
    ):
        run = shop.open(settings)
        run.site = ShopSite()
        shelved(run, store, public_url)
        plan = plan_batch(settings, SOURCE, run)
        assert (len(plan.to_publish), plan.to_buy, len(plan.todo)) == (due, (), 1)


def test_a_finished_file_comes_back_without_its_original(tmp_path: Path) -> None:
    """Originals stay local, so where those are gone too the stored image stands for them."""
    shop = SmallBatch(tmp_path)
    shop.csv("sku,name,template\na,Shirt,blog_hero\n")
    store = ObjectStore()
    run_into(shop, store, ScriptedGenerator({"a": [DRAWS]}))
    row = shop.report("a")
    assert row.original.startswith("originals/")
    data = (shop.output / row.path).read_bytes()
    (shop.output / row.path).unlink()
    (shop.output / row.original).unlink()
    generator = ScriptedGenerator()
    ran, _, failed = run_into(shop, store, generator)
    assert (generator.calls, failed, ran.summary.exit_code) == ([], None, 0)
    assert (shop.output / row.path).read_bytes() == data
    assert shop.report("a").url == row.url


def test_a_store_that_is_down_loses_nothing(place: SmallBatch) -> None:
    """A file that can't be asked for now is not lost: the row stays bought."""

    class Down(ObjectStore):
        def get(self, key: str, destination: Path) -> dict[str, str]:
            raise DOWN

    store = ObjectStore()
    run_into(place, store)
    row = place.report("s3")
    (place.output / row.path).unlink()
    settings = place.settings()
    run = place.open(settings)
    shelved(run, Down())
    plan = plan_batch(settings, SOURCE, run)
    run.begin("anycap", plan.batch)
    with pytest.raises(DeliveryUnavailable):
        buy(run, ScriptedGenerator(), plan.todo)
    (key,) = [job.key for job in plan.todo]
    assert run.ledger.standings([key])[key].state is State.BOUGHT


def test_a_run_without_a_store_reports_as_before(place: SmallBatch) -> None:
    """What another run stored elsewhere is no matter of a run that was not asked to."""
    run_into(place, ObjectStore(), public_url="")
    place.run(ScriptedGenerator())
    row = place.report("s0")
    assert (row.status, row.undelivered, row.url) == (Status.STORED, False, "")


def test_a_rejected_row_is_never_handed_on(place: SmallBatch) -> None:
    """Only what is bought goes to the store."""
    run_into(place, ObjectStore({"images/": [DOWN]}))
    put_state(place.ledger(), State.REJECTED)
    store = ObjectStore()
    run_into(place, store)
    assert store.puts == []


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "avif"])
def test_the_content_type_is_what_the_bytes_are(kind: str) -> None:
    """It is read from the bytes, whatever the file is called."""
    assert content_type(picture(kind=kind.upper())) == f"image/{kind}"
    assert content_type(b"<html>") == ""
