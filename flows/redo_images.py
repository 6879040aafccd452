"""Images made again on purpose: a new variant each, and the old ones stay."""

from dataclasses import replace
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.batch.cap_check import check_caps
from flows.batch.plan import left_of
from flows.batch.redo import find_redo, made_already, redo_jobs
from flows.batch.request import Request
from flows.batch.run import BatchRun
from flows.batch.settings import RedoSettings
from flows.tasks.artifacts import show_summary
from flows.tasks.final_states import ended, this_run
from flows.tasks.generate import generate_images_of
from flows.tasks.generators import check_generator, load_generator, source_of
from flows.tasks.naming import redo_run_name
from flows.tasks.progress_artifact import progress_shown
from flows.tasks.stopping import cancelled_if_interrupted, stoppable


@flow(
    name="redo-images",
    flow_run_name=redo_run_name,
    persist_result=False,
    on_crashed=[cancelled_if_interrupted],
)
def redo_images(redo: RedoSettings) -> State[Any]:
    """Buy a new variant of each named row's image; where that succeeds, reports show the new one.

    The same redo once more, where it was not finished, goes on from there.
    """
    log = get_run_logger()
    run = BatchRun.open(Request.of_redo(redo), flow_run.get_id() or "")

    found = find_redo(redo, run.ledger, run.output.root)
    generator = load_generator(found.generator)
    check_generator(generator)
    jobs = redo_jobs(redo, found, run.ledger, source_of(generator), run.id)
    made = made_already(jobs, run.ledger)
    todo = left_of(jobs, run).todo
    check_caps(todo, run)

    with stoppable(run.slots, this_run()):
        run.begin(generator.capabilities.provider)
        try:
            with progress_shown(run, len(todo)):
                generate_images_of(run, generator, todo)
        finally:  # a run that is ended leaves its reports, too
            run.show_bought(jobs)
            summary = replace(run.finish(jobs), made_already=tuple(job.sku for job in made))
    show_summary(summary, run)
    log.info("\n".join(summary.lines()))
    return ended(summary)
