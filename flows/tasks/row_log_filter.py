"""A run's log as a story of ten or twenty lines, however many rows it has: what becomes of a row is in its task run."""

import logging

from blocks.errors import ImageGenerationError
from flows.batch.problems import LedgerUnavailable
from flows.batch.purchase import Standstill
from flows.batch.slots import RunStopped
from flows.batch.stores import StoreUnusable

# How a row may end; each is in the ledger, in the row's task run and in the reports, with its mend.
EXPECTED = (ImageGenerationError, Standstill, RunStopped, StoreUnusable, LedgerUnavailable)


class _OfRows(logging.Filter):
    """Lets through what is not about a row, and of rows what nobody has foreseen."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        if getattr(record, "task_name", "") != "generate_image":
            return record.levelno >= logging.WARNING
        error = record.exc_info[1] if record.exc_info else None
        return error is not None and not isinstance(error, EXPECTED)


_OF_ROWS = _OfRows()


def tell_no_rows() -> None:
    """From here on the log has no line for a row's task run, unless something broke that nobody has foreseen."""
    logging.getLogger("prefect.task_runs").addFilter(_OF_ROWS)
