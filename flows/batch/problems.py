"""What is wrong with a batch before anything is bought, and where."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend. `line`: the physical line where the row begins, counted from 1; 0 where there is none.

    `whole_file` is True where no row could be trusted while it stays (encoding, a missing column, a bad template).
    """

    what: str
    mend: str
    line: int = 0
    column: str = ""
    whole_file: bool = False

    def __str__(self) -> str:
        where = ", ".join(
            filter(None, [f"line {self.line}" if self.line else "", f"column {self.column!r}" if self.column else ""])
        )
        text = f"{self.what} {self.mend}".strip()
        return f"{where}: {text}" if where else text


class LedgerUnavailable(Exception):
    """The ledger can't be read or written. Nothing may be bought without it."""


class NotStarted(Exception):
    """Nothing was started and nothing was bought; each problem says what to do about it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def lines(self, most: int) -> list[str]:
        """What to mend, a line each and no more than so many, and that nothing has happened."""
        told = [str(problem) for problem in self.problems[:most]]
        if len(self.problems) > most:
            told.append(f"... and {len(self.problems) - most:,} more.")
        return [*told, "Nothing was started and nothing was bought."]
