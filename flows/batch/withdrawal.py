"""Taking back what a run has published: each item gets what it had before, unless somebody has changed it since."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import select

from blocks.errors import DeliveryRefused, DeliveryStopped, DeliveryUnavailable
from flows.batch.deliveries import Delivery
from flows.batch.ledger import Ledger
from flows.batch.ledger_tables import Delivered, deliveries, runs
from flows.batch.problems import NotStarted, Problem
from flows.batch.publishing import IN_VAIN, Patience, Site

MOST_RUNS = 5


@dataclass(slots=True)
class Withdrawal:
    """What came of it. `left_alone` and `failed` are skus, each with the reason; `stopped` says why it ended early."""

    run: str
    put_back: int = 0
    left_alone: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    stopped: str = ""

    @property
    def exit_code(self) -> int:
        """0 all is as it was; 1 some items are not; 3 it ended early."""
        if self.stopped:
            return 3
        return 1 if self.left_alone or self.failed else 0

    def lines(self) -> Iterator[str]:
        """What came of it, for a terminal."""
        if self.stopped:
            yield f"Ended early: {self.stopped}"
        items = "item has its" if self.put_back == 1 else "items have their"
        yield f"Run {self.run}: {self.put_back:,} {items} former value back."
        for told, rows in (("left alone", self.left_alone), ("failed", self.failed)):
            for sku, why in rows:
                yield f"  {told}: {sku}: {why}"


def find_run(ledger: Ledger, given: str) -> str:
    """The id of the run that begins so. Raises: NotStarted where there is none that published anything, or several."""
    known = _runs(ledger)
    found = [run for run in known if given and run.startswith(given)]
    if len(found) == 1:
        return found[0]
    told = [f"{run} ({when})" for run, when in known.items()][:MOST_RUNS]
    mend = f"Runs that have: {', '.join(told)}." if told else "No run has, in this ledger; --ledger names another."
    what = f"Several runs begin with {given!r}." if found else f"No run {given!r} has published anything."
    raise NotStarted([Problem(what, mend)])


def withdraw(ledger: Ledger, run: str, site_of: Callable[[str], Site]) -> Withdrawal:
    """Put back what was there before, the newest first; `site_of` gives the CMS of a name.

    Raises: NotStarted where a CMS can't be had; LedgerUnavailable.
    """
    ended = Withdrawal(run)
    patience = Patience()
    in_vain = 0
    published = ledger.deliveries.published_by(run)
    sites = {name: site_of(name) for name in {delivery.destination for delivery in published}}
    for delivery in published:
        sku = delivery.key[0]

        def put_back(delivery: Delivery = delivery) -> None:
            _put_back(ledger, delivery, sites[delivery.destination], ended)

        try:
            patience.call(put_back)
        except DeliveryRefused as error:
            ended.failed.append((sku, str(error)))
        except DeliveryUnavailable as error:
            ended.failed.append((sku, str(error)))
            in_vain += 1
            if in_vain == IN_VAIN:
                ended.stopped = str(error)
                break
        except DeliveryStopped as error:
            ended.stopped = str(error)
            break
        else:
            in_vain = 0
    return ended


def _put_back(ledger: Ledger, delivery: Delivery, site: Site, ended: Withdrawal) -> None:
    sku, template, _ = delivery.key
    now = site.read(sku, template).value
    if now == delivery.url:
        site.publish(sku, delivery.previous, template)
        ended.put_back += 1
    elif delivery.state not in {Delivered.PUBLISHED, Delivered.REPLACED}:  # its request never arrived
        return
    elif now != delivery.previous:
        shown = now if now is None or isinstance(now, str) else "something"
        ended.left_alone.append((sku, f"it is no longer ours; {site.name} has {shown or 'nothing'} there now."))
        return
    ledger.deliveries.withdrawn(site.name, [delivery.key])


def _runs(ledger: Ledger) -> dict[str, str]:
    """Runs that have something to take back, and when they began, the newest first."""
    theirs = (deliveries.c.run != "", deliveries.c.state != Delivered.WITHDRAWN)
    wanted = (
        select(runs.c.run, runs.c.started_at)
        .where(runs.c.run.in_(select(deliveries.c.run).where(*theirs)))
        .order_by(runs.c.started_at.desc())
    )
    with ledger.reading() as connection:
        return {
            row.run: f"{datetime.fromtimestamp(row.started_at, UTC):%Y-%m-%d %H:%M} UTC"
            for row in connection.execute(wanted)
        }
