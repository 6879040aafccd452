"""Whether a run could do its work: each door to the outside tried for real."""

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.batch.form_words import in_form_words
from flows.batch.settings import CheckSettings
from flows.tasks.checking import show_trials, try_doors
from flows.tasks.refusals import refused_in_words


@flow(name="check-setup", flow_run_name="check-setup", persist_result=False, validate_parameters=False)
@refused_in_words
def check_setup(doors: CheckSettings) -> State[Any]:
    """Try the generator, the store, the CMS and the notification that are named. Buys nothing."""
    log = get_run_logger()
    trials = list(try_doors(doors))
    for trial in trials:
        for line in trial.lines():
            log.info(line)
    show_trials(trials)
    failed = [trial for trial in trials if trial.failed]
    if failed:
        told = in_form_words("\n".join(f"{trial.door} {trial.name}: {trial.told}" for trial in failed))
        return Failed(message=f"{len(failed)} of {len(trials)} failed.\n{told}")
    return Completed(message=f"All {len(trials)} work: {', '.join(trial.name for trial in trials)}")
