"""Secrets are in their blocks, and nowhere else: all that a run leaves behind is searched for them."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, rowshot, write_csv
from documents import s3_bucket
from seaweed import Seaweed

SECRET = "s3cr3t-OfThisTestAlone/+0123456789"
WRONG = "wr0ng-SecretOfThisTest/+9876543210"


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """An S3 whose secret no other test has."""
    server = Seaweed(tmp_path_factory.mktemp("own-seaweed"), secret=SECRET)
    try:
        server.start()
        server.bucket("shop")
        yield server
    finally:
        server.stop()


@pytest.mark.usefixtures("prefect_server")
def test_no_secret_is_left_anywhere(
    tmp_path: Path,
    prefect_database: Path,
    own_server: Seaweed,
    anycap_server: AnyCapServer,
) -> None:
    """Not of a run that is well, nor of one that is refused: no log, artifact, parameter, row, report or error text."""
    name = f"secrets-{int(time.time())}"
    good = s3_bucket(own_server, "shop", name)
    bad = s3_bucket(own_server, "shop", f"{name}-bad", secret=WRONG)
    write_csv(tmp_path / "shop.csv", ["a", "b"])
    variables = anycap_variables(anycap_server, tmp_path)
    said = ""
    for block, code in ((good, 0), (bad, 2)):
        ran = rowshot(tmp_path, "run", "shop.csv", "--generator", "anycap", "--store", block, **variables)
        assert ran.returncode == code, ran
        said += ran.stdout + ran.stderr
    time.sleep(3)  # the server writes down what it has heard
    left = {"what it said": said.encode()}
    left |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with sqlite3.connect(prefect_database) as database:
        left["the server's database"] = "\n".join(database.iterdump()).encode()
    assert b"secrets-" in left["the server's database"], "the search itself finds nothing"
    assert any("ledger.sqlite3" in where for where in left)
    assert any("index.html" in where for where in left)
    for secret in (SECRET, WRONG):
        assert [where for where, data in left.items() if secret.encode() in data] == []
    objects = own_server.client()
    for key in own_server.keys("shop"):
        assert SECRET.encode() not in objects.get_object(Bucket="shop", Key=key)["Body"].read()
