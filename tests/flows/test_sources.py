"""A CSV from a bucket or an address, from the command to the reports."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from command import by_sku, rowshot_here
from page_server import Answer, PageServer, page_server
from seaweed import Seaweed

from flows.batch.problems import NotStarted
from flows.batch.settings import BatchSettings
from flows.batch.sources import fetch_source
from flows.tasks.sources import object_reader

ROWS = b"sku,name,color\nA1,Sock,red\nB2,Hat,blue\n"
BUCKET = "catalogs"


@pytest.fixture(scope="module")
def bucket(s3_server: Seaweed) -> str:
    """A bucket with a spreadsheet in it."""
    s3_server.bucket(BUCKET)
    s3_server.client().put_object(Bucket=BUCKET, Key="2026/summer-sale.csv", Body=ROWS)
    return BUCKET


@pytest.fixture
def machine(s3_server: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Seaweed:
    """A machine whose own credentials and endpoint are those of the server, as boto3 finds them."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server.url,
        "AWS_ACCESS_KEY_ID": s3_server.key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def pages() -> Iterator[PageServer]:
    """A web server in a network that the worker may reach."""
    with page_server() as server:
        yield server


def refusal(csv: str) -> str:
    """Why a source brings nothing."""
    settings = BatchSettings(csv=csv)
    with pytest.raises(NotStarted) as refused:
        fetch_source(settings, object_reader(settings))
    return str(refused.value)


@pytest.mark.usefixtures("machine")
def test_a_csv_is_read_from_a_bucket(bucket: str) -> None:
    """With the machine's own credentials, where the batch names no store."""
    settings = BatchSettings(csv=f"s3://{bucket}/2026/summer-sale.csv")
    source = fetch_source(settings, object_reader(settings))
    assert (source.name, source.content) == ("summer-sale.csv", ROWS)


def test_what_a_bucket_does_not_give_is_told(bucket: str, machine: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key, a missing bucket, a file that is too large and credentials of no use each name their mend."""
    csv = f"s3://{bucket}/2026/summer-sale.csv"
    assert "There is nothing at s3://catalogs/2026/Summer-sale.csv" in refusal(f"s3://{bucket}/2026/Summer-sale.csv")
    assert "There is no bucket 'nowhere'" in refusal("s3://nowhere/x.csv")
    machine.client().put_object(Bucket=bucket, Key="large.csv", Body=bytes(1024 * 1024 + 1))
    monkeypatch.setenv("ROWSHOT_LARGEST_CSV_MB", "1")
    assert "s3://catalogs/large.csv is larger than 1 MB" in refusal(f"s3://{bucket}/large.csv")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "It needs the right s3:GetObject" in refusal(csv)


def test_a_batch_store_lends_its_credentials(
    bucket: str, s3_server: Seaweed, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CSV in the bucket of the store that the batch names is read as the images are written; its folder is not
    meant.
    """
    assert prefect_server
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    env = tmp_path / ".env"
    env.write_text(
        f"ROWSHOT_S3_BUCKET={bucket}\nROWSHOT_S3_FOLDER=shop\nROWSHOT_S3_ENDPOINT={s3_server.url}\n"
        f"ROWSHOT_S3_ACCESS_KEY_ID={s3_server.key}\nROWSHOT_S3_SECRET_ACCESS_KEY={s3_server.secret}\n"
    )
    assert rowshot_here(tmp_path, "setup", "--env", str(env), "--name", "catalogs").returncode == 0
    settings = BatchSettings.of(csv=f"s3://{bucket}/2026/summer-sale.csv", store="s3-bucket/catalogs")
    assert fetch_source(settings, object_reader(settings)).content == ROWS


def test_a_run_of_an_address_fetches_it_once(pages: PageServer, prefect_server: str, tmp_path: Path) -> None:
    """Plan and flow work on the same bytes; a copy is kept, and the reports name the source without its query."""
    pages.pages["/summer-sale.csv"] = Answer(ROWS)
    address = f"http://127.0.0.1:{pages.port}/summer-sale.csv?token=secret"
    allowed = {"ROWSHOT_ALLOW_PRIVATE_ADDRESSES": "1", "PREFECT_API_URL": prefect_server}
    done = rowshot_here(tmp_path, "run", address, **allowed)
    assert done.returncode == 0, done
    assert len(pages.asked) == 1
    assert {row["status"] for row in by_sku(tmp_path / "output/manifest.csv").values()} == {"stored"}
    (copy,) = (tmp_path / "output/sources").iterdir()
    assert copy.read_bytes() == ROWS
    assert copy.name.endswith("-summer-sale.csv")
    told = done.stdout + (tmp_path / "output/index.html").read_text(encoding="utf-8")
    assert "summer-sale.csv" in told
    assert "secret" not in told


def test_an_address_in_a_private_network_starts_nothing(pages: PageServer, tmp_path: Path) -> None:
    """Unless whoever runs it allows it, the command refuses as the form does."""
    done = rowshot_here(tmp_path, "plan", f"https://127.0.0.1:{pages.port}/x.csv")
    assert done.returncode == 2
    assert "is in a private network" in done.stderr
    assert pages.asked == []
    assert not (tmp_path / "output").exists()
