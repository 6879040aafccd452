"""The contact sheet: a batch as a page to look at, in one HTML file that needs no network."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flows.batch.files import replacing
from flows.batch.prices import dollars
from flows.batch.report_totals import PAGE_ROWS, PageRows, digest
from flows.batch.row_report import RowReport, Status
from flows.batch.words import duration

if TYPE_CHECKING:
    from flows.batch.report import Report

MEANINGS = {
    Status.PUBLISHED: "In the store, and the shop shows it.",
    Status.STORED: "Bought, and delivered to its place.",
    Status.BOUGHT: "Bought and safe; a rerun delivers it, at no cost.",
    Status.PENDING: "Not bought yet; a rerun takes it up.",
    Status.FAILED: "No image came of it; a rerun tries again.",
    Status.REJECTED: "The provider refused it; change the row, or use --retry-rejected.",
    Status.INVALID: "The row can't be used as it is; nothing was bought.",
    Status.UNKNOWN: "The call got no answer and may have been charged; --retry-unknown buys it again.",
    Status.LOST: "Bought, and its file is nowhere to be found; --rebuy-lost buys it again.",
}

# No text may end the script element it stands in, nor its line for an older parser.
_SCRIPT_ESCAPES = {letter: f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}

_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class _Page:
    """One file of the sheet, and what it holds."""

    name: str
    number: int
    first_line: int
    last_line: int
    failures: int


class Links(Protocol):
    """Links to pictures that are elsewhere than beside the sheet."""

    @property
    def until(self) -> str:
        """When they end, for people; empty where they don't."""

    def of(self, path: str) -> str:
        """A link to the picture of a path in the output folder; empty where there is none."""


def write_contact_sheet(path: Path, report: "Report", base: str = "", links: Links | None = None) -> None:
    """Write the sheet to `path`, and above 5,000 rows its further pages beside it (index-2.html and on).

    `base` leads from the sheet's folder to the output folder, where the rows' paths begin; `links`, where they are
    given, lead elsewhere instead. Pages of a longer sheet that
    stood here before are removed. Raises OSError if a file can't be written.
    """
    pages = [_page(path, number, rows) for number, rows in enumerate(report.totals.pages or [PageRows(0, 0)], start=1)]
    template = _PAGES.get_template("contact_sheet.html.jinja")
    shared = {"report": report, "pages": pages, "summary": _summary(report), "meanings": MEANINGS}
    shared["links_end"] = links.until if links else ""
    rows = _with_earlier_lines(report.rows)
    for page in pages:
        cards = [_card(row, base, same_as, links) for row, same_as in islice(rows, PAGE_ROWS)]
        data = _script_json({"rows": cards, "meanings": MEANINGS})
        with replacing(path.with_name(page.name)) as beside:
            # Half a surrogate pair, which a provider's message may hold, is spelt out: in JSON it then is an escape.
            text = template.render(shared, page=page, data=data)
            beside.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    _remove_further_pages(path, len(pages))


def _page(path: Path, number: int, rows: PageRows) -> _Page:
    name = path.name if number == 1 else f"{path.stem}-{number}{path.suffix}"
    return _Page(name, number, rows.first_line, rows.last_line, rows.failures)


def _remove_further_pages(path: Path, kept: int) -> None:
    name = re.compile(rf"{re.escape(path.stem)}-([1-9]\d*){re.escape(path.suffix)}")
    for other in path.parent.iterdir():
        match = name.fullmatch(other.name)
        if match and int(match[1]) > kept:
            other.unlink(missing_ok=True)


def _summary(report: "Report") -> dict[str, object]:
    started, ended = report.started.astimezone(), report.ended.astimezone()
    same_day = started.date() == ended.date()
    totals = report.totals
    about = "about " if totals.price_is_estimated else ""
    return {
        "rows": totals.rows,
        "images": totals.images,
        "failures": sum(count for status, count in totals.counts.items() if status.is_failure),
        "spent": dollars(report.spent_usd),
        "price": f"{about}{dollars(totals.price_usd)}",
        "proofs": totals.proofs,
        "paid_more_than_once": totals.paid_more_than_once,
        "took": duration((ended - started).total_seconds()),
        "started": f"{started:%Y-%m-%d %H:%M}",
        "ended": f"{ended:%H:%M %Z}" if same_day else f"{ended:%Y-%m-%d %H:%M %Z}",
    }


def _with_earlier_lines(rows: Iterable[RowReport]) -> Iterator[tuple[RowReport, int]]:
    """Each row, with the line of the row that has its image first where it shares one; 0 where it doesn't."""
    first: dict[bytes, int] = {}
    for row in rows:
        line = first.setdefault(digest(row.sku, row.template, row.fingerprint), row.line) if row.fingerprint else 0
        yield row, line if line != row.line else 0


def _card(row: RowReport, base: str, same_as: int, links: Links | None) -> dict[str, object]:
    """What the page's script knows of a row; what is empty is left out, for the script takes missing as empty."""
    card: dict[str, object] = {
        "line": row.line,
        "sku": row.sku,
        "template": row.template,
        "status": row.status.value,
        "failure": row.status.is_failure,
        "proof": row.is_proof,
        "thumb": links.of(row.thumbnail or row.path) if links else _link(base, row.thumbnail or row.path),
        "image": links.of(row.path) if links else _link(base, row.path),
        "original": "" if links else _link(base, row.original),
        "path": row.path,
        "url": _web_address(row.url),
        "model": row.model,
        "generator": row.generator,
        "price": "" if row.price_usd is None or same_as else dollars(row.price_usd) if row.price_usd else "free",
        "estimated": row.price_is_estimated,
        "credits": "" if row.credits_used is None else f"{row.credits_used:f}",
        "prompt": row.prompt,
        "attempts": row.attempts,
        "paid": row.paid_calls,
        "same_as": same_as,
        "request_id": row.request_id,
        "fingerprint": row.fingerprint,
        "seconds": "" if row.seconds is None else f"{row.seconds:.1f} s",
        "pixels": f"{row.width} × {row.height}" if row.width and row.height else "",
        "kind": row.error_kind,
        "error": row.error,
    }
    return {name: value for name, value in card.items() if value}


def _link(base: str, path: str) -> str:
    """`path` as a relative address; the colon is encoded with the rest, so that no name reads as a scheme."""
    return f"{base or './'}{quote(path, safe='/', errors='backslashreplace')}" if path else ""


def _web_address(url: str) -> str:
    """`url` if a browser may follow it, else nothing: a javascript: address from outside must never be a link."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme in {"http", "https"} and parts.netloc else ""


def _script_json(data: object) -> Markup:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for letter, escape in _SCRIPT_ESCAPES.items():
        text = text.replace(letter, escape)
    # Every letter that means something to HTML is gone now, and JSON had them in strings only.
    return Markup(text)  # noqa: S704
