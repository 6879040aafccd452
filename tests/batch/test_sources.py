"""Where a CSV comes from: paths, addresses and pasted rows; what is fetched is bounded, and goes nowhere private."""

import gzip
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from page_server import Answer, PageServer, certificate_for, page_server
from pydantic import ValidationError

from flows.batch.fetching import Bounds
from flows.batch.private_addresses import is_private
from flows.batch.problems import NotStarted
from flows.batch.settings import BatchSettings
from flows.batch.sources import CsvSource, fetch_source, source_name

ROWS = b"sku,name,color\nA1,Sock,red\n"
NAMED = "shop.example"
PUBLIC = Bounds()
PRIVATE = Bounds(private=True)
SHEET = "https://docs.google.com/spreadsheets/d/1AbCdEfGhIjKlMnOp/edit"


@pytest.fixture
def pages() -> Iterator[PageServer]:
    """A server over HTTP."""
    with page_server() as server:
        yield server


def no_bucket(bucket: str, key: str, _bounds: Bounds) -> bytes:
    """No test here reads a bucket."""
    raise AssertionError(bucket, key)


def here(_host: str, _port: int) -> Sequence[str]:
    """Every name is this machine."""
    return ["127.0.0.1"]


def nowhere(host: str, _port: int) -> Sequence[str]:
    """No name may be looked up."""
    raise AssertionError(host)


def fetched(csv: str, bounds: Bounds = PRIVATE) -> CsvSource:
    """What an address brings, every name being this machine."""
    return fetch_source(BatchSettings(csv=csv), no_bucket, bounds, here)


def refusal(csv: str, bounds: Bounds = PRIVATE) -> str:
    """Why an address brings nothing, and the mend."""
    with pytest.raises(NotStarted) as refused:
        fetched(csv, bounds)
    (problem,) = refused.value.problems
    assert problem.mend
    return str(problem)


def test_an_address_brings_its_rows(pages: PageServer) -> None:
    """The bytes are the server's; the name is the file's, and the query's secret is not in it."""
    pages.pages["/feeds/summer%20sale.csv"] = Answer(ROWS)
    source = fetched(f"http://{NAMED}:{pages.port}/feeds/summer%20sale.csv?token=secret")
    assert (source.content, source.name) == (ROWS, "summer sale.csv")
    assert pages.asked == ["/feeds/summer%20sale.csv?token=secret"]
    assert pages.hosts == [f"{NAMED}:{pages.port}"]


@pytest.mark.parametrize(
    ("csv", "name"),
    [
        ("catalog/summer-sale.csv", "summer-sale.csv"),
        ("s3://bucket/2026/summer-sale.csv", "summer-sale.csv"),
        ("https://shop.example/여름.csv?key=secret#x", "여름.csv"),
        ("https://shop.example/%EC%97%AC%EB%A6%84.csv", "여름.csv"),
        ("https://shop.example/export?format=csv&token=secret", "shop.example export"),
        ("https://shop.example", "shop.example"),
        (SHEET, "google-sheet-IjKlMnOp"),
        (f"{SHEET}#gid=77", "google-sheet-IjKlMnOp-77"),
        ("https://[broken/x.csv", "fetched.csv"),
    ],
)
def test_a_source_has_a_name_for_people(csv: str, name: str) -> None:
    """Reports and the ledger call a source by its last part, without a query."""
    assert source_name(csv) == name


@pytest.mark.parametrize("csv", ["products.csv", "https://shop.example/all.csv", "s3://bucket/all.csv", SHEET])
def test_pasted_rows_are_taken_in_place_of_the_file(csv: str) -> None:
    """Whoever pastes rows into the form means these, and neither the file nor the address that the form comes with."""
    source = fetch_source(BatchSettings(csv=csv, pasted=ROWS.decode()), no_bucket, PUBLIC, nowhere)
    assert (source.name, source.content) == ("pasted rows", ROWS)


def test_pasted_rows_keep_their_outer_empty_cells() -> None:
    """A tab at either end of what was pasted is an empty cell, and no white space."""
    pasted = "\tsku\nred\tA1\n\tB2\t\n"
    assert CsvSource.local(BatchSettings(pasted=pasted)).content == pasted.encode()


def test_white_space_is_no_pasted_row() -> None:
    """A field that only looks filled in is as good as empty."""
    with pytest.raises(ValidationError, match="or paste its rows"):
        BatchSettings(pasted=" \n\t")
    assert CsvSource.local(BatchSettings(csv="products.csv", pasted="\n")).name == "products.csv"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",  # noqa: S104
        "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::", "fec0::1",
        "2001:db8::1",
    ],
)  # fmt: skip
def test_private_addresses_are_known(address: str) -> None:
    """Loopback, private, link-local, multicast and reserved addresses, also where IPv6 wraps them."""
    assert is_private(address)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_known(address: str) -> None:
    """The rest of the internet may be asked."""
    assert not is_private(address)


def test_a_private_address_is_refused_unasked(pages: PageServer) -> None:
    """Unless the worker allows it, no request reaches a machine of a private network, by whatever name."""
    pages.pages["/x.csv"] = Answer(ROWS)
    told = refusal(f"https://{NAMED}:{pages.port}/x.csv", PUBLIC)
    assert f"{NAMED} is in a private network" in told
    assert "ROWSHOT_ALLOW_PRIVATE_ADDRESSES=1" in told
    assert pages.asked == []


def test_a_name_with_one_private_address_is_refused() -> None:
    """A name that stands for a public and a private machine leads nowhere."""
    settings = BatchSettings(csv=f"https://{NAMED}/x.csv")
    with pytest.raises(NotStarted, match="private network"):
        fetch_source(settings, no_bucket, PUBLIC, lambda _host, _port: ["93.184.215.14", "10.0.0.1"])


@pytest.mark.parametrize("inside", ["https://127.0.0.1/x.csv", "https://169.254.169.254/latest/meta-data/"])
def test_a_redirect_into_a_private_network_is_refused(inside: str, tmp_path: Path) -> None:
    """Each hop is checked as the first one is: a public server can't send the worker inside."""
    looked_up = []

    def resolve(host: str, _port: int) -> Sequence[str]:
        looked_up.append(host)
        return ["127.0.0.1"] if host == NAMED else [host]

    certificate, trusted = certificate_for(NAMED, tmp_path)
    with page_server(certificate) as pages, pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
        # the first hop counts as public here, as no test can have a public machine
        patch.setattr("flows.batch.fetching.is_private", lambda a: a != "127.0.0.1" or len(looked_up) > 1)
        pages.pages["/x.csv"] = Answer(status=302, location=inside)
        with pytest.raises(NotStarted, match="private network"):
            fetch_source(BatchSettings(csv=f"https://{NAMED}:{pages.port}/x.csv"), no_bucket, PUBLIC, resolve)
        assert len(looked_up) == 2
        assert len(pages.asked) == 1


def test_a_name_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was checked, for a name that no one else could look up (DNS rebinding);
    the certificate has to be that name's all the same.
    """
    certificate, trusted = certificate_for(NAMED, tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    with page_server(certificate) as pages:
        pages.pages["/x.csv"] = Answer(ROWS)
        settings = BatchSettings(csv=f"https://{NAMED}:{pages.port}/x.csv")
        source = fetch_source(settings, no_bucket, PRIVATE, lambda _host, _port: next(answers))
        assert source.content == ROWS
        assert next(answers) == ["127.0.0.2"]
        assert "no certificate that can be trusted" in refusal(f"https://other.example:{pages.port}/x.csv")


def test_a_certificate_of_nobody_known_is_refused(tmp_path: Path) -> None:
    """Encryption without a name that can be trusted is none."""
    with page_server(certificate_for(NAMED, tmp_path)[0]) as pages:
        assert "no certificate that can be trusted" in refusal(f"https://{NAMED}:{pages.port}/x.csv")
        assert pages.asked == []


def test_proxies_of_the_environment_are_left_out(pages: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would look the name up again."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    pages.pages["/x.csv"] = Answer(ROWS)
    assert fetched(f"http://{NAMED}:{pages.port}/x.csv").content == ROWS


def test_plain_http_is_for_private_machines_alone(pages: PageServer) -> None:
    """What goes over the internet is encrypted, also where private addresses are allowed."""
    assert "is not encrypted" in refusal(f"http://{NAMED}:{pages.port}/x.csv", PUBLIC)
    settings = BatchSettings(csv=f"http://{NAMED}/x.csv")
    with pytest.raises(NotStarted, match="is not encrypted"):
        fetch_source(settings, no_bucket, PRIVATE, lambda _host, _port: ["93.184.215.14"])


def test_redirects_are_followed_a_few_times(pages: PageServer) -> None:
    """A moved file is found, relative addresses too; a circle ends."""
    pages.pages |= {"/a": Answer(status=302, location="b?x=1"), "/b": Answer(ROWS)}
    assert fetched(f"http://{NAMED}:{pages.port}/a").content == ROWS
    pages.pages["/b"] = Answer(status=307, location="/a")
    assert "more than 5 redirects" in refusal(f"http://{NAMED}:{pages.port}/a")


@pytest.mark.parametrize("told", [True, False])
def test_a_file_that_is_too_large_is_refused(pages: PageServer, told: bool) -> None:
    """By what the server says of it, and by what comes where it says nothing."""
    pages.pages["/x.csv"] = Answer(ROWS * 100, length=None if told else -1)
    bounds = replace(PRIVATE, largest_bytes=1024)
    assert "is larger than 0.000976562 MB" in refusal(f"http://{NAMED}:{pages.port}/x.csv", bounds)


def test_a_gzipped_file_is_unpacked_within_the_limit(pages: PageServer) -> None:
    """A small file that unpacks to a huge one is refused before it fills the memory."""
    pages.pages |= {"/x.csv.gz": Answer(gzip.compress(ROWS)), "/bomb.gz": Answer(gzip.compress(bytes(10**7)))}
    assert fetched(f"http://{NAMED}:{pages.port}/x.csv.gz").content == ROWS
    bounds = replace(PRIVATE, largest_bytes=100_000)
    assert "bomb.gz, unpacked, is larger" in refusal(f"http://{NAMED}:{pages.port}/bomb.gz", bounds)
    pages.pages["/x.csv.gz"] = Answer(gzip.compress(ROWS)[:-9])
    assert "gzipped and damaged" in refusal(f"http://{NAMED}:{pages.port}/x.csv.gz")


def test_a_server_that_drips_is_left(pages: PageServer) -> None:
    """A byte now and then keeps no worker: the time-out is for the whole."""
    pages.pages["/x.csv"] = Answer(ROWS * 100, pause_s=0.05)
    began = time.monotonic()
    told = refusal(f"http://{NAMED}:{pages.port}/x.csv", replace(PRIVATE, whole_s=0.5))
    assert "was not here within 0.5 seconds" in told
    assert time.monotonic() - began < 60  # the whole would take over two minutes


def test_a_file_that_breaks_off_is_no_file(pages: PageServer) -> None:
    """Half a spreadsheet is not taken for a whole one."""
    pages.pages["/x.csv"] = Answer(ROWS, length=len(ROWS) + 10)
    assert "broke off" in refusal(f"http://{NAMED}:{pages.port}/x.csv")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(b"\n <!DOCTYPE html><html>", kind="text/plain"), "is a web page, not a CSV"),
        (Answer(b"Sign in", kind="text/html; charset=utf-8"), "is a web page, not a CSV"),
        (Answer(b"\x89PNG", kind="image/png"), "is image/png, not a CSV"),
        (Answer(status=403), "is not open to everybody (403)"),
        (Answer(status=404), "There is nothing at"),
        (Answer(status=503), "could not be fetched (503)"),
    ],
)
def test_what_is_no_csv_is_said_so(pages: PageServer, answer: Answer, told: str) -> None:
    """A login, a picture or an error is told for what it is, without the address's query."""
    pages.pages["/x"] = answer
    refused = refusal(f"http://{NAMED}:{pages.port}/x?token=secret")
    assert told in refused
    assert "secret" not in refused


@pytest.mark.parametrize(
    ("csv", "asked"),
    [
        (SHEET, "/spreadsheets/d/1AbCdEfGhIjKlMnOp/export?format=csv"),
        (f"{SHEET}?usp=sharing#gid=77", "/spreadsheets/d/1AbCdEfGhIjKlMnOp/export?format=csv&gid=77"),
        (
            "https://docs.google.com/spreadsheets/d/e/2PACX-1vQ/pubhtml?gid=77",
            "/spreadsheets/d/e/2PACX-1vQ/pub?gid=77&single=true&output=csv",
        ),
        (
            "https://docs.google.com/spreadsheets/d/e/2PACX-1vQ/pub?output=csv",
            "/spreadsheets/d/e/2PACX-1vQ/pub?output=csv",
        ),
    ],
)
def test_a_google_sheet_is_taken_by_its_own_address(
    csv: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that the browser shows becomes that of the sheet's CSV; a sheet that isn't open is told how to be."""
    certificate, trusted = certificate_for("docs.google.com", tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
    with page_server(certificate) as pages:
        monkeypatch.setitem(fetching_ports(), "https", pages.port)
        pages.pages[asked.partition("?")[0]] = Answer(ROWS)
        assert fetched(csv).content == ROWS
        assert pages.asked == [asked]
        pages.pages[asked.partition("?")[0]] = Answer(b"<html>Sign in</html>", kind="text/html")
        assert "Publish to web" in refusal(csv)


def fetching_ports() -> dict[str, int]:
    """The ports that a scheme stands for."""
    from flows.batch.fetching import PORTS  # noqa: PLC0415 - only this test changes it

    return PORTS


@pytest.mark.parametrize(
    ("csv", "told"),
    [
        ("ftp://shop.example/x.csv", "neither a path nor an s3:// or https:// address"),
        ("https://user:secret@shop.example/x.csv", "holds a user or a password"),
        ("https://[broken/x.csv", "can't be understood"),
        ("s3://bucket", "names no file in a bucket"),
        ("s3://Bad_Bucket!/x.csv", "names no file in a bucket"),
    ],
)
def test_an_address_of_no_use_is_refused(csv: str, told: str) -> None:
    """What can't be an address is said so, and no password is repeated."""
    refused = refusal(csv)
    assert told in refused
    assert "secret" not in refused


def test_a_name_of_no_machine_is_told() -> None:
    """A slip in the address is told by the name in it."""
    with pytest.raises(NotStarted, match=r"There is no machine named shopp\.example"):
        fetch_source(BatchSettings(csv="https://shopp.example/x.csv"), no_bucket, PUBLIC, lambda _host, _port: [])


def test_the_same_run_reads_the_same_bytes_again(tmp_path: Path) -> None:
    """What a run has kept it finds when it begins again, another run does not; a copy that was changed is refused."""
    settings = BatchSettings(csv="https://shop.example/summer.csv?token=secret")
    assert CsvSource.kept(settings, tmp_path, "run-1") is None
    CsvSource("summer.csv", Path("summer.csv"), ROWS).keep(tmp_path, "run-1")
    (copy,) = (tmp_path / "sources").iterdir()
    assert copy.name.endswith("-summer.csv")
    known = CsvSource.kept(settings, tmp_path, "run-1")
    assert known
    assert (known.name, known.content) == ("summer.csv", ROWS)
    assert CsvSource.kept(settings, tmp_path, "run-2") is None
    copy.write_bytes(ROWS + b"B2,Hat,blue\n")
    with pytest.raises(NotStarted, match="is not what it was"):
        CsvSource.kept(settings, tmp_path, "run-1")


def test_the_worker_says_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Private addresses and larger files are the operator's to allow, in the worker's environment."""
    assert Bounds.of_environment() == Bounds()
    monkeypatch.setenv("ROWSHOT_ALLOW_PRIVATE_ADDRESSES", "1")
    monkeypatch.setenv("ROWSHOT_LARGEST_CSV_MB", "200")
    assert Bounds.of_environment() == Bounds(largest_bytes=200 * 1024 * 1024, private=True)


def test_a_redirect_to_nowhere_is_told(pages: PageServer) -> None:
    """What a server gives as the next address may be none."""
    pages.pages["/a.csv"] = Answer(status=302, location="https://[nowhere/")
    assert "can't be understood" in refusal(f"http://{NAMED}:{pages.port}/a.csv")
