import csv
import gzip
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from flows.batch.csv_file import Sheet, read_csv
from flows.batch.problems import NotStarted, Problem


def read(tmp_path: Path, content: bytes | str, name: str = "in.csv") -> Sheet:
    """Read this content from a file."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_csv(path)


def refused(tmp_path: Path, content: bytes | str, name: str = "in.csv") -> tuple[Problem, ...]:
    """Read this content from a file that can't be used, and give what is said about it."""
    with pytest.raises(NotStarted) as caught:
        read(tmp_path, content, name)
    assert all(problem.mend for problem in caught.value.problems)
    return caught.value.problems


def cells(sheet: Sheet) -> list[list[str]]:
    """All cells, a list a row."""
    return [list(row) for row in sheet.frame.itertuples(index=False, name=None)]


def lines(found: Sheet | Sequence[Problem]) -> list[int]:
    """The lines of rows or of problems."""
    return list(found.lines) if isinstance(found, Sheet) else [problem.line for problem in found]


KOREAN = "sku,name,color\n00123,핸드드립 머그,코랄 레드\n00124,텀블러,검정\n"


def test_cells_stay_the_text_they_are(tmp_path: Path) -> None:
    """Numbers, NA, null, leading zeros and spaces come out as they stand in the file."""
    row = ["00123", "1e5", "NA", "null", " spaced ", "TRUE", "1,5", "2026-01-02", ""]
    text = io.StringIO()
    csv.writer(text).writerows([list("abcdefghi"), row, ["1.0", *row[1:]]])
    assert cells(read(tmp_path, text.getvalue())) == [row, ["1.0", *row[1:]]]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("cp949", "cp949"), ("utf-16", "utf-16")],
)
def test_encodings_that_spreadsheets_save(tmp_path: Path, encoding: str, expected: str) -> None:
    """UTF-8 with and without a mark, CP949 and UTF-16 give the same text, and no mark ends up in the first name."""
    sheet = read(tmp_path, KOREAN.encode(encoding))
    assert sheet.columns == ("sku", "name", "color")
    assert cells(sheet) == [["00123", "핸드드립 머그", "코랄 레드"], ["00124", "텀블러", "검정"]]
    assert sheet.encoding == expected


def test_big_endian_utf16_is_read(tmp_path: Path) -> None:
    """UTF-16 is read in either byte order, for its mark tells which."""
    sheet = read(tmp_path, b"\xfe\xff" + KOREAN.replace(",", "\t").encode("utf-16-be"))
    assert cells(sheet)[0] == ["00123", "핸드드립 머그", "코랄 레드"]
    assert sheet.delimiter == "\t"


def test_cp949_syllables_outside_ksx1001_are_read(tmp_path: Path) -> None:
    """The rare syllables that CP949 adds to EUC-KR come through among common ones."""
    text = "sku,name\n1,똠방각하 펲시 콜라와 아이스 아메리카노\n"
    assert cells(read(tmp_path, text.encode("cp949"))) == [["1", "똠방각하 펲시 콜라와 아이스 아메리카노"]]


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    """A gzipped file is read whatever its name ends in."""
    packed = gzip.compress(KOREAN.encode("cp949"))
    assert cells(read(tmp_path, packed, "in.csv.gz")) == cells(read(tmp_path, packed, "in.csv"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiter_is_the_headers_most_frequent(tmp_path: Path, delimiter: str) -> None:
    """Cells may hold the two other delimiters, unquoted, in the rows."""
    text = "a,b;c\td,e;f\tg,h;".replace(delimiter, "")
    sheet = read(tmp_path, delimiter.join(["sku", "name", "note\n1", text, "d"]))
    assert cells(sheet) == [["1", text, "d"]]
    assert sheet.delimiter == delimiter


def test_delimiters_in_a_quoted_column_name_do_not_count(tmp_path: Path) -> None:
    """The header's quotes are respected, over a line break too."""
    sheet = read(tmp_path, 'sku;"size, in cm,\nw,h"\n1;2\n')
    assert sheet.columns == ("sku", "size, in cm,\nw,h")
    assert lines(sheet) == [3]


def test_one_column_is_a_table_too(tmp_path: Path) -> None:
    """A file of one column needs no delimiter."""
    sheet = read(tmp_path, "sku\n001\n\n002\n")
    assert (sheet.columns, cells(sheet), lines(sheet)) == (("sku",), [["001"], ["002"]], [2, 4])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_after_quoted_line_breaks_are_physical_lines(tmp_path: Path, end: str) -> None:
    """A row's line is where its first character stands, whatever breaks lines, and the cell keeps its own breaks."""
    text = end.join(["sku,text", '1,"one', "two", 'three"', "2,x", "", '3,"a', 'b"', "4,y"])
    sheet = read(tmp_path, text)
    assert lines(sheet) == [2, 5, 7, 9]
    assert cells(sheet) == [["1", f"one{end}two{end}three"], ["2", "x"], ["3", f"a{end}b"], ["4", "y"]]


def test_unicode_line_separators_end_no_line(tmp_path: Path) -> None:
    """U+2028, vertical tabs and the like are text, in quotes and out."""
    sheet = read(tmp_path, "sku,text\n1,a\u2028b\x0bc\x1cd\x85e\n2,z\n")
    assert cells(sheet) == [["1", "a\u2028b\x0bc\x1cd\x85e"], ["2", "z"]]
    assert lines(sheet) == [2, 3]


def test_blank_lines_and_empty_rows_are_passed_over(tmp_path: Path) -> None:
    """Blank lines before the header and between rows, and the empty rows that Excel leaves, are no rows."""
    sheet = read(tmp_path, '\n  \n,,\nsku,name,color\n\n1,a,b\n,,\n \t \n2,c,d\n" ","",\n3,e,f\n,,\n')
    assert sheet.columns == ("sku", "name", "color")
    assert lines(sheet) == [6, 9, 11]
    assert [row[0] for row in cells(sheet)] == ["1", "2", "3"]
    assert sheet.problems == ()


def test_column_names_lose_outer_spaces(tmp_path: Path) -> None:
    """Names are stripped, cells are not."""
    sheet = read(tmp_path, " sku , name\n 1 , a \n")
    assert (sheet.columns, cells(sheet)) == (("sku", "name"), [[" 1 ", " a "]])


def test_a_quote_inside_plain_text_is_text(tmp_path: Path) -> None:
    """Inches and such need no quoting: only a quote that begins a cell quotes it."""
    assert cells(read(tmp_path, 'sku,name\n1,27" screen\n2,a "b" c\n')) == [["1", '27" screen'], ["2", 'a "b" c']]


def test_ragged_rows_are_set_aside_with_their_lines(tmp_path: Path) -> None:
    """Too many and too few cells are told with their numbers, and the rows about them stay."""
    sheet = read(tmp_path, "sku,name,color\n1,a,b\n2,mug, large,red\n3,a\n4,c,d\n")
    assert lines(sheet) == [2, 5]
    assert [row[0] for row in cells(sheet)] == ["1", "4"]
    assert lines(sheet.problems) == [3, 4]
    assert "4 cells" in sheet.problems[0].what
    assert "has 3" in sheet.problems[0].what
    assert "comma" in sheet.problems[0].mend
    assert "2 cells" in sheet.problems[1].what
    assert [(bad.line, bad.cells) for bad in sheet.bad_rows] == [(3, ("2", "mug", " large", "red")), (4, ("3", "a"))]


def test_a_ragged_row_over_several_lines_names_its_last(tmp_path: Path) -> None:
    """Where a row runs on, the mend points at where it ends."""
    sheet = read(tmp_path, 'sku,name,color\n1,"a\nb\nc"\n2,d,e\n')
    assert (lines(sheet), lines(sheet.problems)) == ([5], [2])
    assert "line 4" in sheet.problems[0].mend


def test_an_open_quote_costs_one_row(tmp_path: Path) -> None:
    """A quote that is never closed does not swallow the rows after it."""
    sheet = read(tmp_path, 'sku,name\n1,a\n2,"open\n3,c\n4,"d, e"\n5,"f\ng"\n6,h\n')
    assert lines(sheet) == [2, 4, 5, 6, 8]
    assert [row[0] for row in cells(sheet)] == ["1", "3", "4", "5", "6"]
    assert lines(sheet.problems) == [3]
    assert "not closed" in sheet.problems[0].what
    assert sheet.bad_rows[0].cells == ("2", "open")


@pytest.mark.parametrize("after", ["3,c\n4,d\n", '3,""\n4,d\n', ""])
def test_an_open_quote_up_to_the_end_of_the_file(tmp_path: Path, after: str) -> None:
    """The line where it opens is named, and the rows after it are read."""
    sheet = read(tmp_path, 'sku,name\n1,a\n2,"open\n' + after)
    assert lines(sheet.problems) == [3]
    assert "not closed" in sheet.problems[0].what
    assert lines(sheet) == ([2, 4, 5] if after else [2])


def test_text_after_a_closing_quote(tmp_path: Path) -> None:
    """A cell that goes on after its closing quote is told as that, on the last line too."""
    sheet = read(tmp_path, 'sku,name\n1,"Arc" lamp\n2,b\n3,"c"d')
    assert lines(sheet) == [3]
    assert lines(sheet.problems) == [2, 4]
    assert all("after a closing quote" in problem.what for problem in sheet.problems)


def test_all_broken_rows_are_told_at_once(tmp_path: Path) -> None:
    """Three kinds of trouble in one file are three problems, each with its own line."""
    sheet = read(tmp_path, 'sku,name\n1,"x\ny"\n2,a,b\n3,"ok"\n4,"q" r\n5,nul\0\n6,"open\n7,fine\n')
    assert lines(sheet.problems) == [4, 6, 7, 8]
    assert [bad.line for bad in sheet.bad_rows] == [4, 6, 7, 8]
    assert lines(sheet) == [2, 5, 9]
    assert "NUL" in sheet.problems[2].what
    assert not any(problem.whole_file for problem in sheet.problems)


def test_only_broken_rows_leave_an_empty_table(tmp_path: Path) -> None:
    """A file whose rows are all broken is still a sheet, with its columns and problems."""
    sheet = read(tmp_path, "sku,name\n1\n")
    assert (list(sheet.frame.columns), len(sheet.frame), lines(sheet.problems)) == (["sku", "name"], 0, [2])


def test_an_endless_cell_is_told(tmp_path: Path) -> None:
    """A cell longer than any prompt could be is that row's problem."""
    sheet = read(tmp_path, f"sku,name\n1,{'a' * 200_000}\n2,b\n")
    assert (lines(sheet), lines(sheet.problems)) == ([3], [2])
    assert "131,072" in sheet.problems[0].what


def test_many_open_quotes_do_not_take_forever(tmp_path: Path) -> None:
    """A file made of quotes that hold each other open is given up on instead of being read a million times."""
    problems = refused(tmp_path, "sku,name,x\n" + 'a,"\n' + 'a,b","d\n' * 20_000)
    assert "never closed" in problems[-1].what
    assert problems[-1].whole_file


def test_column_names_that_are_doubled_or_missing(tmp_path: Path) -> None:
    """All trouble with the header and the rows comes in one go."""
    problems = refused(tmp_path, "\nsku,name,,name,\n1,2\n")
    assert [(problem.line, problem.whole_file) for problem in problems] == [(2, True), (2, True), (2, True), (3, False)]
    assert "Column 3" in problems[0].what
    assert "2 and 4" in problems[1].what
    assert problems[1].column == "name"
    assert "Column 5" in problems[2].what


def test_a_broken_header_is_the_whole_files_trouble(tmp_path: Path) -> None:
    """Without a header no row can be trusted."""
    (problem,) = refused(tmp_path, 'sku,"name\n1,a\n2,b\n')
    assert (problem.line, problem.whole_file) == (1, True)
    assert "header" in problem.what


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \r\n\n", "is empty"),
        (b",,\n,,\n", "no header"),
        (b"sku,name\n\n,\n", "no rows"),
    ],
)
def test_files_without_rows(tmp_path: Path, content: bytes, words: str) -> None:
    """An empty file, empty cells alone and a lonely header are refused, each in its own words."""
    (problem,) = refused(tmp_path, content)
    assert words in problem.what
    assert problem.whole_file


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """A missing file, a folder and a name that can't be one are told as such."""
    for path, words in [(tmp_path / "no.csv", "no file"), (tmp_path, "is a folder"), (Path("a\0b"), "can't be read")]:
        with pytest.raises(NotStarted) as caught:
            read_csv(path)
        assert words in caught.value.problems[0].what


def test_workbooks_and_archives_are_told_from_text(tmp_path: Path) -> None:
    """An .xlsx, an .xls and a zip are named, with how to save a CSV."""
    workbook, archive = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(workbook, "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("products.csv", KOREAN)
    for content, words in [
        (workbook.getvalue(), "Excel workbook"),
        (archive.getvalue(), "zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), "Excel workbook"),
    ]:
        (problem,) = refused(tmp_path, content)
        assert words in problem.what
        assert "CSV UTF-8" in problem.mend


def test_a_damaged_gzip_is_told(tmp_path: Path) -> None:
    """Half a gzipped file is refused as damaged."""
    (problem,) = refused(tmp_path, gzip.compress(KOREAN.encode() * 100)[:80])
    assert "damaged" in problem.what


def test_undecodable_bytes_are_told_with_byte_and_line(tmp_path: Path) -> None:
    """One broken byte in a UTF-8 file is found, on its line."""
    good = KOREAN.encode()
    (problem,) = refused(tmp_path, good + b"00125,\xff\xfe,x\n")
    assert problem.line == 4
    assert f"byte {len(good) + len(b'00125,')};" in problem.what
    assert problem.whole_file


@pytest.mark.parametrize("text", ["oven 200°C", "Größe 38", "ÄPFEL"])
def test_western_single_byte_text_is_not_taken_for_korean(tmp_path: Path, text: str) -> None:
    """Latin-1 bytes that CP949 could read too would come out as rare syllables and hanja, so they are refused."""
    content = f'sku,name\n1,"{text}"\n'.encode("latin-1")
    assert content.decode("cp949")
    (problem,) = refused(tmp_path, content)
    assert (problem.line, "UTF-8" in problem.what) == (2, True)


def test_cut_off_utf16_is_told(tmp_path: Path) -> None:
    """Half a character at the end of a UTF-16 file is found."""
    (problem,) = refused(tmp_path, KOREAN.encode("utf-16")[:-1])
    assert (problem.line, "UTF-16" in problem.what) == (3, True)


def test_utf16_without_a_mark_is_no_text(tmp_path: Path) -> None:
    """Such a file is full of NULs, and that is said of its header."""
    problems = refused(tmp_path, "sku,name\n1,a\n".encode("utf-16-le"))
    assert "NUL" in problems[0].what


def test_rows_and_lines_agree_on_a_large_mixed_file(tmp_path: Path) -> None:
    """Over thousands of rows with breaks, quotes, blanks and broken rows each row's line leads back to its sku."""
    pieces, expected, line = ["sku,text\r\n"], [], 2
    for number in range(5000):
        kind = number % 7
        piece = {
            0: f"{number},plain\r\n",
            1: f'{number},"a\nb ""c"", d\r\ne"\r\n',
            2: "\r\n",
            3: f"{number},{'x' * (number % 300)},too many\n",
            4: f'{number},"머그, 컵"\n',
            5: ",\n",
            6: f'{number},"broken" here\n',
        }[kind]
        if kind in {0, 1, 4}:
            expected.append((line, str(number)))
        pieces.append(piece)
        line += piece.count("\n")
    sheet = read(tmp_path, "".join(pieces))
    assert list(zip(sheet.lines, sheet.frame["sku"], strict=True)) == expected
    assert list(sheet.frame.index) == list(range(len(expected)))
