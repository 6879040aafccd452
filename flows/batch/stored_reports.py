"""An output's reports in the store: results.csv, manifest.csv, failures.csv and the contact sheet.

They are replaced at each run, in a folder of the output's own, so that two outputs can share a bucket.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flows.batch.contact_sheet import write_contact_sheet
from flows.batch.files import slug
from flows.batch.report import Report
from flows.batch.run import BatchRun
from flows.batch.uploads import Shelf

CSV_FILES = ("results.csv", "manifest.csv", "failures.csv")


@dataclass(frozen=True, slots=True)
class StoreLinks:
    """The contact sheet's links to pictures in a store. `until` says when they end; empty where they don't."""

    shelf: Shelf
    paths: frozenset[str]
    until: str

    def of(self, path: str) -> str:
        """A link to the picture of a path; empty where the store doesn't have it."""
        return self.shelf.link(path) if path in self.paths else ""


def folder_of(output: Path) -> str:
    """Where an output's reports are in its store: "reports/<its name>-<six hex of its path>"."""
    mark = hashlib.sha256(str(output).encode()).hexdigest()[:6]
    return f"reports/{slug(output.name) or 'output'}-{mark}"


def upload_reports(run: BatchRun) -> str:
    """Store the output's reports as they are now; gives the address of its contact sheet, signed where it needs to be.

    Raises: a leaf of DeliveryError; OSError.
    """
    shelf, report = run.shelf, run.last_report
    if shelf is None or report is None:
        return ""
    folder = folder_of(shelf.root)
    store = shelf.store
    for name in CSV_FILES:
        path = shelf.root / name
        # without failures an empty list of them: what an earlier run has stored there is not true any more
        data = path.read_bytes() if path.exists() else b""
        store.put(store.key(f"{folder}/{name}"), data, "text/csv; charset=utf-8")
    with tempfile.TemporaryDirectory(prefix="rowshot-") as scratch:
        sheet = Path(scratch) / "index.html"
        write_contact_sheet(sheet, report, links=_links(shelf, report))
        for page in sorted(sheet.parent.glob("*.html")):
            store.put(store.key(f"{folder}/{page.name}"), page.read_bytes(), "text/html; charset=utf-8")
    return shelf.link(f"{folder}/index.html")


def _links(shelf: Shelf, report: Report) -> StoreLinks:
    rows = (row for row in report.rows if row.url and row.path and row.url == shelf.url(row.path))
    paths = frozenset(path for row in rows for path in (row.path, row.thumbnail) if path)
    until = "" if shelf.addresses else f"{shelf.store.signed_until():%Y-%m-%d %H:%M} UTC"
    return StoreLinks(shelf, paths, until)
