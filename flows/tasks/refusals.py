"""How a flow begins: its settings read in words for people, and a refusal told as its state."""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.runtime import flow_run
from prefect.states import Failed

from flows.batch.form_words import in_form_words
from flows.batch.problems import NotStarted
from flows.batch.reading import read_settings
from flows.batch.settings_groups import Form
from flows.tasks.final_states import this_run
from flows.tasks.suspend_event import tell_it_left

Settings = TypeVar("Settings", bound=Form)
MOST_PROBLEMS = 20


def refused_in_words(flow: Callable[[Settings], State[Any]]) -> Callable[[Settings], State[Any]]:
    """Let a flow of one setting end in a state that says what to mend, where it refuses to start.

    The log tells it once: what Prefect adds to a run that failed, that its engine met an exception, is left out.

    The settings come as the server has them and are read here, not by Prefect, whose refusal is for programmers: give
    the flow `validate_parameters=False`. A refusal's state is Failed, is named NotStarted and holds the error.
    """
    logging.getLogger("prefect.flow_runs").addFilter(_is_news)
    ((_, kind),) = [(name, kind) for name, kind in get_type_hints(flow).items() if name != "return"]

    @functools.wraps(flow)
    def begin(settings: Any) -> State[Any]:
        try:
            return flow(read_settings(kind, settings))
        except NotStarted as error:
            told = in_form_words("\n".join(error.lines(MOST_PROBLEMS)))
            get_run_logger().error(told)
            return Failed(name="NotStarted", message=told, data=error)
        except Pause:
            if known := this_run():
                tell_it_left(known, flow_run.get_flow_name() or "")
            raise

    return begin


def _is_news(record: logging.LogRecord) -> bool:
    """False for the Python of an end that the flow has told already, or whose exception is in the log before it."""
    return record.msg != "Engine execution exited with unexpected exception"
