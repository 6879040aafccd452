"""Figures and lists in the words of people."""

from collections.abc import Sequence


def counted(count: int, of: str) -> str:
    """So many of something: 1 image, 1,200 images."""
    return f"1 {of}" if count == 1 else f"{count:,} {of}s"


def duration(seconds: float) -> str:
    """How long something took, in two units at most: 40 s, 3 min 20 s, 2 h 5 min."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def about(seconds: float) -> str:
    """How long something may take yet, as nobody knows it better than to the minute: 40 s, 3 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"  # noqa: PLR2004 - an hour


def listed(names: Sequence[str], most: int) -> str:
    """The names with commas between them; no more than so many, and the number of the others."""
    others = len(names) - most
    return ", ".join(names[:most]) + (f" and {others:,} more" if others > 0 else "")
