import itertools

import pytest

from flows.batch.shares import fair_share, in_blocks, to_give_back


@pytest.mark.parametrize(
    ("limit", "wants", "shares"),
    [
        (16, [16], [16]),
        (16, [4], [4]),
        (16, [16, 16], [8, 8]),
        (16, [256, 4], [12, 4]),
        (16, [256, 4, 4], [8, 4, 4]),
        (16, [16, 16, 16], [5, 5, 5]),
        (16, [256, *[1] * 10], [6, *[1] * 10]),
        (2, [4, 4], [1, 1]),
        (0, [4, 4], [0, 0]),
        (16, [8, 0], [8, 0]),
    ],
)
def test_shares(limit: int, wants: list[int], shares: list[int]) -> None:
    """Each run gets an equal part or what it wants, and the rest goes to those who want more."""
    running = sum(want > 0 for want in wants)
    assert [fair_share(limit, want, running, sum(wants)) for want in wants] == shares


def test_shares_are_never_more_than_the_limit() -> None:
    """Whatever runs want, all shares together fit as long as there are no more runs than slots."""
    for limit, *wants in itertools.product((3, 7, 16), (1, 2, 5, 16), (1, 4, 64), (1, 8, 16)):
        shares = [fair_share(limit, want, 3, sum(wants)) for want in wants]
        assert sum(shares) <= limit
        assert min(shares) >= 1


@pytest.mark.parametrize("slots", [*range(66), 256])
def test_of_blocks_any_number_can_be_given_back(slots: int) -> None:
    """The blocks are the slots, few of them, and each smaller number is the sum of some."""
    blocks = in_blocks(slots)
    assert sum(blocks) == slots
    assert len(blocks) <= 5 + slots // 16
    for back in range(slots + 1):
        assert sum(blocks[place] for place in to_give_back(blocks, back)) == back


def test_where_blocks_are_large_a_little_more_is_given_back() -> None:
    """One slot of a block of eight: the whole block goes, and what was too much is taken again."""
    assert to_give_back([8, 16], 1) == [0]
    assert to_give_back([2, 8], 3) == [0, 1]
    assert to_give_back([], 3) == []
    assert to_give_back([1, 2], 9) == [1, 0]
