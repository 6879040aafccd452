"""A large batch in shards: one after the other here, or each as a flow run of a deployment, on as many workers as poll.

The run that cuts them follows its shards by what the ledger and the server say of them. One that died is started again
and goes on from the ledger, and so does the run itself: it finds the shards that it had started and follows those.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Failed

from blocks import ImageGenerator
from flows.batch.jobs import Job
from flows.batch.ledger_database import ledger_url
from flows.batch.plan import Plan
from flows.batch.problems import NotStarted, Problem
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.batch.settings_groups import Approve
from flows.batch.shard_run import end_shard, has_shards, images_of
from flows.batch.shards import cut
from flows.tasks.embedded_server import OWN_SERVER
from flows.tasks.generate import generate_images_of
from flows.tasks.handing_on import HandOn
from flows.tasks.limits import find_limit, leased, limit_name, limit_of
from flows.tasks.recording import until_heard
from flows.tasks.shard_runs import ENDED_EARLY, NOT_STARTED, ShardRuns


def generate_in_shards(
    batch: BatchSettings, run: BatchRun, generator: ImageGenerator, jobs: Sequence[Job], hand_on: HandOn
) -> None:
    """Have the images of these jobs, in shards where there are many. Each row's outcome is in the ledger."""
    rows, deployment = batch.advanced.shard_rows, batch.advanced.shard_deployment
    if rows and deployment and (len(jobs) > rows or has_shards(run)):
        ShardRuns(run, settings_of_shard(batch, run), deployment, batch.advanced.shards_at_once).have(jobs, rows)
    elif not rows or len(jobs) <= rows:
        generate_images_of(run, generator, jobs, hand_on)
        until_heard(run)
    else:
        _one_after_the_other(run, generator, jobs, rows, hand_on)
        until_heard(run)


def _one_after_the_other(
    run: BatchRun, generator: ImageGenerator, jobs: Sequence[Job], rows: int, hand_on: HandOn
) -> None:
    shards = list(cut(jobs, rows))
    log = get_run_logger()
    log.info("%d rows to make, in %d shards one after the other", len(jobs), len(shards))
    # One lease for all: between two shards the server may be away, and the slots be another run's.
    with leased(run.slots, limit_of(run, generator), len(jobs)):
        for number, shard in enumerate(shards, start=1):
            if run.slots.stopped is not None:
                break
            generate_images_of(run, generator, shard, hand_on, lease=False)
            log.info("Shard %d of %d has ended", number, len(shards))


def check_shards(batch: BatchSettings, run: BatchRun, generator: ImageGenerator, plan: Plan) -> None:
    """Raise NotStarted where shards are to be flow runs of a deployment, and can't be."""
    rows, name = batch.advanced.shard_rows, batch.advanced.shard_deployment
    if not name or not rows or (len(plan.todo) <= rows and not has_shards(run)):
        return
    here = "or leave the deployment for shards empty: they then run one after the other, here"
    if OWN_SERVER.get():
        mend = f"Start one with `prefect server start`, set PREFECT_API_URL, start a worker; {here}."
        raise NotStarted([Problem("Shards as flow runs need a Prefect server of your own with a worker.", mend)])
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(name)
        except (ObjectNotFound, ValueError) as error:
            mend = f"Make it with `prefect deploy --all`, {here}."
            raise NotStarted([Problem(f"The Prefect server has no deployment {name!r}.", mend)]) from error
    if not generator.capabilities.free and not find_limit(batch.advanced.global_limit, generator):
        limit = batch.advanced.global_limit or limit_name(generator.capabilities.provider)
        what = f"The Prefect server has no global concurrency limit {limit!r}, which is what holds over shards."
        raise NotStarted([Problem(what, f"Make it with `rowshot setup`, or `prefect gcl create {limit} --limit N`.")])


def settings_of_shard(batch: BatchSettings, run: BatchRun) -> BatchSettings:
    """What a shard's flow run is given: it reads no file of rows, and may be started in another folder."""
    url = ledger_url(batch.advanced.ledger)
    ledger = url if url.startswith("sqlite") else batch.advanced.ledger  # an address with a password is not passed on
    prices = batch.money.prices
    cap_usd = run.request.caps.run_usd  # a person who approved may have lowered it
    money = batch.money.model_copy(
        update={
            "prices": str(Path(prices).expanduser().absolute()) if prices else "",
            "max_cost_usd": "" if cap_usd is None else f"{cap_usd:f}",
        }
    )
    delivery = batch.delivery.model_copy(
        update={"notify": "", "cms": batch.delivery.cms if run.site and not run.request.holds_back else ""}
    )
    whole = {"csv": run.request.name, "pasted": "", "template": "product", "model": "", "limit": 0}
    whole |= {"approve": Approve.NO, "output": run.output.name}
    advanced = batch.advanced.model_copy(update={"ledger": ledger, "shard_deployment": ""})
    return batch.model_copy(update={**whole, "money": money, "delivery": delivery, "advanced": advanced})


def shard_ended(run: BatchRun, number: int, jobs: Sequence[Job]) -> State[Any]:
    """Write down how a shard has ended; gives its flow run's state."""
    end_shard(run, number)
    until_heard(run)
    told = f"{images_of(run, jobs):,} of {len(jobs):,} rows have their image"
    if run.slots.stopped is None:
        return Completed(message=told)
    told = f"{run.slots.stopped} {told}."
    return Cancelled(message=told) if run.slots.interrupted else Failed(name=ENDED_EARLY, message=told)


def shard_refused(error: NotStarted) -> State[Any]:
    """The state of a shard's flow run that could not begin: another try would not either."""
    return Failed(name=NOT_STARTED, message=str(error))
