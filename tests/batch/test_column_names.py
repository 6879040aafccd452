import pytest

from flows.batch.column_names import columns_text, parse_columns


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", {}),
        ("name=Titel", {"name": "Titel"}),
        ("name=Titel, color=Farbe", {"name": "Titel", "color": "Farbe"}),
        ('name="Titel"', {"name": '"Titel"'}),
        ('"name=Titel, kurz",color=Farbe', {"name": "Titel, kurz", "color": "Farbe"}),
        ("name=a=b", {"name": "a=b"}),
        ("name=Titel\ncolor=Farbe\n", {"name": "Titel", "color": "Farbe"}),
    ],
)
def test_a_line_of_text_names_columns(text: str, columns: dict[str, str]) -> None:
    """Pairs stand with a comma or a new line between them; one with a comma in it stands in quotes."""
    assert parse_columns(text) == columns


@pytest.mark.parametrize("text", ["name", "name=", "=Titel", "name=Titel, color"])
def test_half_a_pair_is_refused(text: str) -> None:
    """A pair without its column or its variable is told, with how to write it."""
    with pytest.raises(ValueError, match="write variable=column"):
        parse_columns(text)


def test_what_is_written_can_be_read() -> None:
    """Any column's name comes back as it was."""
    columns = {"name": 'a "nice", name', "color": " 색상", "size": "a=b"}
    assert parse_columns(columns_text(columns)) == columns
