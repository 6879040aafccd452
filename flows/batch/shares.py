"""How runs that go on at the same time share a limit: in plain numbers, of which each run knows the same few."""

from collections.abc import Sequence

LARGEST = 16


def fair_share(limit: int, mine: int, runs: int, calls: int) -> int:
    """How many of a limit's slots a run may have that wants `mine`, where `runs` runs want `calls` together.

    Each gets an equal part at least, and what the others can't use, too; the shares of all are never more than the
    limit, as long as there are no more runs than slots.
    """
    if limit < 1 or mine < 1:
        return 0
    equal = max(1, limit // max(1, runs))
    return min(mine, limit, max(equal, limit - (calls - mine)))


def in_blocks(slots: int) -> list[int]:
    """So many slots in the blocks in which they are leased, small ones first: of these any number can be given back."""
    blocks: list[int] = []
    size = 1
    while slots:
        blocks.append(min(size, slots))
        slots -= blocks[-1]
        size = min(LARGEST, 2 * size if len(blocks) > 1 else 1)
    return blocks


def to_give_back(blocks: Sequence[int], slots: int) -> list[int]:
    """Which of these blocks to give back for so many slots, by their places: just as many, or a few more."""
    chosen: list[int] = []
    for place in sorted(range(len(blocks)), key=lambda place: -blocks[place]):
        if blocks[place] <= slots:
            chosen.append(place)
            slots -= blocks[place]
    if slots > 0 and len(chosen) < len(blocks):
        chosen.append(min((place for place in range(len(blocks)) if place not in chosen), key=lambda at: blocks[at]))
    return chosen
