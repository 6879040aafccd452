"""What a call is expected to cost, and what it has cost."""

from dataclasses import dataclass, replace
from decimal import Decimal
from threading import Lock

from flows.batch.jobs import Job
from flows.batch.ledger_images import Cost
from flows.batch.prices import Price, PriceBook


def price_of(job: Job, prices: PriceBook, model: str = "") -> Price | None:
    """The price of a job's image, by its own model or by another; None where the book has none."""
    return prices.find(job.generator, model or job.model, job.params.get("resolution", ""))


def listed(job: Job, prices: PriceBook) -> Cost:
    """What a call for this job is expected to cost: the list price."""
    price = price_of(job, prices)
    return Cost(price.usd if price else None)


class Dearest:
    """The most that a call of each model has cost in a run. Used by many threads at once.

    Where the list price is too low, a cap would otherwise be passed by every call that is under way.
    """

    def __init__(self) -> None:
        self._usd: dict[tuple[str, str, str], Decimal] = {}
        self._turn = Lock()

    def learn(self, job: Job, cost: Cost) -> None:
        """Note what a call for this job has cost."""
        if cost.usd is not None:
            with self._turn:
                self._usd[_kind(job)] = max(cost.usd, self._usd.get(_kind(job), cost.usd))

    def expected(self, job: Job, prices: PriceBook) -> Cost:
        """The list price of a call for this job; to be reserved is what such a one has cost, if that is more."""
        cost, known = listed(job, prices), self._usd.get(_kind(job))
        return cost if cost.usd is None or known is None else replace(cost, reserve_usd=max(cost.usd, known))


@dataclass(frozen=True, slots=True)
class Costs:
    """The money side of a run's calls. `usd_per_credit` is the account's own, 0 where that is not known."""

    prices: PriceBook
    usd_per_credit: Decimal
    dearest: Dearest

    def expected(self, job: Job) -> Cost:
        """What the next call for this job may cost."""
        return self.dearest.expected(job, self.prices)

    def settle(self, job: Job, credits_used: Decimal | None) -> Cost:
        """What a paid call has cost; later ones reserve as much."""
        cost = settled(job, self.prices, credits_used, self.usd_per_credit)
        self.dearest.learn(job, cost)
        return cost


def settled(job: Job, prices: PriceBook, credits_used: Decimal | None, usd_per_credit: Decimal) -> Cost:
    """What a paid call has cost: the provider's own credits, at the account's price for one or else the price book's.

    Where the provider tells no credits, or nobody knows what one costs, it is the list price, marked as estimated.
    `usd_per_credit` is 0 where the account's price is not known.
    """
    price = price_of(job, prices)
    rate = usd_per_credit or (price.usd_per_credit if price else None)
    if credits_used is not None and rate:
        return Cost(credits_used * rate, is_estimated=False, credits_used=credits_used)
    usd = price.usd if price else None
    return Cost(usd, is_estimated=bool(usd), credits_used=credits_used)


def _kind(job: Job) -> tuple[str, str, str]:
    return (job.generator, job.model, job.params.get("resolution", ""))
