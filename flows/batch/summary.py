"""How a run ended, in figures and in words."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from flows.batch.prices import dollars, dollars_or_free
from flows.batch.row_report import RowReport, Status
from flows.batch.words import listed

MOST_SKUS = 10


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended. `stopped` says why it ended early, if it did; `interrupted`, whether somebody ended it.

    `undelivered`: rows whose image is not yet where it was to go; `delivery_stopped`: what a person must mend for that;
    `notes`: what else was not delivered. `sheet_url`: the contact sheet in the store. `unheard`: why nobody was told of
    the run; it changes nothing. `made_already`: the skus of a redo that had their image when it went on.
    """

    counts: Mapping[Status, int]
    spent_usd: Decimal
    in_doubt_usd: Decimal
    bought: int
    seconds: float
    failures: tuple[RowReport, ...]
    contact_sheet: Path
    failures_csv: Path | None
    stopped: str = ""
    interrupted: bool = False
    undelivered: int = 0
    delivery_stopped: str = ""
    notes: tuple[str, ...] = ()
    sheet_url: str = ""
    unheard: str = ""
    paid_twice: int = 0
    made_already: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Rows that have their image."""
        return sum(count for status, count in self.counts.items() if status.has_image)

    @property
    def failed(self) -> int:
        """Rows that were refused, failed, or are in doubt."""
        return sum(count for status, count in self.counts.items() if status.is_failure)

    @property
    def held_back(self) -> int:
        """Rows whose image is at hand and was not tried to be handed on."""
        return self.undelivered - sum(1 for row in self.failures if row.undelivered)

    @property
    def told(self) -> str:
        """How the run ended, as short as a list of runs has room for: 498 of 500, 2 refused."""
        words = {Status.REJECTED: "refused", Status.UNKNOWN: "in doubt"}
        rest = [
            f"{count:,} {words.get(status, status.value)}"
            for status, count in self.counts.items()
            if count and not status.has_image
        ]
        rest += [f"{self.undelivered:,} not handed on yet"] if self.undelivered else []
        return ", ".join([f"{self.images:,} of {sum(self.counts.values()):,}", *rest])

    @property
    def exit_code(self) -> int:
        """0 every row asked for has its image where it was to go; 1 some have not; 3 the run ended early."""
        if self.stopped or self.delivery_stopped:
            return 3
        return 1 if self.failed or self.undelivered or self.notes else 0

    def lines(self) -> Iterator[str]:
        """How the run ended, for a terminal."""
        if self.stopped:
            yield f"Ended early: {self.stopped}"
        if self.delivery_stopped:
            yield f"Handing on ended early: {self.delivery_stopped}"
        yield from filter(None, (*self.notes, self.unheard))
        cost = dollars_or_free(self.spent_usd)
        paid = f"{self.bought:,} bought now ({cost})" if self.bought or self.spent_usd else "nothing was bought now"
        doubt = f", {dollars(self.in_doubt_usd)} of it in doubt" if self.in_doubt_usd else ""
        yield f"{self}; {paid}{doubt}, in {self.seconds:.0f} s."
        if self.made_already:
            skus = listed(self.made_already, MOST_SKUS)
            yield f"Made already, when this redo was begun before: {skus}. Name them alone to have them made once more."
        kinds = Counter(row.error_kind for row in self.failures)
        for kind, count in kinds.most_common():
            example = next(row for row in self.failures if row.error_kind == kind)
            yield f"  {count:>5,}  {kind}, e.g. line {example.line}, {example.sku}: {example.error[:200]}"
        if self.paid_twice:
            yield f"  {self.paid_twice:>5,}  paid for more than once, for a call that brought nothing usable"
        if self.failures_csv:
            yield f"Failed rows:   {self.failures_csv}"
        yield f"Contact sheet: {self.contact_sheet}"
        if self.sheet_url:
            yield f"In the store:  {self.sheet_url}"

    def __str__(self) -> str:
        rows = sum(self.counts.values())
        rest = ", ".join(f"{n} {status}" for status, n in self.counts.items() if n and not status.has_image)
        later = f", {self.undelivered} of them not handed on yet" if self.undelivered else ""
        return f"{self.images} of {rows} rows have their image{later}" + (f", {rest}" if rest else "")
