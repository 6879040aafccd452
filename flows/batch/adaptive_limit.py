"""How many calls at once a provider takes, found out from its answers."""

from dataclasses import dataclass, field

NARROWED = 0.9  # of what was taken: a refusal costs a pause of all, so the pool stays below for a while
LEAST_LEFT = 0.5  # of the width: refusals that come of a quota a minute say nothing about calls at once
NEAR = 1.0
SLOWER = 8


@dataclass(slots=True)
class AdaptiveLimit:
    """The width that a pool of calls should have: between 1 and `most`; narrowed by refusals, widened by answers.

    Not for many threads at once: whoever owns it holds a lock. It begins at `most`, which is what the user has said.
    """

    most: int
    _width: float = field(init=False)
    _spell: int = 0
    _at_once: int = 0
    _refused: int = 0
    _before: float = 0.0
    _taken: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._width = float(self.most)

    @property
    def width(self) -> int:
        """How many calls may be in flight."""
        return int(self._width)

    @property
    def spell(self) -> int:
        """Noted for a call when it begins: the calls that begin between two narrowings are one spell."""
        return self._spell

    def refused(self, spell: int, in_flight: int) -> None:
        """The provider refused a call that began in this spell; `in_flight` counts it, too.

        Refusals of one spell are one message: it took so many, and no more.
        """
        if spell == self._spell:
            self._spell += 1
            self._at_once, self._refused, self._before = in_flight, 0, self._width
        elif spell != self._spell - 1:
            return  # a straggler from before: what it says is known
        self._refused += 1
        taken = min(self._before, float(self._at_once - self._refused))
        self._taken = max(1.0, taken)
        self._width = max(1.0, NARROWED * max(taken, LEAST_LEFT * self._before))

    def answered(self, in_flight: int) -> None:
        """The provider took a call; `in_flight` counts it, too. Only a pool that is full learns from it.

        One more for a width of answers, and much slower around what was too much the last time.
        """
        if in_flight < self.width or self._width >= self.most:
            return
        near = self._taken - NEAR <= self._width < self._taken + NEAR
        self._width = min(float(self.most), self._width + 1.0 / (self._width * (SLOWER if near else 1)))
