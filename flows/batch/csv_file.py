"""Reading the spreadsheet: any of the files that people call a CSV becomes rows of text, each with its line.

pandas reads the cells. As it tells no line and stops at the first broken row, the records are scanned once before: the
scan finds the line on which each begins, sets the broken ones aside, and pandas gets the rest.
"""

import csv
import gzip
import inspect
import io
import re
import zlib
from array import array
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from flows.batch.problems import NotStarted, Problem

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
SAVE_AS_CSV = "In Excel choose Save As, 'CSV UTF-8 (Comma delimited)', and give that file."
_HEADER = re.compile(r'(?:[^\S\r\n]*[\r\n]+)*((?:"[^"]*"|[^"\r\n])*)')  # blank lines, then one record
_COMMON_LEADS = range(0xA1, 0xC9)  # CP949's signs and the 2,350 usual syllables; rare ones and hanja are elsewhere
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_MOST_LINES_REREAD = 2_000_000  # a bound on time: each open quote has the lines after it read once more


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no row of the table: ragged, or with a broken quote. `cells`: all of its own, as far as known."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """The rows of one file, cells as they stand there.

    `frame` is all text, with `columns` as its columns and an index from 0; row i begins on the physical line
    `lines[i]`, counted from 1. `bad_rows` are not in it; `problems` has one for each of them.
    """

    columns: tuple[str, ...]
    frame: pd.DataFrame
    lines: Sequence[int]
    problems: tuple[Problem, ...]
    bad_rows: tuple[BadRow, ...]
    encoding: str
    delimiter: str


@dataclass(frozen=True, slots=True)
class _Record:
    """One record of the file: its lines, by index from 0 with `end` behind the last, and why it is no row, if so."""

    start: int
    end: int
    cells: list[str]
    what: str = ""
    mend: str = ""


def read_csv(path: Path, content: bytes | None = None) -> Sheet:
    """Read a spreadsheet saved as text: UTF-8, CP949 or UTF-16; commas, semicolons or tabs; gzipped or not.

    `content` is what it holds where that was fetched or pasted, and `path` then only its name. Blank lines
    and rows whose cells are all empty are passed over. Broken rows go to `bad_rows` and `problems`.
    Raises: NotStarted where the file as a whole can't be read, with all that is known to be wrong with it.
    """
    text, encoding = _decode(_read_bytes(path, content), path)
    if not text.strip():
        raise _no_file(f"{path} is empty.", "Its first line must name the columns, and each line after it is an image.")
    delimiter = _delimiter(text)
    # Bytes, because they split at \n, \r and \r\n alone, where str takes \x0b, \x1c, U+2028 and others for line ends.
    content = text.encode()
    del text
    lines = content.splitlines(keepends=True)
    del content
    return _read_table(path, lines, encoding, delimiter)


def _read_table(path: Path, lines: list[bytes], encoding: str, delimiter: str) -> Sheet:
    records = (record for record in _records(lines, delimiter) if record.what or not _is_blank(record.cells))
    header = next(records, None)
    if header is None:
        raise _no_file(f"{path} has no header: all its cells are empty.", "Let its first line name the columns.")
    columns = tuple(name.strip() for name in header.cells)
    if header.what:
        what = f"The header is broken. {header.what}"
        raise NotStarted([Problem(what, header.mend, line=header.start + 1, whole_file=True)])
    problems = _check_header(header, columns)
    bad_rows: list[BadRow] = []
    starts, first_cells, spans = array("l"), list[str](), list[tuple[int, int]]()
    for record in records:
        broken = record if record.what else _ragged(record, len(columns), delimiter)
        if broken:
            line = record.start + 1
            problems.append(Problem(broken.what, broken.mend, line=line))
            bad_rows.append(BadRow(line, tuple(record.cells)))
            continue
        starts.append(record.start + 1)
        first_cells.append(record.cells[0])
        if spans and spans[-1][1] == record.start:
            spans[-1] = (spans[-1][0], record.end)
        else:
            spans.append((record.start, record.end))
    if not starts and not bad_rows:
        problems.append(
            Problem(f"{path} has a header and no rows.", "Add a line for each image you want.", whole_file=True)
        )
    if any(problem.whole_file for problem in problems):
        raise NotStarted(problems)
    frame = _frame(b"".join(b"".join(lines[start:end]) for start, end in spans), columns, delimiter)
    if frame[columns[0]].tolist() != first_cells:
        raise RuntimeError(f"pandas and the scan of {path} disagree about its rows. Please report this, with the file.")
    return Sheet(columns, frame, starts, tuple(problems), tuple(bad_rows), encoding, delimiter)


def _frame(content: bytes, columns: tuple[str, ...], delimiter: str) -> pd.DataFrame:
    if not content:
        return pd.DataFrame({column: pd.Series([], dtype="str") for column in columns})
    return pd.read_csv(
        io.BytesIO(content),
        sep=delimiter,
        names=list(columns),
        header=None,
        index_col=False,
        dtype=str,
        na_filter=False,
        keep_default_na=False,
        skip_blank_lines=False,
    )


def _read_bytes(path: Path, content: bytes | None) -> bytes:
    try:
        content = path.read_bytes() if content is None else content
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise _no_file(f"There is no file {path}.", "Check the name and the folder.") from None
    except IsADirectoryError:
        raise _no_file(f"{path} is a folder.", "Name the CSV file in it.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _no_file(f"{path} is gzipped and damaged ({error}).", "Compress or fetch it again.") from error
    except (OSError, ValueError) as error:
        raise _no_file(f"{path} can't be read ({error}).", "Check its name and your rights to it.") from error
    if content.startswith(b"PK\x03\x04"):
        kind = "an Excel workbook" if b"xl/" in content else "a zip archive"
        raise _no_file(f"{path} is {kind}, not a CSV.", SAVE_AS_CSV)
    if content.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        raise _no_file(f"{path} is an Excel workbook (.xls, or with a password), not a CSV.", SAVE_AS_CSV)
    return content


def _decode(content: bytes, path: Path) -> tuple[str, str]:
    """Give the text without its byte order mark, and the name of its encoding."""
    candidates = ["utf-16"] if content.startswith(_UTF16_MARKS) else ["utf-8-sig", "cp949"]
    errors = []
    for encoding in candidates:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            errors.append(error)
            continue
        if encoding != "cp949" or _is_likely_korean(text):
            return text, encoding.removesuffix("-sig")
    furthest = max(errors, key=lambda error: error.start)
    before = content[: furthest.start].decode(furthest.encoding, "ignore")
    line = len(re.findall(r"\r\n|\r|\n", before)) + 1
    expected = "UTF-16, as it begins," if candidates == ["utf-16"] else "UTF-8 or CP949"
    what = f"{path} is text in {expected} only up to byte {furthest.start}; the next one does not fit."
    raise NotStarted([Problem(what, f"Mend the character there, or: {SAVE_AS_CSV}", line=line, whole_file=True)])


def _is_likely_korean(text: str) -> bool:
    """Whether text decoded as CP949 was meant so. Western single-byte text may decode too, but to rare characters."""
    foreign = [character.encode("cp949") for character in set(text) if character > "\x7f"]
    common = sum(lead in _COMMON_LEADS and trail >= _COMMON_LEADS.start for lead, trail in foreign)
    return common * 2 > len(foreign)


def _delimiter(text: str) -> str:
    """Find the delimiter that occurs most often in the header, outside quotes; a comma where there is none."""
    header = _HEADER.match(text)
    names = re.sub(r'"[^"]*"', "", header[1]) if header else ""
    return max(DELIMITERS, key=names.count)


def _records(lines: list[bytes], delimiter: str) -> Iterator[_Record]:
    """Every record of the file. After a broken one the scan goes on at the next physical line.

    So one open quote costs one row, and not all that follow it.
    """
    start = reread = 0
    while start < len(lines):
        base = start
        source = _texts(lines, base)
        reader = csv.reader(source, delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                end = base + reader.line_num
                yield _Record(start, end, cells)
                start = end
        except csv.Error:
            end = base + reader.line_num
            ran_out = inspect.getgeneratorstate(source) == inspect.GEN_CLOSED
        else:
            return
        yield _broken_quote(lines, start, end, delimiter, ran_out=ran_out)
        reread += end - start - 1
        if reread > _MOST_LINES_REREAD:
            raise _no_file("Too many quotes in this file are opened and never closed.", "Save it as CSV once more.")
        start += 1


def _texts(lines: list[bytes], start: int) -> Generator[str, None, None]:
    for index in range(start, len(lines)):
        yield lines[index].decode()


def _broken_quote(lines: list[bytes], start: int, end: int, delimiter: str, *, ran_out: bool) -> _Record:
    line = lines[start].decode().rstrip("\r\n")
    if len(line) > csv.field_size_limit():
        what = f"The row holds a cell of more than {csv.field_size_limit():,} characters."
        return _Record(start, end, [], what, "Shorten it.")
    cells = next(csv.reader([line], delimiter=delimiter), [])
    if ran_out or end - start > 1:
        what = "A quote is opened in this row and not closed where the cell ends."
        mend = 'Close it; a quote that belongs to the text is written twice ("").'
    else:
        what = "There is text after a closing quote."
        mend = 'Put quotes around the whole cell, and write each quote inside it twice ("").'
    return _Record(start, end, cells, what, mend)


def _ragged(record: _Record, width: int, delimiter: str) -> _Record | None:
    """Say what is wrong with a record that has another number of cells than the header, or no text in one."""
    name = DELIMITERS[delimiter]
    count = len(record.cells)
    if count == width:
        if not any("\0" in cell for cell in record.cells):
            return None
        what, mend = "The row holds a NUL character, so it is not all text.", SAVE_AS_CSV
    else:
        what = f"The row has {count} cell{'s'[: count != 1]} and the header has {width}."
        if record.end - record.start > 1:
            mend = f"It runs on to line {record.end}: look for a quote that is not closed, or a missing {name}."
        elif count > width:
            mend = f'Put quotes around a cell that holds a {name} ("a{delimiter} b"), or take out what is too much.'
        else:
            mend = f"Add what is missing; an empty cell still needs its {name}."
    return _Record(record.start, record.end, record.cells, what, mend)


def _check_header(header: _Record, columns: tuple[str, ...]) -> list[Problem]:
    line = header.start + 1
    problems = []
    for number, name in enumerate(columns, 1):
        if not name:
            what, mend = f"Column {number} of {len(columns)} has no name.", "Name it, or delete the column."
        elif "\0" in name:
            what, mend = f"The name of column {number} holds a NUL character, so it is not text.", SAVE_AS_CSV
        elif name in columns[: number - 1]:
            what = f"Columns {columns.index(name) + 1} and {number} have the same name."
            mend = "Rename one of them, or delete it."
        else:
            continue
        problems.append(Problem(what, mend, line=line, column=name, whole_file=True))
    return problems


def _is_blank(cells: list[str]) -> bool:
    return not cells or not (cells[0] or any(cells)) or not "".join(cells).strip()


def _no_file(what: str, mend: str) -> NotStarted:
    return NotStarted([Problem(what, mend, whole_file=True)])
