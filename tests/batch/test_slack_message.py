import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from slack_server import invalid

from flows.batch.row_report import RowReport, Status
from flows.batch.slack_message import Links, Picture, end_message, is_public, start_message, without_pictures
from flows.batch.summary import Summary

NASTY = "<!channel> & <http://evil.example|click> *bold*"


def failed(number: int, kind: str, error: str = "No picture came.", sku: str = "") -> RowReport:
    """A row that failed."""
    return RowReport(number, sku or f"KR-{number}", "product", Status.FAILED, error_kind=kind, error=error)


def ended(*failures: RowReport, images: int = 3, stopped: str = "") -> Summary:
    """How a run ended."""
    return Summary(
        counts={Status.PUBLISHED: images, Status.FAILED: len(failures)} if failures else {Status.PUBLISHED: images},
        spent_usd=Decimal("1.25"),
        in_doubt_usd=Decimal(0),
        bought=images,
        seconds=75,
        failures=failures,
        contact_sheet=Path("output/index.html"),
        failures_csv=None,
        stopped=stopped,
    )


def test_the_end_tells_what_matters() -> None:
    """Counts, cost, time, failures by kind, links and pictures are in the message, and its fallback text sums it up."""
    failures = (failed(2, "ContentRejected"), failed(7, "ContentRejected"), failed(9, "NoImage"))
    links = Links("https://prefect.example.com/runs/1?a=1&b=2", "https://cdn.example.com/sheet.html")
    message = end_message("products.csv", ended(*failures), links, [Picture("KR-1", "https://cdn.example.com/1.png")])
    text = json.dumps(message, ensure_ascii=False)
    for told in ("products.csv: done, with failures", "$1.25", "1 min 15 s", "2 × ContentRejected, e.g. line 2, KR-2"):
        assert told in text
    assert "<https://prefect.example.com/runs/1?a=1&amp;b=2|Run>" in text
    assert "<https://cdn.example.com/sheet.html|Contact sheet>" in text
    assert {"type": "image", "image_url": "https://cdn.example.com/1.png", "alt_text": "KR-1"} in message["blocks"]
    assert message["text"].startswith("products.csv: done, with failures. 3 of 6 rows have their image")
    assert invalid(message) == ""
    assert [block["type"] for block in without_pictures(message)["blocks"]].count("image") == 0


@pytest.mark.parametrize("count", [0, 1, 500])
def test_any_number_of_failures_fits(count: int) -> None:
    """500 kinds of failures with long texts full of signs that grow when escaped stay within Slack's limits."""
    failures = tuple(failed(n, f"Kind{n}&" * 40, NASTY * 50, sku="<&>" * 40) for n in range(count))
    pictures = [Picture("&" * 500, f"https://cdn.example.com/{n}.png") for n in range(500)]
    links = Links("https://prefect.example.com/" + "<" * 5000, "C:\\" + "`x" * 4000)
    message = end_message("&" * 400, ended(*failures, stopped=NASTY * 200), links, pictures)
    assert invalid(message) == ""
    assert sum(block["type"] == "image" for block in message["blocks"]) == 3
    if count > 1:
        assert "more kinds, in failures.csv" in json.dumps(message)


def test_only_the_commonest_kinds_are_told() -> None:
    """Ten kinds of failures, those with the most rows, and how many there are besides."""
    failures = [failed(number, f"Kind{kind:02}") for kind in range(30) for number in range(kind + 1)]
    text = json.dumps(end_message("products.csv", ended(*failures), Links()), ensure_ascii=False)
    assert "*465 rows failed*\\n• 30 × Kind29, e.g. line 0, KR-0: No picture came." in text
    assert "• 21 × Kind20" in text
    assert "Kind19" not in text
    assert "… and 20 more kinds, in failures.csv" in text


def test_what_was_not_handed_on_is_told() -> None:
    """Rows that are bought and not published, and what a person must mend for that, are no success."""
    summary = replace(ended(), undelivered=2, delivery_stopped="The token is refused.", notes=("&" * 5000,) * 60)
    message = end_message("products.csv", summary, Links())
    text = json.dumps(message)
    assert message["text"].startswith("products.csv: ended early")
    assert "*Handing on ended early:* The token is refused." in text
    assert "*Not handed on yet*\\n2" in text
    assert invalid(message) == ""


def test_nothing_in_a_row_mentions_anybody() -> None:
    """A sku, an error or a file's name that holds Slack's own signs is shown as it is, and calls nobody."""
    message = end_message(NASTY, ended(failed(2, NASTY, NASTY, sku=NASTY), stopped=NASTY), Links("", NASTY))
    text = json.dumps(message, ensure_ascii=False)
    assert "<!channel>" not in text
    assert "<http" not in text
    assert "&lt;!channel&gt; &amp; " in text


@pytest.mark.parametrize(
    ("images", "cost", "told"),
    [
        (0, Decimal(0), "5 rows; nothing to buy."),
        (1, Decimal(0), "5 rows; 1 image to buy, for free."),
        (1200, Decimal("12.4"), "5 rows; 1,200 images to buy, for about $12.40."),
        (2, None, "5 rows; 2 images to buy, at a price that isn't known."),
    ],
)
def test_the_start_tells_the_plan(images: int, cost: Decimal | None, told: str) -> None:
    """Rows, images and cost, as the plan has them."""
    message = start_message("products.csv", 5, images, cost, "https://prefect.example.com/runs/1")
    assert message["text"] == f"products.csv: begun. {told}"
    assert "<https://prefect.example.com/runs/1|Run>" in json.dumps(message)
    assert invalid(message) == ""


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://cdn.example.com/a.png", True),
        ("https://8.8.8.8/a.png", True),
        ("http://cdn.example.com/a.png", False),
        ("https://localhost/a.png", False),
        ("https://127.0.0.1:9000/a.png", False),
        ("https://192.168.1.4/a.png", False),
        ("https://nas.local/a.png", False),
        ("https://[::1]/a.png", False),
        ("https://[broken/a.png", False),
        ("", False),
    ],
)
def test_only_public_addresses_are_shown(url: str, public: bool) -> None:
    """Slack fetches pictures itself, so an address that only we can reach would have the message refused."""
    assert is_public(url) is public
