"""A CSV in, one generated image a row out."""

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.batch.canary import canary_first
from flows.batch.cap_check import check_caps
from flows.batch.plan import check_changed, plan_batch
from flows.batch.request import Request
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.tasks.approval import approved, ask_to_publish, rejected
from flows.tasks.artifacts import show_plan, show_summary
from flows.tasks.destinations import check_doors, open_doors
from flows.tasks.final_states import ended, planned, this_run
from flows.tasks.generators import check_generator, load_generator, source_of
from flows.tasks.handing_on import handing_on
from flows.tasks.limits import check_limit
from flows.tasks.naming import batch_run_name
from flows.tasks.progress_artifact import progress_shown
from flows.tasks.refusals import refused_in_words
from flows.tasks.schedule import check_schedule
from flows.tasks.shards import check_shards, generate_in_shards
from flows.tasks.slack_news import News
from flows.tasks.sources import bring_csv, keep_csv
from flows.tasks.stopping import cancelled_if_interrupted, stoppable
from flows.tasks.upload import hand_on_reports


@flow(
    name="generate-images",
    flow_run_name=batch_run_name,
    persist_result=False,
    validate_parameters=False,
    on_crashed=[cancelled_if_interrupted],
)
@refused_in_words
def generate_images(batch: BatchSettings) -> State[Any]:
    """Read and check every row, plan, buy what isn't bought yet, hand it on, and report.

    Nothing is bought unless every row is good (or bad ones are to be skipped); each image is paid for once.
    """
    log = get_run_logger()
    generator = load_generator(batch.generator)
    run = BatchRun.open(Request.of(batch), flow_run.get_id() or "")
    open_doors(batch, run)
    bring_csv(batch, run)
    news = News.of(batch.delivery.notify, run)

    plan = plan_batch(batch, source_of(generator), run)
    show_plan(plan)
    log.info(plan.headline)
    check_caps(plan.to_buy, run)
    if batch.dry_run:
        return planned(plan)

    keep_csv(run)
    check_schedule(batch, generator)
    check_changed(batch, plan)
    check_shards(batch, run, generator, plan)
    if plan.to_buy:
        check_generator(generator)
        run.limit = check_limit(batch.advanced.global_limit, generator)
    check_doors(run)
    approval = approved(batch, plan, run, generator, news)
    if approval.refused:
        return rejected(approval)
    plan = approval.plan
    with stoppable(run.slots, this_run()):
        run.begin(generator.capabilities.provider, plan.batch)
        try:
            news.begun(run, plan)
            with progress_shown(run, len(plan.todo)), handing_on(run, plan) as hand_on:
                for jobs in canary_first(batch, plan, run):
                    generate_in_shards(batch, run, generator, jobs, hand_on)
        finally:  # a run that is ended leaves its reports, too
            run.show_bought(approval.again)
            summary = news.ended(run, hand_on_reports(run, run.finish()))
    show_summary(summary, run)
    log.info("\n".join(summary.lines()))
    ask_to_publish(batch, run, generator, approval, summary, news)
    return ended(summary)
