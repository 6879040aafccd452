"""A store that goes away, or turns us out, while images are being made: nothing is bought twice, all is delivered."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, rowshot_here, start_rowshot, write_csv
from documents import s3_bucket
from seaweed import Seaweed, seaweed

pytestmark = pytest.mark.usefixtures("prefect_server")
ROWS = 40


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Seaweed]:
    """An S3 of the test's own, to be stopped."""
    with seaweed(tmp_path / "seaweed") as server:
        server.bucket("shop")
        yield server


def arguments(block: str) -> list[str]:
    """A run that takes some 10 s."""
    return ["run", "shop.csv", "--generator", "anycap", "--concurrency", "4", "--store", block]


def wait_for(calls: int, server: AnyCapServer) -> None:
    """Until so many images were asked for."""
    deadline = time.monotonic() + 180
    while server.counts()["calls"] < calls:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("anycap_server", [{"delay_s": 1.0}], indirect=True)
def test_a_store_that_stops_and_comes_back(tmp_path: Path, own_server: Seaweed, anycap_server: AnyCapServer) -> None:
    """Images are made all the while; what could not be stored is tried again until it is."""
    block = s3_bucket(own_server, "shop", f"stopped-{tmp_path.name}".replace("_", "-"))
    write_csv(tmp_path / "shop.csv", [f"s{number}" for number in range(ROWS)])
    variables = anycap_variables(anycap_server, tmp_path)
    with start_rowshot(tmp_path, *arguments(block), **variables) as ran:
        wait_for(12, anycap_server)
        own_server.stop()
        wait_for(ROWS - 8, anycap_server)  # the generator doesn't notice
        own_server.start()
        told, _ = ran.communicate(timeout=300)
    assert ran.returncode == 0, told
    rows = by_sku(tmp_path / "output/manifest.csv")
    assert Counter(row["status"] for row in rows.values()) == {"stored": ROWS}
    assert anycap_server.counts()["charges"] == ROWS
    assert set(anycap_server.charges.values()) == {1}
    assert len(own_server.keys("shop", "images/")) == ROWS


@pytest.mark.parametrize("anycap_server", [{"delay_s": 0.5}], indirect=True)
def test_a_run_that_is_ended_while_its_store_is_down(
    tmp_path: Path, own_server: Seaweed, anycap_server: AnyCapServer
) -> None:
    """It ends in good time with its images bought; the next run stores them, and the generator is not asked."""
    block = s3_bucket(own_server, "shop", f"ended-{tmp_path.name}".replace("_", "-"))
    write_csv(tmp_path / "shop.csv", [f"s{number}" for number in range(ROWS)])
    variables = anycap_variables(anycap_server, tmp_path)
    with start_rowshot(tmp_path, *arguments(block), **variables) as ran:
        wait_for(8, anycap_server)
        own_server.stop()
        wait_for(ROWS, anycap_server)
        time.sleep(3)  # all are home, and none can be stored
        ran.send_signal(signal.SIGINT)
        began = time.monotonic()
        told, _ = ran.communicate(timeout=300)
    assert ran.returncode == 3, told
    assert time.monotonic() - began < 40, "its tries at the store go on for about a minute"
    rows = by_sku(tmp_path / "output/manifest.csv")
    assert {row["status"] for row in rows.values()} <= {"bought", "stored"}
    assert "bought" in {row["status"] for row in rows.values()}
    own_server.start()
    again = rowshot_here(tmp_path, *arguments(block), **variables)
    assert again.returncode == 0, again
    assert {row["status"] for row in by_sku(tmp_path / "output/manifest.csv").values()} == {"stored"}
    assert set(anycap_server.charges.values()) == {1}
    assert anycap_server.counts()["charges"] == ROWS


@pytest.mark.parametrize("anycap_server", [{"delay_s": 1.0}], indirect=True)
def test_credentials_that_are_revoked_under_way(
    tmp_path: Path, own_server: Seaweed, anycap_server: AnyCapServer
) -> None:
    """No further block is tried: exit 3 with the mend, all rows bought; with the key mended the same command stores."""
    block = s3_bucket(own_server, "shop", f"revoked-{tmp_path.name}".replace("_", "-"))
    write_csv(tmp_path / "shop.csv", [f"s{number}" for number in range(ROWS)])
    variables = anycap_variables(anycap_server, tmp_path)
    right = own_server.secret
    with start_rowshot(tmp_path, *arguments(block), **variables) as ran:
        wait_for(12, anycap_server)
        own_server.stop()
        own_server.secret = "the-new-secret-of-this-server"
        own_server.start()
        told, _ = ran.communicate(timeout=300)
    assert ran.returncode == 3, told
    assert "Handing on ended early: The store does not let these credentials write" in told
    rows = by_sku(tmp_path / "output/manifest.csv")
    counts = Counter(row["status"] for row in rows.values())
    assert counts["bought"]
    assert counts["bought"] + counts["stored"] == ROWS, "every image was made all the same"
    failed = [row for row in rows.values() if row["status"] == "bought"]
    assert {row["error_kind"] for row in failed} == {"DeliveryForbidden"}
    own_server.stop()
    own_server.secret = right
    own_server.start()
    again = rowshot_here(tmp_path, *arguments(block), **variables)
    assert again.returncode == 0, again
    assert set(anycap_server.charges.values()) == {1}


@pytest.mark.parametrize("anycap_server", [{"delay_s": 1.0}], indirect=True)
def test_a_store_that_stays_down(tmp_path: Path, own_server: Seaweed, anycap_server: AnyCapServer) -> None:
    """Nobody waits for ever: after about a minute of tries the run ends with exit 1, and a rerun stores what it has."""
    block = s3_bucket(own_server, "shop", f"down-{tmp_path.name}".replace("_", "-"))
    write_csv(tmp_path / "shop.csv", [f"s{number}" for number in range(ROWS)])
    variables = anycap_variables(anycap_server, tmp_path)
    with start_rowshot(tmp_path, *arguments(block), **variables) as ran:
        wait_for(1, anycap_server)
        own_server.stop()
        told, _ = ran.communicate(timeout=300)
    assert ran.returncode == 1, told
    assert f"{ROWS} of {ROWS} rows have their image" in told
    assert "not handed on yet" in told
    assert "DeliveryUnavailable" in told
    rows = by_sku(tmp_path / "output/failures.csv")
    assert {"can't be reached" in row["rowshot_error"] for row in rows.values()} == {True}
    own_server.start()
    again = rowshot_here(tmp_path, *arguments(block), **variables)
    assert again.returncode == 0, again
    assert anycap_server.counts()["charges"] == ROWS
    assert not (tmp_path / "output/failures.csv").exists()
