"""Where a batch's CSV comes from: a path, s3://bucket/key, an https:// address, or rows that were pasted.

What was fetched is kept in the output folder by what it holds, so that a run which goes on tomorrow can read the same
bytes. Reports and the ledger name the source and not the copy.
"""

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from flows.batch.fetching import Bounds, CsvNotFetched, Page, Resolve, fetch, look_up, shown, too_large
from flows.batch.files import slug
from flows.batch.problems import NotStarted, Problem
from flows.batch.settings import BatchSettings

PASTED = "pasted rows"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
SHEET = re.compile(r"/spreadsheets/d/(e/)?([A-Za-z0-9_-]+)(/[a-z]*)?")
NO_TABLE = re.compile(r"(image|audio|video|font)/|application/(pdf|json|zip|javascript)$")
PUBLISH = (
    "In Google Sheets: File, Share, Publish to web, choose the sheet and 'Comma-separated values (.csv)', and give "
    "the address that it shows."
)
GZIP = b"\x1f\x8b"
LONGEST_NAME = 100

ReadObject = Callable[[str, str, Bounds], bytes]


@dataclass(frozen=True, slots=True)
class CsvSource:
    """A batch's CSV: a file of this machine, or bytes that were fetched or pasted. `name` is what people call it."""

    name: str
    path: Path
    content: bytes | None = None

    @classmethod
    def local(cls, settings: BatchSettings) -> Self:
        """The file, or the rows, that the settings name without anything to be fetched."""
        name = source_name(settings.csv, settings.pasted)
        if settings.pasted.strip():
            return cls(name, Path(name), settings.pasted.encode())
        return cls(name, Path(settings.csv.strip()).expanduser())

    def keep(self, output: Path, run: str) -> None:
        """Keep what was fetched beside the output, for this run to find should it begin again. Raises: NotStarted."""
        if self.content is None:
            return
        digest = hashlib.sha256(self.content).hexdigest()[:12]
        copy = output / "sources" / f"{digest}-{slug(self.path.stem) or 'rows'}{self.path.suffix or '.csv'}"
        try:
            _write(copy, self.content)
            _write(_mark(output, run), copy.name.encode())
        except OSError as error:
            told = f"The CSV can't be kept in {copy.parent}: {error.strerror}."
            raise NotStarted([Problem(told, "Mend the folder's rights or choose another output.")]) from error

    @classmethod
    def kept(cls, settings: BatchSettings, output: Path, run: str) -> Self | None:
        """What this run has kept when it began first; None where it began never.

        Raises: NotStarted where it can't be had: today's rows may be others than those it began with.
        """
        copy = output / "sources"
        try:
            copy = copy / Path(_mark(output, run).read_text(encoding="utf-8")).name
            content = copy.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            what = f"The CSV that this run began with, {copy}, can't be read: {error.strerror}."
            raise NotStarted([Problem(what, "Mend its rights, or start a new run.")]) from error
        if not copy.name.startswith(hashlib.sha256(content).hexdigest()[:12]):
            what = f"The CSV that this run began with, {copy}, is not what it was."
            raise NotStarted([Problem(what, "Start a new run, which reads the CSV anew.")])
        name = source_name(settings.csv, settings.pasted)
        return cls(name, Path(name), content)


def is_remote(csv: str) -> bool:
    """Whether this is an address and no path."""
    return SCHEME.match(csv.strip()) is not None


def source_name(csv: str, pasted: str = "") -> str:
    """What people call this CSV: its base name, or that rows were pasted. It holds no password and no query."""
    if pasted.strip():
        return PASTED
    csv = csv.strip()
    if not is_remote(csv):
        return Path(csv).name
    try:
        parts, sheet = urlsplit(csv), _google_sheet(csv)
    except ValueError:  # what is wrong with it is said once it is to be fetched
        return "fetched.csv"
    if sheet:
        tab = parse_qs(f"{parts.query}&{parts.fragment}").get("gid", ["0"])[0]
        return f"google-sheet-{sheet[2][-8:]}" + ("" if tab == "0" else f"-{slug(tab)}")
    last = unquote(parts.path.rstrip("/").rpartition("/")[2])
    named = last if Path(last).suffix or parts.scheme == "s3" else f"{parts.hostname or ''} {last}".strip()
    return "".join(c for c in named if c.isprintable() and c not in "/\\")[:LONGEST_NAME] or "fetched.csv"


def fetch_source(
    settings: BatchSettings, read_object: ReadObject, bounds: Bounds | None = None, resolve: Resolve = look_up
) -> CsvSource:
    """Have the CSV that the settings name. `read_object` reads from a bucket. Raises: NotStarted."""
    csv = settings.csv.strip()
    if settings.pasted.strip() or not is_remote(csv):
        return CsvSource.local(settings)
    bounds = bounds or Bounds.of_environment()
    name = source_name(csv)
    try:
        if csv.startswith("s3://"):
            content = read_object(*_bucket_and_key(csv), bounds)
        else:
            content = _of_page(fetch(_direct(csv), bounds, resolve), csv)
        content = unzipped(content, name, bounds.largest_bytes)
    except CsvNotFetched as error:
        raise NotStarted([Problem(error.what, error.mend, whole_file=True)]) from error
    return CsvSource(name, Path(name.removesuffix(".gz")), content)


def unzipped(content: bytes, name: str, most_bytes: int) -> bytes:
    """The content, unpacked where it is gzipped. Raises: CsvNotFetched where that is too large or damaged."""
    if not content.startswith(GZIP):
        return content
    try:
        with gzip.GzipFile(fileobj=BytesIO(content)) as file:
            found = file.read(most_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CsvNotFetched(f"{name} is gzipped and damaged ({error}).", "Compress it again.") from error
    if len(found) > most_bytes:
        raise too_large(f"{name}, unpacked,", most_bytes)
    return found


def _of_page(page: Page, asked: str) -> bytes:
    start = page.content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    is_page = start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<script"))
    if is_page or page.content_type in {"text/html", "application/xhtml+xml"}:
        if _google_sheet(asked):
            raise CsvNotFetched("Google shows a page for this sheet, and no CSV: it is not open to everybody.", PUBLISH)
        raise CsvNotFetched(
            f"{shown(asked)} is a web page, not a CSV.",
            "It may be a page about the file, or a login: give the address that downloads the file itself.",
        )
    if NO_TABLE.match(page.content_type):
        raise CsvNotFetched(f"{shown(asked)} is {page.content_type}, not a CSV.", "Give the address of the CSV.")
    return page.content


def _google_sheet(csv: str) -> re.Match[str] | None:
    parts = urlsplit(csv)
    return SHEET.match(parts.path) if parts.hostname == "docs.google.com" else None


def _direct(csv: str) -> str:
    """The address of the CSV itself, where this is the page of a Google Sheet; else the same."""
    try:
        sheet = _google_sheet(csv)
    except ValueError:
        return csv
    if sheet is None:
        return csv
    parts = urlsplit(csv)
    told = parse_qs(f"{parts.query}&{parts.fragment}")
    tab = {"gid": told["gid"][0]} if "gid" in told else {}
    published, identity, _ = sheet.groups()
    if published:
        single = {"single": "true"} if tab else {}
        path, query = f"e/{identity}/pub", {**tab, **single, "output": "csv"}
    else:
        path, query = f"{identity}/export", {"format": "csv", **tab}
    return f"https://docs.google.com/spreadsheets/d/{path}?{urlencode(query)}"


def _bucket_and_key(csv: str) -> tuple[str, str]:
    bucket, _, key = csv.partition("://")[2].partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,62}", bucket) or not key or key.endswith("/"):
        raise CsvNotFetched(f"{csv!r} names no file in a bucket.", "Write s3://bucket/folder/products.csv.")
    return bucket, key


def _mark(output: Path, run: str) -> Path:
    return output / ".rowshot" / "sources" / (slug(run) or "run")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)
