"""Text for pages that read Markdown."""

_SIGNS = frozenset("\\`*_[]<>|#!&~")


def escaped(text: str) -> str:
    """The text on one line, with nothing in it that is Markdown or HTML."""
    return "".join(f"\\{letter}" if letter in _SIGNS else letter for letter in " ".join(text.split()))
