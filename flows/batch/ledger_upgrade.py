"""Making the ledger's tables, and bringing an older Rowshot's ledger up to date."""

from collections import defaultdict
from decimal import Decimal

from sqlalchemy import Connection, insert, inspect, select, update

from flows.batch.ledger_tables import (
    SCHEMA_VERSION,
    attempts,
    budgets,
    day_scope,
    meta,
    metadata,
    run_scope,
)
from flows.batch.problems import NotStarted, Problem

_LOCK = 7_263_946_102  # any number, so long as it is always this one
_COUNTED = 2  # the version from which spending was counted


def prepare(connection: Connection) -> None:
    """Make what is missing, in the open transaction. Raises: NotStarted where a newer Rowshot made the ledger."""
    if connection.dialect.name == "postgresql":  # there, several that make the same tables at once fail
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    metadata.create_all(connection)
    version = connection.scalar(select(meta.c.value).where(meta.c.name == "schema"))
    if version is None:
        connection.execute(insert(meta).values(name="schema", value=str(SCHEMA_VERSION)))
    elif int(version) > SCHEMA_VERSION:
        raise NotStarted(
            [Problem("The ledger was made by a newer Rowshot.", "Update this one, or name another ledger.")]
        )
    elif int(version) < SCHEMA_VERSION:
        if int(version) < _COUNTED:
            _count_spending(connection)
        _add_destinations(connection)
        connection.execute(update(meta).where(meta.c.name == "schema").values(value=str(SCHEMA_VERSION)))


def _count_spending(connection: Connection) -> None:
    """From version 1: calls had no estimate, and nothing was counted by run and by day."""
    if "estimate_usd" not in _columns(connection, "attempts"):
        connection.exec_driver_sql("ALTER TABLE attempts ADD COLUMN estimate_usd BIGINT")
    connection.execute(update(attempts).values(estimate_usd=attempts.c.price_usd))
    totals: defaultdict[str, Decimal] = defaultdict(Decimal)
    for call in connection.execute(select(attempts).where(attempts.c.price_usd > 0)):
        for scope in (run_scope(call.run), day_scope(call.started_at)):
            totals[scope] += call.price_usd
    if totals:
        connection.execute(insert(budgets), [{"scope": scope, "usd": usd} for scope, usd in totals.items()])


def _add_destinations(connection: Connection) -> None:
    """From version 2: images were handed on nowhere, and runs named no store and no CMS."""
    for name in {"store", "cms"} - _columns(connection, "runs"):
        connection.exec_driver_sql(f"ALTER TABLE runs ADD COLUMN {name} VARCHAR(1024) NOT NULL DEFAULT ''")


def _columns(connection: Connection, table: str) -> set[str]:
    return {column["name"] for column in inspect(connection).get_columns(table)}
