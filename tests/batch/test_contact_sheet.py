import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flows.batch.contact_sheet import MEANINGS, write_contact_sheet
from flows.batch.prices import dollars
from flows.batch.report import Report
from flows.batch.report_totals import PAGE_ROWS
from flows.batch.row_report import RowReport, Status

STARTED = datetime(2026, 1, 12, 5, 3, tzinfo=UTC)
NASTY = "</script><img src=x onerror=alert(1)><!--<script>\u2028&amp;\"'"


class Sheet(HTMLParser):
    """A written sheet, as a parser of HTML sees it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._open = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        self.data: dict[str, Any] = json.loads(self.scripts[0])
        self.rows: list[dict[str, Any]] = self.data["rows"]
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the element and its attributes."""
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        """Note that what follows stands in no element of its own."""
        self._open = ""

    def handle_data(self, data: str) -> None:
        """Keep scripts and visible texts apart."""
        if self._open == "script":
            self.scripts.append(data)
        elif self._open != "style":
            self.texts.append(data)

    def addresses(self) -> list[str]:
        """Everything the page links to or loads."""
        return [
            value for _, attrs in self.elements for name, value in attrs.items() if name in {"src", "href"} and value
        ]


def row(line: int = 2, status: Status = Status.STORED, **more: Any) -> RowReport:
    """A row of SKU-<line>, stored unless told otherwise."""
    return RowReport(**{"line": line, "sku": f"SKU-{line}", "template": "product", "status": status, **more})


def write(folder: Path, rows: Sequence[RowReport], base: str = "", title: str = "products.csv") -> Sheet:
    """Write a sheet of `rows` into `folder` and read its first page."""
    ended = STARTED + timedelta(seconds=72)
    report = Report(title, "anycap", STARTED, ended, Decimal("1.5"), rows, ("sku",))
    write_contact_sheet(folder / "index.html", report, base)
    return Sheet(folder / "index.html")


def test_no_text_of_a_row_becomes_html(tmp_path: Path) -> None:
    """A row's texts stay inside the data, whole, whatever they hold."""
    plain = write(tmp_path, [row()])
    names = ("sku", "template", "prompt", "error", "error_kind", "model", "request_id")
    more: dict[str, Any] = dict.fromkeys(names, NASTY)
    nasty = write(tmp_path, [row(**more)])
    assert [tag for tag, _ in nasty.elements] == [tag for tag, _ in plain.elements]
    assert len(nasty.scripts) == 2
    assert not set("<>&\u2028\u2029") & set(nasty.scripts[0])
    shown = {"error_kind": "kind"}
    assert all(nasty.rows[0][shown.get(name, name)] == NASTY for name in names)


def test_the_title_is_escaped(tmp_path: Path) -> None:
    """A file name with markup in it is shown, not obeyed."""
    sheet = write(tmp_path, [row()], title="<b onclick=x>&.csv")
    assert "<b onclick=x>&.csv" in sheet.text
    assert not any("onclick" in attrs for _, attrs in sheet.elements)


def test_the_script_puts_no_data_in_as_html() -> None:
    """The page's own script has no way to turn text into markup or code."""
    source = (Path(__file__).parents[2] / "flows/batch/contact_sheet.html.jinja").read_text(encoding="utf-8")
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "| safe"):
        assert word not in source


def test_it_is_one_file_without_network(tmp_path: Path) -> None:
    """The page names nothing outside its own folder, and tells the browser to fetch nothing else."""
    sheet = write(tmp_path, [row(path="images/a.png")])
    assert {a for a in sheet.addresses() if not a.startswith("data:")} <= {"failures.csv", "manifest.csv"}
    policy = next(a["content"] for t, a in sheet.elements if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_the_header_tells_counts_money_and_time(tmp_path: Path) -> None:
    """The header has the images, what this run and all images cost, and how long it took."""
    rows = [
        row(2, price_usd=Decimal("0.039"), paid_calls=2, generator="proof/default"),
        row(3, Status.PUBLISHED, price_usd=Decimal("1.04"), price_is_estimated=True),
        row(4, Status.REJECTED),
        row(5, Status.PENDING),
    ]
    text = write(tmp_path, rows).text
    for part in ("Images 2 of 4", "run $1.50", "about $1.079", "1 min 12 s", "1 to look at", "1 proof", "1 paid for"):
        assert part in text, part


def test_failures_are_linked_only_while_there_are_some(tmp_path: Path) -> None:
    """The link to failures.csv stands where that file does."""
    assert "failures.csv" not in write(tmp_path, [row()]).addresses()
    assert "failures.csv" in write(tmp_path, [row(status=Status.LOST)]).addresses()


def test_a_reader_without_javascript_is_sent_to_the_manifest(tmp_path: Path) -> None:
    """Without JavaScript the page names manifest.csv."""
    assert "manifest.csv" in write(tmp_path, [row()]).addresses()


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        " javascript:alert(1)",
        "JaVaScRiPt:x",
        "data:text/html,x",
        "//x.y/a",
        "http://[",
        "file:///etc",
    ],
)
def test_only_web_addresses_become_links(tmp_path: Path, url: str) -> None:
    """An address that a browser would run, or read from the disk, is no link."""
    assert "url" not in write(tmp_path, [row(url=url)]).rows[0]


def test_web_addresses_become_links(tmp_path: Path) -> None:
    """Addresses of http and https are kept as they are."""
    urls = ["https://cdn.example.com/a.png?x=1&y=2", "http://127.0.0.1:8080/b.png"]
    sheet = write(tmp_path, [row(line, url=url) for line, url in enumerate(urls, 2)])
    assert [r["url"] for r in sheet.rows] == urls


def test_paths_are_encoded_and_stay_relative(tmp_path: Path) -> None:
    """Any name of a file becomes a relative address, never a scheme, a query or another host."""
    paths = ["images/p/한정판 #8 50%?.png", "javascript:alert(1)", "//evil.example/a.png"]
    rows = [row(line, path=path, original=path) for line, path in enumerate(paths, 2)]
    links = [r["image"] for r in write(tmp_path, rows).rows]
    assert links == [
        "./images/p/%ED%95%9C%EC%A0%95%ED%8C%90%20%238%2050%25%3F.png",
        "./javascript%3Aalert%281%29",
        ".///evil.example/a.png",
    ]
    deeper = write(tmp_path, rows, base="../../").rows[0]
    assert deeper["image"] == deeper["thumb"] == deeper["original"] == f"../../{links[0][2:]}"


def test_a_thumbnail_is_shown_and_the_image_linked(tmp_path: Path) -> None:
    """Where there is a thumbnail, the grid shows it and the link leads to the full image."""
    card = write(tmp_path, [row(path="images/a.png", thumbnail="thumbs/a.webp")]).rows[0]
    assert (card["thumb"], card["image"]) == ("./thumbs/a.webp", "./images/a.png")


def test_a_card_knows_what_it_marks(tmp_path: Path) -> None:
    """Estimates, second payments, proofs, free images and repeated lines are told apart."""
    twice: dict[str, Any] = {
        "paid_calls": 2,
        "price_usd": Decimal("0.078"),
        "price_is_estimated": True,
        "fingerprint": "f",
    }
    rows = [
        row(2, sku="A", generator="anycap/team", **twice),
        row(3, generator="proof", price_usd=Decimal(0)),
        row(4, sku="A", generator="anycap/team", **twice),
        row(5),
    ]
    first, proof, again, unknown = write(tmp_path, rows).rows
    assert (first["paid"], first["price"], first["estimated"], first.get("proof")) == (2, "$0.078", True, None)
    assert (proof["proof"], proof["price"]) == (True, "free")
    assert (again["same_as"], again.get("price")) == (2, None)
    assert unknown.get("price") is None


def test_a_long_batch_is_cut_into_pages(tmp_path: Path) -> None:
    """Above the page's size there are further pages, linked with one another, and each row is on one of them."""
    rows = [row(line) for line in range(2, 2 * PAGE_ROWS + 3)]
    first = write(tmp_path, rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index-2.html", "index-3.html", "index.html"]
    others = [Sheet(tmp_path / f"index-{number}.html") for number in (2, 3)]
    assert [r["line"] for s in (first, *others) for r in s.rows] == [r.line for r in rows]
    assert {"index-2.html", "index-3.html"} <= set(first.addresses())
    assert {"index.html", "index-3.html"} <= set(others[0].addresses())
    assert f"of {len(rows):,}" in others[1].text


def test_pages_of_a_longer_sheet_are_removed(tmp_path: Path) -> None:
    """A shorter batch leaves no page of a longer one behind, and no other file is touched."""
    write(tmp_path, [row(line) for line in range(2, PAGE_ROWS + 3)])
    others = ["index-old.html", "index-02.html", "my-index-2.html"]
    for name in others:
        (tmp_path / name).touch()
    write(tmp_path, [row()])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "index.html"])


def test_an_empty_batch_has_a_sheet(tmp_path: Path) -> None:
    """A batch without rows is a page that says so."""
    sheet = write(tmp_path, [])
    assert sheet.rows == []
    assert "0 of 0" in sheet.text


def test_every_status_is_explained_and_coloured(tmp_path: Path) -> None:
    """The page has a meaning and a colour of its own, light and dark, for every state a row can have."""
    sheet = write(tmp_path, [row()])
    assert list(MEANINGS) == list(Status)
    assert sheet.data["meanings"] == {status.value: meaning for status, meaning in MEANINGS.items()}
    for status in Status:
        assert sheet.source.count(f"--{status}: #") == 2
        assert f'[data-status="{status}"]' in sheet.source


@pytest.mark.parametrize(
    ("amount", "text"),
    [("12.4", "$12.40"), ("0.039", "$0.039"), ("0", "$0.00"), ("1234.5678", "$1,234.5678"), ("1E+1", "$10.00")],
)
def test_money_reads_as_money(amount: str, text: str) -> None:
    """Amounts have two decimals, and up to four where they need them."""
    assert dollars(Decimal(amount)) == text
