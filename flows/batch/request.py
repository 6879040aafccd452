"""What a run is asked for, of a CSV or of images to be made again."""

from dataclasses import dataclass

from flows.batch.caps import NO_CAPS, Caps
from flows.batch.ledger_tables import State
from flows.batch.settings import BatchSettings, RedoSettings
from flows.batch.settings_groups import Approve
from flows.batch.sources import source_name


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is asked for, whether of a CSV or of a redo. `name` is what its reports are called.

    `holds_back`: its images wait for a person before they are published. `global_limit` and `tag_limit` name the
    server's limits that it keeps to, where they are given.
    """

    name: str
    output: str
    ledger: str
    concurrency: int
    again: frozenset[State] = frozenset()
    caps: Caps = NO_CAPS
    prices: str = ""
    holds_back: bool = False
    global_limit: str = ""
    tag_limit: str = ""

    @classmethod
    def of(cls, settings: BatchSettings) -> "Request":
        """What these settings ask for. `again` are the states out of which the user allows rows to be bought anew."""
        allowed = {
            State.REJECTED: settings.rows.retry_rejected,
            State.UNKNOWN: settings.rows.retry_unknown,
            State.LOST: settings.rows.rebuy_lost,
        }
        again = frozenset(state for state, yes in allowed.items() if yes)
        return cls(
            name=source_name(settings.csv, settings.pasted),
            output=settings.output,
            ledger=settings.advanced.ledger,
            concurrency=settings.concurrency,
            again=again,
            caps=settings.money.caps,
            prices=settings.money.prices,
            holds_back=settings.approve is Approve.BEFORE_PUBLISHING,
            global_limit=settings.advanced.global_limit,
            tag_limit=settings.advanced.tag_limit,
        )

    @classmethod
    def of_redo(cls, settings: RedoSettings) -> "Request":
        """What these settings of a redo ask for."""
        return cls(
            name="redo",
            output=settings.output,
            ledger=settings.ledger,
            concurrency=settings.concurrency,
            again=frozenset({State.UNKNOWN} if settings.retry_unknown else ()),
            caps=settings.caps,
            prices=settings.prices,
        )
