"""A question to a person: its flow run is suspended, and its process goes away until somebody has answered.

Then the run begins at its top again, so that it finds its question by a mark of what it was about.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import delete_flow_run_input, read_flow_run_input
from prefect.input.run_input import Keyset, keyset_from_base_key

from flows.batch.problems import NotStarted, Problem
from flows.tasks.final_states import this_run

Form = TypeVar("Form", bound=RunInput)
HOUR_S = 3600
_ASKED, _FORM = "suspended-", "-schema"  # how Prefect names what it keeps of a question
_MOST_INPUTS = 200  # four or fewer a question; the server gives no more at once


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of one kind, such as "buy", that this flow run has asked so far, the oldest first."""

    kind: str
    flow_run: UUID
    keys: tuple[str, ...]

    @classmethod
    def of_this_run(cls, kind: str) -> "Questions":
        """Raises: NotStarted where nobody can be asked: only a deployment's run can be begun anew by a worker."""
        known = this_run()
        if known is None:
            raise _nobody()
        with get_client(sync_client=True) as client:
            if client.read_flow_run(known).deployment_id is None:
                raise _nobody()
            # Not by its pause keys: the server forgets those when it is retried, and keeps what was asked and answered.
            asked = client.filter_flow_run_input(known, f"{_ASKED}{kind}-", _MOST_INPUTS, set())
        keys = {one.key.removeprefix(_ASKED).removesuffix(_FORM) for one in asked if one.key.endswith(_FORM)}
        return cls(kind, known, tuple(sorted(keys, key=_number)))

    def answer(self, mark: str, form: type[Form]) -> Form | None:
        """What was answered to the question about this very thing; None where that was not asked, or not answered."""
        return self._first_answer((key for key in reversed(self.keys) if _mark(key) == mark), form)

    def newest_answer(self, form: type[Form], under: str) -> Form | None:
        """What was answered last, whatever the question was about, of those that were asked under the same terms."""
        return self._first_answer((key for key in reversed(self.keys) if _terms(key) == under), form)

    def forget(self, mark: str) -> None:
        """Forget the answers to this question: should the run be begun once more, it asks again."""
        for key in self.keys:
            if _mark(key) == mark and read_flow_run_input(_keyset(key)["response"], self.flow_run):
                delete_flow_run_input(_keyset(key)["response"], self.flow_run)

    def ask(self, mark: str, form: type[RunInput], told: str, hours: int, under: str = "") -> NoReturn:
        """Suspend this flow run until somebody has filled in the form; `told` is the question, as Markdown.

        `under` marks its terms: what else an answer holds under, such as the prices.
        """
        number = _number(self.keys[-1]) + 1 if self.keys else 1
        key = f"{self.kind}-{mark}-{number}" + (f"-{under}" if under else "")
        suspend_flow_run(form.with_initial_data(description=told), timeout=hours * HOUR_S, key=key)
        raise RuntimeError(f"The question {key} was answered while it was asked. Retry the flow run.")

    def _first_answer(self, keys: Iterable[str], form: type[Form]) -> Form | None:
        for key in keys:
            given = cast("dict[str, Any]", read_flow_run_input(_keyset(key)["response"], self.flow_run))
            if given:
                return form(**given)
        return None


def _keyset(key: str) -> Keyset:
    return keyset_from_base_key(f"{_ASKED}{key}")


def _mark(key: str) -> str:
    return key.split("-")[1]


def _number(key: str) -> int:
    """The place of a question among those of its kind."""
    return int(key.split("-")[2])


def _terms(key: str) -> str:
    return "".join(key.split("-")[3:])


def _nobody() -> NotStarted:
    mend = "Start it from a deployment, or with `rowshot run` on a terminal; or ask for no approval."
    return NotStarted([Problem("This run can't wait for a person's approval: no deployment has started it.", mend)])
