import heapq
import random
from dataclasses import dataclass, field

import pytest

from flows.batch.adaptive_limit import AdaptiveLimit

REFUSED_AFTER_S = 0.05
RETRY_AFTER_S = 1.0


@dataclass
class Provider:
    """A provider that takes so many calls at once, and a pool that learns it; time is a number, and nobody waits.

    `answers` are (begun, ended, taken) of each call.
    """

    takes: int
    limit: AdaptiveLimit
    call_s: float = 2.0
    answers: list[tuple[float, float, bool]] = field(default_factory=list)

    def serve(self, until_s: float) -> None:
        """Let the pool make calls, whenever it may, until then."""
        chance = random.Random(7)  # noqa: S311 - spreads the calls, the same way each time
        now = not_before = 0.0
        at_provider = 0
        flying: list[tuple[float, float, int, bool]] = []
        while now < until_s:
            while now >= not_before and len(flying) < self.limit.width:
                taken = at_provider < self.takes
                at_provider += taken
                lasts = self.call_s * chance.uniform(0.8, 1.2) if taken else REFUSED_AFTER_S
                heapq.heappush(flying, (now + lasts, now, self.limit.spell, taken))
            if not flying or (len(flying) < self.limit.width and not_before > now and flying[0][0] > not_before):
                now = not_before
                continue
            now, begun, spell, taken = heapq.heappop(flying)
            self.answers.append((begun, now, taken))
            if taken:
                at_provider -= 1
                self.limit.answered(len(flying) + 1)
            else:
                self.limit.refused(spell, len(flying) + 1)
                not_before = max(not_before, now + RETRY_AFTER_S)

    def refused(self, begin: float, end: float) -> float:
        """The share of the calls begun between two moments that were refused."""
        some = [taken for begun, _, taken in self.answers if begin <= begun < end]
        return 1 - sum(some) / len(some)

    def used(self, begin: float, end: float) -> float:
        """The share of what the provider takes that was in use between two moments."""
        busy = sum(max(0.0, min(ended, end) - max(begun, begin)) for begun, ended, taken in self.answers if taken)
        return busy / ((end - begin) * self.takes)


@pytest.mark.parametrize("call_s", [0.5, 2.0, 10.0])
def test_it_finds_what_the_provider_takes(call_s: float) -> None:
    """With 24 taken of 64, few calls are refused once ten seconds are over, and nearly all that can be used is used."""
    provider = Provider(24, AdaptiveLimit(64), call_s)
    provider.serve(200 * call_s)
    later = 10 + call_s
    assert provider.refused(10, 200 * call_s) < 0.05
    assert provider.used(later, 195 * call_s) > 0.85


def test_a_provider_that_takes_more_again_is_found_out() -> None:
    """What was too much once is tried again: where it is taken now, the pool gets as wide as it may be."""
    limit = AdaptiveLimit(64)
    provider = Provider(8, limit)
    provider.serve(60)
    assert limit.width < 16
    Provider(64, limit).serve(1200)
    assert limit.width == 64


def test_a_provider_that_takes_one_gets_one() -> None:
    """The pool is never narrower than one call, so the run goes on."""
    limit = AdaptiveLimit(32)
    provider = Provider(1, limit)
    provider.serve(200)
    assert limit.width in {1, 2}
    assert provider.used(20, 190) > 0.6


def test_refusals_of_one_moment_are_one_message() -> None:
    """Of 64 calls begun together 40 are refused: the pool is about as wide as what was taken, and not a tenth of it."""
    limit = AdaptiveLimit(64)
    spell = limit.spell
    for number in range(40):
        limit.refused(spell, 64 - number)
    assert limit.width == 28  # half is the least that one message leaves
    spell = limit.spell
    for number in range(4):
        limit.refused(spell, 28 - number)
    assert limit.width == 21


def test_a_quota_a_minute_does_not_close_the_pool() -> None:
    """Where all calls are refused, half of the width is left, whatever is in flight."""
    limit = AdaptiveLimit(16)
    spell = limit.spell
    for number in range(16):
        limit.refused(spell, 16 - number)
    assert limit.width == 7


def test_a_refusal_from_long_before_says_nothing() -> None:
    """A call that began two narrowings ago was refused for a width that is given up already."""
    limit = AdaptiveLimit(16)
    first = limit.spell
    limit.refused(first, 16)
    second = limit.spell
    limit.refused(second, 14)
    width = limit.width
    limit.refused(first, 13)
    assert limit.width == width


def test_only_a_full_pool_gets_wider() -> None:
    """Where something else holds calls back, their answers say nothing of how many the provider would take."""
    limit = AdaptiveLimit(16)
    limit.refused(limit.spell, 16)
    width = limit.width
    for _ in range(1000):
        limit.answered(width - 1)
    assert limit.width == width
    for _ in range(1000):
        limit.answered(16)
    assert limit.width == 16
