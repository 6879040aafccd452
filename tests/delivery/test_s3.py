"""Delivery to a real S3, by the command as people run it."""

import json
import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, rowshot, rowshot_here, table, write_csv
from documents import s3_bucket
from scripted_generator import picture
from seaweed import Seaweed

from blocks.errors import DeliveryError, DeliveryRefused
from blocks.s3 import S3Store
from blocks.s3_account import S3Account

pytestmark = pytest.mark.usefixtures("prefect_server")
PUBLIC = "https://cdn.example.com/{key}"


def store_of(server: Seaweed, bucket: str, folder: str = "") -> S3Store:
    """A store on this server."""
    return S3Store(S3Account(bucket, folder, server.key, server.secret, endpoint=server.url))


def test_200_images_arrive_with_their_headers(tmp_path: Path, s3_server: Seaweed, bucket: str, block: str) -> None:
    """Each image is under its path, as what it is, for ever, with what is known of it; a rerun writes nothing anew."""
    skus = [f"sku-{number}" for number in range(198)]
    lines = [f"{sku},product {sku},red,product" for sku in skus]
    lines += ["양말 1/2,양말,blue,product", "wide,A title,,blog_hero"]
    (tmp_path / "shop.csv").write_text("\n".join(["sku,name,color,template", *lines]), encoding="utf-8")
    ran = rowshot(tmp_path, "run", "shop.csv", "--concurrency", "8", "--store", block, "--public-url", PUBLIC)
    assert ran.returncode == 0, ran
    rows = by_sku(tmp_path / "output/manifest.csv")
    assert Counter(row["status"] for row in rows.values()) == {"stored": 200}
    client = s3_server.client()
    changed = {}
    for row in rows.values():
        key = f"catalog/{row['path']}"
        assert row["url"] == f"https://cdn.example.com/{key}"
        found = client.head_object(Bucket=bucket, Key=key)
        assert found["CacheControl"] == "public, max-age=31536000, immutable"
        assert found["ContentType"] == f"image/{Path(row['path']).suffix[1:].replace('jpg', 'jpeg')}"
        told = found["Metadata"]
        assert (told["fingerprint"], told["model"], told["request_id"]) == (
            row["fingerprint"],
            row["model"],
            row["request_id"],
        )
        assert found["ContentLength"] == (tmp_path / "output" / row["path"]).stat().st_size
        changed[key] = found["LastModified"]
    assert len(s3_server.keys(bucket, "catalog/images/")) == 200
    assert len(s3_server.keys(bucket, "catalog/thumbs/")) == 200
    assert s3_server.keys(bucket, "catalog/originals/") == []
    reports = s3_server.keys(bucket, "catalog/reports/")
    assert {key.rsplit("/")[-1] for key in reports} == {"index.html", "results.csv", "manifest.csv", "failures.csv"}
    sheet = next(key for key in reports if key.endswith("index.html"))
    assert client.head_object(Bucket=bucket, Key=sheet)["CacheControl"] == "no-cache"
    assert f"In the store:  https://cdn.example.com/{sheet}" in ran.stdout

    again = rowshot_here(tmp_path, "run", "shop.csv", "--store", block, "--public-url", PUBLIC)
    assert again.returncode == 0
    assert "nothing was bought now" in again.stdout
    assert {key: client.head_object(Bucket=bucket, Key=key)["LastModified"] for key in changed} == changed


def test_of_16_racing_writers_one_wins(s3_server: Seaweed, bucket: str) -> None:
    """With other bytes each, one is kept and 15 are told; with the same bytes nobody is."""
    store = store_of(s3_server, bucket)
    pictures = [picture(f"racer {number}") for number in range(16)]

    def write(data: bytes) -> DeliveryError | None:
        try:
            store.put_new("images/one.png", data, "image/png", {})
        except DeliveryRefused as error:
            return error
        return None

    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(write, pictures))
    (winner,) = [data for data, error in zip(pictures, told, strict=True) if error is None]
    assert s3_server.client().get_object(Bucket=bucket, Key="images/one.png")["Body"].read() == winner
    assert {"images/one.png" in str(error) for error in told if error} == {True}
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(write, [winner] * 16)) == [None] * 16


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"secret": "another-secret"}, "does not let these credentials write"),
        ({"bucket": "no-such-bucket"}, "There is no bucket 'no-such-bucket'"),
        ({"minio": True, "secret": "another-secret"}, "does not let these credentials write"),
    ],
    ids=["secret", "bucket", "minio"],
)
def test_a_store_that_takes_nothing_is_found_before_the_first_call(
    tmp_path: Path,
    s3_server: Seaweed,
    bucket: str,
    anycap_server: AnyCapServer,
    wrong: dict[str, str],
    told: str,
) -> None:
    """Exit 2, with the mend, and the provider was never asked."""
    name = f"{bucket}-wrong"
    more = {key: value for key, value in wrong.items() if key != "bucket"}
    block = s3_bucket(s3_server, wrong.get("bucket", bucket), name, **more)  # type: ignore[arg-type]
    write_csv(tmp_path / "shop.csv", ["a", "b"])
    variables = anycap_variables(anycap_server, tmp_path)
    ran = rowshot_here(tmp_path, "run", "shop.csv", "--generator", "anycap", "--store", block, **variables)
    assert ran.returncode == 2, ran
    assert told in ran.stderr
    assert "its block" in ran.stderr
    assert anycap_server.counts()["calls"] == 0


def test_a_store_that_nobody_knows_is_named(tmp_path: Path, block: str) -> None:
    """Exit 2 for a block that isn't there, is no bucket, or addresses that can't be."""
    write_csv(tmp_path / "shop.csv", ["a"])
    for arguments, told in (
        (["--store", "s3-bucket/nobody"], "no block 's3-bucket/nobody'"),
        (["--store", "slack-webhook/x"], "is no S3 bucket"),
        (["--store", block, "--public-url", "https://cdn.example.com/"], "lacks {key}"),
        (["--public-url", PUBLIC], "needs a store"),
        (["--store", block, "--cms", "cms-site/x"], "public address"),
    ):
        ran = rowshot_here(tmp_path, "run", "shop.csv", *arguments)
        assert ran.returncode == 2, (arguments, ran)
        assert told in ran.stderr, (arguments, ran.stderr)


def test_two_outputs_share_a_bucket(tmp_path: Path, s3_server: Seaweed, bucket: str, block: str) -> None:
    """A second output buys nothing and writes no image twice; each has its reports."""
    write_csv(tmp_path / "shop.csv", ["a", "b", "c"])
    arguments = ["--store", block, "--public-url", PUBLIC]
    assert rowshot_here(tmp_path, "run", "shop.csv", *arguments, "--output", "one").returncode == 0
    images = s3_server.keys(bucket, "catalog/images/")
    other = rowshot_here(tmp_path, "run", "shop.csv", *arguments, "--output", "two")
    assert other.returncode == 0, other
    assert "nothing was bought now" in other.stdout
    assert s3_server.keys(bucket, "catalog/images/") == images
    assert len([key for key in s3_server.keys(bucket, "catalog/reports/") if key.endswith("index.html")]) == 2
    assert {row["status"] for row in table(tmp_path / "two/manifest.csv")} == {"stored"}


def test_a_private_buckets_sheet_has_links_that_work(tmp_path: Path, bucket: str, block: str) -> None:
    """The sheet's own link and those of its pictures are signed, and it says when they end; nothing else is open."""
    write_csv(tmp_path / "shop.csv", ["a", "양말"])
    ran = rowshot_here(tmp_path, "run", "shop.csv", "--store", block)
    assert ran.returncode == 0, ran
    (address,) = re.findall(r"In the store:  (http\S+)", ran.stdout)
    page = requests.get(address, timeout=10)
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert re.search(r"links end on 20\d\d-\d\d-\d\d \d\d:\d\d UTC", page.text)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.text)
    cards = json.loads(data)["rows"]
    assert len(cards) == 2
    for card in cards:
        for link in (card["image"], card["thumb"]):
            assert requests.get(link, timeout=10).status_code == 200
            assert requests.get(link.partition("?")[0], timeout=10).status_code == 403
    rows = table(tmp_path / "output/results.csv")
    assert {row["image_url"].partition("/images/")[0] for row in rows} == {f"s3://{bucket}/catalog"}


def test_what_is_stored_comes_back_to_an_empty_folder(tmp_path: Path, block: str, anycap_server: AnyCapServer) -> None:
    """The output is deleted and the provider's addresses are dead: the store brings all back, and nothing is bought."""
    write_csv(tmp_path / "shop.csv", ["a", "b", "c"])
    variables = anycap_variables(anycap_server, tmp_path)
    arguments = ["run", "shop.csv", "--generator", "anycap", "--store", block, "--public-url", PUBLIC]
    assert rowshot_here(tmp_path, *arguments, **variables).returncode == 0
    before = by_sku(tmp_path / "output/manifest.csv")
    calls = anycap_server.counts()["calls"]
    downloads = anycap_server.counts()["downloads"]
    shutil.rmtree(tmp_path / "output")
    again = rowshot_here(tmp_path, *arguments, **variables)
    assert again.returncode == 0, again
    assert anycap_server.counts()["calls"] == calls
    assert anycap_server.counts()["downloads"] == downloads
    after = by_sku(tmp_path / "output/manifest.csv")
    assert {sku: (row["path"], row["url"]) for sku, row in after.items()} == {
        sku: (row["path"], row["url"]) for sku, row in before.items()
    }
    assert all((tmp_path / "output" / row["path"]).is_file() for row in after.values())
