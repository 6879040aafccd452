"""What a call is expected to cost, and what it has cost."""

from decimal import Decimal

from flows.batch.jobs import Job
from flows.batch.ledger_images import Cost
from flows.batch.prices import Price, PriceBook


def price_of(job: Job, prices: PriceBook, model: str = "") -> Price | None:
    """The price of a job's image, by its own model or by another; None where the book has none."""
    return prices.find(job.generator, model or job.model, job.params.get("resolution", ""))


def listed(job: Job, prices: PriceBook) -> Cost:
    """What a call for this job is expected to cost: the list price, which is reserved before the call."""
    price = price_of(job, prices)
    return Cost(price.usd if price else None)


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
