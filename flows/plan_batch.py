"""What a CSV would cost: the plan of generate-images, for free."""

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.batch import plan as plans
from flows.batch.cap_check import check_caps
from flows.batch.request import Request
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.tasks.artifacts import show_plan
from flows.tasks.destinations import open_doors
from flows.tasks.final_states import planned
from flows.tasks.generators import load_generator, source_of
from flows.tasks.naming import batch_run_name
from flows.tasks.refusals import refused_in_words
from flows.tasks.sources import bring_csv


@flow(name="plan-batch", flow_run_name=batch_run_name, persist_result=False, validate_parameters=False)
@refused_in_words
def plan_batch(batch: BatchSettings) -> State[Any]:
    """Read and check every row, and tell what a run with these settings would buy. Buys nothing, whatever they say."""
    generator = load_generator(batch.generator)
    run = BatchRun.open(Request.of(batch), flow_run.get_id() or "")
    open_doors(batch, run)
    bring_csv(batch, run)

    plan = plans.plan_batch(batch, source_of(generator), run)
    show_plan(plan)
    get_run_logger().info(plan.headline)
    check_caps(plan.to_buy, run)
    return planned(plan)
