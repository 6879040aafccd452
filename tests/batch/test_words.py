"""Figures and lists as people say them."""

import pytest

from flows.batch.words import about, counted, duration, listed


@pytest.mark.parametrize(("count", "told"), [(0, "0 images"), (1, "1 image"), (1200, "1,200 images")])
def test_a_count_agrees_with_its_noun(count: int, told: str) -> None:
    """One of them is told as one."""
    assert counted(count, "image") == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(-1, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_a_duration_has_two_units_at_most(seconds: float, told: str) -> None:
    """Nobody wants the seconds of an hour."""
    assert duration(seconds) == told


@pytest.mark.parametrize(("seconds", "told"), [(0.2, "1 s"), (29, "29 s"), (200, "3 min"), (7500, "2 h 5 min")])
def test_what_is_left_is_told_to_the_minute(seconds: float, told: str) -> None:
    """It is a guess, and looks like one."""
    assert about(seconds) == told


@pytest.mark.parametrize(("most", "told"), [(3, "a, b, c"), (2, "a, b and 1 more")])
def test_a_long_list_is_cut(most: int, told: str) -> None:
    """The others are counted."""
    assert listed(("a", "b", "c"), most) == told
