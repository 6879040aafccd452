"""Caps on spending: a counter for each run and for each day, kept in the same transaction as every call."""

from decimal import Decimal

from sqlalchemy import Connection, bindparam, select, text

from flows.batch.caps import Caps
from flows.batch.ledger_database import Database
from flows.batch.ledger_tables import budgets, day_scope, run_scope
from flows.batch.prices import dollars


class CapReached(Exception):
    """The next call could bring spending over a cap: it is not made, and its row stays pending."""


class Budgets:
    """What is spent or reserved, by run and by day. Every method may raise LedgerUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_run(self, run: str) -> Decimal:
        """What a run's calls have cost or may cost, in US dollars."""
        return self._of(run_scope(run))

    def of_day(self, at: float) -> Decimal:
        """The same of all runs, in the day (UTC) of this moment."""
        return self._of(day_scope(at))

    def _of(self, scope: str) -> Decimal:
        with self._database.reading() as connection:
            return connection.scalar(_SEE, {"this_scope": scope}) or Decimal(0)


def reserve(connection: Connection, run: str, at: float, usd: Decimal | None, caps: Caps) -> CapReached | None:
    """Put a call's list price on its run's and its day's counter. Gives why not, and changes nothing, where a cap would
    be passed. Belongs at the end of a transaction: others wait for the day's counter until it is over.
    """
    if usd is None:
        return CapReached(_UNPRICED) if caps else None
    if not usd:  # what is free changes nothing
        return None
    in_run, in_day = _add(connection, run, at, usd)
    for scope, cap, total in (("run", caps.run_usd, in_run), ("day", caps.day_usd, in_day)):
        if cap is not None and total > cap:
            _add(connection, run, at, -usd)
            return CapReached(_reached(scope, cap, total - usd, usd))
    return None


def settle(connection: Connection, run: str, at: float, more_usd: Decimal) -> None:
    """Correct the counters of a call that began at this moment by what it has cost beyond what was reserved."""
    if more_usd:
        _add(connection, run, at, more_usd)


def _add(connection: Connection, run: str, at: float, usd: Decimal) -> tuple[Decimal, Decimal]:
    """Add to the counters of a run and of a day, always in this order; gives what stands there now.

    Whoever else adds to them waits for the end of this transaction.
    """
    scopes = {"run": run_scope(run), "day": day_scope(at)}
    added = connection.execute(_ADD, {**scopes, "usd": usd})
    totals: dict[str, Decimal] = dict(added.tuples().all())
    return totals[scopes["run"]], totals[scopes["day"]]


# As text, which both databases read: SQLAlchemy compiles its own ON CONFLICT anew each time it is executed.
_ADD = (
    text(
        "INSERT INTO budgets (scope, usd) VALUES (:run, :usd), (:day, :usd) "
        "ON CONFLICT (scope) DO UPDATE SET usd = budgets.usd + excluded.usd RETURNING scope, usd"
    )
    .bindparams(bindparam("usd", type_=budgets.c.usd.type))
    .columns(budgets.c.scope, budgets.c.usd)
)
_SEE = select(budgets.c.usd).where(budgets.c.scope == bindparam("this_scope"))

_UNPRICED = (
    "There is a cap, and no price is known for the next image. Put its model into a price book (--prices), "
    "then run the same command again."
)
_MENDS = {
    "run": "Raise --max-cost, or run the same command again: it goes on from here, with a cap of its own.",
    "day": "Run the same command again tomorrow (days are UTC), or raise --max-cost-per-day: it goes on from here.",
}


def _reached(scope: str, cap: Decimal, spent: Decimal, next_usd: Decimal) -> str:
    return (
        f"The {scope}'s cap of {dollars(cap)} is reached: {dollars(spent)} is spent or reserved, and the next image "
        f"costs {dollars(next_usd)}. {_MENDS[scope]}"
    )
