"""One shard of a large run: so many of its rows, bought on its account."""

from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State

from flows.batch.plan import left_of
from flows.batch.problems import NotStarted
from flows.batch.request import Request
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.batch.shard_run import taken
from flows.tasks.destinations import open_doors
from flows.tasks.final_states import this_run
from flows.tasks.generate import generate_images_of
from flows.tasks.generators import load_generator
from flows.tasks.handing_on import handing_on
from flows.tasks.progress_artifact import progress_shown
from flows.tasks.shards import shard_ended, shard_refused
from flows.tasks.stopping import cancelled_if_interrupted, stoppable


@flow(name="generate-shard", persist_result=False, on_crashed=[cancelled_if_interrupted])
def generate_shard(batch: BatchSettings, run_id: str, shard: int) -> State[Any]:
    """Buy what is left of one shard, and hand it on. A run of generate-images starts this; it makes the reports."""
    try:
        generator = load_generator(batch.generator)
        run = BatchRun.open(Request.of(batch), run_id)
        open_doors(batch, run)
        with stoppable(run.slots, this_run(), UUID(run_id)), taken(run, shard) as jobs:
            left = left_of(jobs, run)
            get_run_logger().info("%d of the %d rows of shard %d are left to make", len(left.todo), len(jobs), shard)
            with progress_shown(run, len(left.todo)), handing_on(run, left) as hand_on:
                generate_images_of(run, generator, left.todo, hand_on)
            return shard_ended(run, shard, jobs)
    except NotStarted as error:
        return shard_refused(error)
