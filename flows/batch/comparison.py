"""What the same rows would cost otherwise: with each other model of the generator, and made by hand."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from flows.batch.costs import price_of
from flows.batch.jobs import Job
from flows.batch.ledger_tables import plain
from flows.batch.prices import PriceBook

BY_HAND_USD = (Decimal(5), Decimal(10))  # design work, an image
SIZES = (100, 1_000, 10_000, 100_000)
_MICRO = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to have the images made, and what so many of them cost."""

    model: str
    usd: Decimal
    images: int

    def usd_for(self, images: int) -> Decimal:
        """What so many images like these would cost, to a millionth of a dollar."""
        return plain((self.usd * images / self.images).quantize(_MICRO))


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows to buy, priced in every way there is. `planned` is None where a planned model has no known price.

    `choices` are those models of the generator that have a price for each of the rows, the cheapest first.
    """

    images: int
    planned: Choice | None
    choices: tuple[Choice, ...]

    @property
    def by_hand(self) -> tuple[Choice, ...]:
        """Design work by hand, at the least and at the most that it costs."""
        return tuple(Choice(f"by hand, ${usd} each", usd * self.images, self.images) for usd in BY_HAND_USD)


def compare(jobs: Sequence[Job], prices: PriceBook) -> Comparison | None:
    """Price these jobs in every way; None where there is nothing to compare: no jobs, or what they cost is nothing."""
    first = {_kind(job): job for job in jobs}
    counted = Counter(map(_kind, jobs))
    kinds = [(job, counted[kind]) for kind, job in first.items()]
    planned = _choice("as planned", kinds, prices)
    models = {model for job in first.values() for model in prices.models(job.generator)}
    found = (_choice(model, kinds, prices, model) for model in models)
    choices = sorted((one for one in found if one), key=lambda one: (one.usd, one.model))
    if not choices and not (planned and planned.usd):
        return None
    return Comparison(len(jobs), planned, tuple(choices))


def _kind(job: Job) -> tuple[str, str, str]:
    """All that decides a job's price."""
    return (job.generator, job.model, job.params.get("resolution", ""))


def _choice(name: str, kinds: Sequence[tuple[Job, int]], prices: PriceBook, model: str = "") -> Choice | None:
    usd, images = Decimal(0), 0
    for job, count in kinds:
        price = price_of(job, prices, model)
        if price is None:
            return None
        usd += price.usd * count
        images += count
    return Choice(name, plain(usd), images) if images else None


def bought_elsewhere(jobs: Sequence[Job], prices: PriceBook) -> dict[str, Decimal]:
    """What jobs that are drawn for nothing would cost with their own models at each generator that has its price."""
    if any((price := price_of(job, prices)) is None or price.usd for job in jobs):
        return {}
    counted = Counter((job.model, job.params.get("resolution", "")) for job in jobs)
    found: dict[str, Decimal] = {}
    for generator in sorted({price.generator for price in prices if price.usd}):
        known = [(prices.find(generator, *kind), count) for kind, count in counted.items()]
        if known and all(price for price, _ in known):
            found[generator] = plain(sum((price.usd * count for price, count in known if price), Decimal(0)))
    return found
