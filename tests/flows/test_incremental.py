"""The same file again, as a schedule brings it every night: what is unchanged costs nothing and is no news."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from anycap_server import AnyCapServer
from catalog import Catalog, catalog
from command import anycap_variables, by_sku, write_csv
from deployed import Deployed
from seaweed import Seaweed

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def shop(s3_server: Seaweed) -> Iterator[Catalog]:
    """A bucket, a CMS and a webhook."""
    with catalog(s3_server) as there:
        yield there


def test_only_what_changed_is_bought_and_told(tmp_path: Path, anycap_server: AnyCapServer, shop: Catalog) -> None:
    """An unchanged file buys nothing, publishes nothing and posts nothing, though a row of it is invalid. A changed row
    gets a new image at a new address, which the CMS then shows; the others keep theirs. A row that is newly wrong is
    told.
    """
    deployed = Deployed(tmp_path, anycap_variables(anycap_server, tmp_path))
    rows = {"a": "sock", "b": "hat", "wrong": ""}
    night = {"csv": "nightly.csv", "generator": "anycap", "delivery": shop.delivery, "rows": {"skip_invalid": True}}

    def run() -> list[str]:
        """A night; gives what Slack hears of it."""
        write_csv(tmp_path / "nightly.csv", rows)
        before = len(shop.heard)
        assert deployed.work(deployed.start(**night)).name == "Completed"
        return shop.heard[before:]

    assert run() == ["nightly.csv: begun", "nightly.csv: done, with failures"]
    first, published = by_sku(tmp_path / "output/manifest.csv"), dict(shop.items)
    assert published == {sku: first[sku]["url"] for sku in "ab"}

    assert run() == []
    assert anycap_server.calls.total() == 2
    assert shop.items == published

    rows["b"] = "cap"
    assert run() == ["nightly.csv: begun", "nightly.csv: done, with failures"]
    second = by_sku(tmp_path / "output/manifest.csv")
    assert second["a"]["url"] == first["a"]["url"]
    assert second["b"]["url"] not in {first["b"]["url"], ""}
    assert shop.items == {"a": first["a"]["url"], "b": second["b"]["url"]}
    assert anycap_server.charges.total() == 3

    rows["worse"] = ""
    assert run() == ["nightly.csv: begun", "nightly.csv: done, with failures"]
    assert anycap_server.calls.total() == 3
