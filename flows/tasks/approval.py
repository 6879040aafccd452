"""Having a person's word before images are bought or published. An answer holds for the very plan that it was given to.

A run that asks is suspended: the call does not return, and once it is answered the flow starts from its top.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NoReturn

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.input import RunInput
from prefect.states import Cancelled
from pydantic import Field, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo

from blocks import ImageGenerator
from flows.batch.approval import (
    Narrowed,
    Reviewed,
    held_back,
    leave_out,
    mark_of_publishing,
    mark_of_purchase,
    narrowed,
    narrowed_told,
    publishing_told,
    purchase_told,
    reviewed,
    skus_in,
    templates_of,
    was_begun_with,
)
from flows.batch.cap_check import check_caps
from flows.batch.caps import Dollars
from flows.batch.jobs import Job
from flows.batch.markdown import escaped
from flows.batch.plan import Plan, plan_batch
from flows.batch.problems import NotStarted, Problem
from flows.batch.run import BatchRun
from flows.batch.settings import BatchSettings
from flows.batch.settings_groups import Approve
from flows.batch.summary import Summary
from flows.batch.words import counted
from flows.tasks.generators import check_generator, source_of
from flows.tasks.questions import Questions
from flows.tasks.slack_news import News


class Answer(StrEnum):
    """Yes or no."""

    APPROVE = "approve"
    REJECT = "reject"


class BuyAnswer(RunInput):
    """What a person answers before images are bought."""

    answer: Answer = Field(
        title="Answer",
        description="approve: the images are bought. reject: the run ends, and nothing is bought.",
        json_schema_extra={"position": 0},
    )
    max_cost_usd: str = Field(
        default="",
        title="Spend at most (USD)",
        description="Buy only the first images that fit under it, such as 25 or 0.50. Empty: all of the plan.",
        json_schema_extra={"position": 1},
    )
    templates: list[str] = Field(
        default=[],
        title="Only these templates",
        description="Rows of the others stay pending. None chosen: all.",
        json_schema_extra={"position": 2},
    )


class PublishAnswer(RunInput):
    """What a person answers before images are published."""

    answer: Answer = Field(
        title="Answer",
        description="approve: the images are published. reject: the run ends, and none is published.",
        json_schema_extra={"position": 0},
    )
    leave_out: str = Field(
        default="",
        title="SKUs to leave out",
        description="Separated by commas. Their images are not published, and the reports say so.",
        json_schema_extra={"position": 1},
    )
    make_again: str = Field(
        default="",
        title="SKUs to make again",
        description="Separated by commas. They are bought anew, and you are asked again before they are published.",
        json_schema_extra={"position": 2},
    )
    add: str = Field(
        default="",
        title="Words to add to their prompts",
        description="Such as: softer light, no shadow. Empty: the same prompt once more.",
        json_schema_extra={"position": 3},
    )


@dataclass(frozen=True, slots=True)
class Terminal:
    """A command that asks by itself. `to_buy`: the mark of the plan that it may buy, if it was asked about one.

    `said`: what was answered of the images to publish; None before that.
    """

    said: Reviewed | None = None
    to_buy: str = ""


# Set by a command that has a terminal to ask on.
terminal: ContextVar[Terminal | None] = ContextVar("terminal", default=None)


@dataclass(frozen=True, slots=True)
class Approval:
    """What a run may do now. `again`: images that are made again on purpose; `refused`: why it may do nothing."""

    plan: Plan
    again: Sequence[Job] = ()
    refused: str = ""


def approved(batch: BatchSettings, plan: Plan, run: BatchRun, generator: ImageGenerator, news: News) -> Approval:
    """What of the plan may be done now. Where a person must be asked before that, the run is suspended here.

    Raises: NotStarted where nobody can be asked.
    """
    match batch.approve:
        case Approve.BEFORE_BUYING if plan.to_buy:
            return _to_buy(batch, plan, run, news)
        case Approve.BEFORE_PUBLISHING:
            return _to_publish(batch, plan, run, generator, news)
        case _:
            return Approval(plan)


def ask_to_publish(
    batch: BatchSettings, run: BatchRun, generator: ImageGenerator, approval: Approval, summary: Summary, news: News
) -> None:
    """Suspend a run whose images are made until a person has looked at them; returns where none wait to be published
    but those that were approved and that the CMS has refused: they are told as failures, and asked about no more.

    By then its reports are written, and it holds nothing in the ledger.
    """
    ended_early = summary.stopped or summary.delivery_stopped
    if batch.approve is not Approve.BEFORE_PUBLISHING or ended_early or terminal.get():
        return
    plan = plan_batch(batch, source_of(generator), run)
    if set(plan.to_publish) - set(approval.plan.to_publish):
        _ask_to_publish(batch, plan, run, news, f"{summary}.", summary.sheet_url or str(summary.contact_sheet))


def rejected(approval: Approval) -> State[Any]:
    """The final state of a run that a person has rejected."""
    return Cancelled(name="Rejected", message=approval.refused)


def _to_buy(batch: BatchSettings, plan: Plan, run: BatchRun, news: News) -> Approval:
    mark = mark_of_purchase(plan, run.prices)
    if on_terminal := terminal.get():
        if mark != on_terminal.to_buy:
            what = "There is another plan now than the one that was approved: the file has changed, or a price."
            raise NotStarted([Problem(what, "Run the same command again, which asks about that one.")])
        return Approval(plan)
    questions = Questions.of_this_run("buy")
    answer = questions.answer(mark, BuyAnswer)
    if answer is None and not batch.limit and was_begun_with(plan.to_buy, run):
        # It was cut off: what is left of an approved plan is approved, while the prices are those that were told.
        answer = questions.newest_answer(BuyAnswer, run.prices.mark)
    slip = _slip_in(answer) if answer else ""
    if answer is None or slip:
        hours = batch.advanced.approve_within_hours
        _say(news, run, f"To be approved before it buys: {plan.headline}", hours)
        told = f"**{slip}**\n\n" if slip else ""
        form = _with_templates(templates_of(plan))
        questions.ask(mark, form, told + purchase_told(plan, hours), hours, under=run.prices.mark)
    if answer.answer is Answer.REJECT:
        questions.forget(mark)  # who retries a rejected run wants to be asked again
        return Approval(plan, refused=f"It was rejected, and nothing was bought. {plan.headline}.")
    wanted = Narrowed(answer.max_cost_usd.strip(), tuple(answer.templates))
    approved_plan = narrowed(plan, wanted, run)
    get_run_logger().info("Approved: %s%s", approved_plan.headline, narrowed_told(wanted))
    check_caps(approved_plan.to_buy, run)
    return Approval(approved_plan)


def _slip_in(answer: BuyAnswer) -> str:
    """What the form let through and nobody could have meant; empty where nothing."""
    try:
        TypeAdapter(Dollars).validate_python(answer.max_cost_usd)
    except ValidationError as error:
        return escaped(f"{answer.max_cost_usd!r}: {error.errors()[0]['msg']}.")
    return ""


def _to_publish(batch: BatchSettings, plan: Plan, run: BatchRun, generator: ImageGenerator, news: News) -> Approval:
    if run.site is None:
        mend = "Name one (cms-site/NAME), or ask before-buying."
        raise NotStarted([Problem("Approval before publishing needs a CMS to publish to.", mend)])
    on_terminal = terminal.get()
    if on_terminal:
        return _reviewed(batch, plan, run, generator, on_terminal.said) if on_terminal.said else _held_back(plan)
    questions = Questions.of_this_run("publish")
    mark = mark_of_publishing(plan)
    answer = questions.answer(mark, PublishAnswer) if plan.to_publish else None
    if answer is None:
        return _held_back(plan)
    if answer.answer is Answer.REJECT:
        questions.forget(mark)
        waiting = counted(len(plan.to_publish), "image")
        return Approval(plan, refused=f"It was rejected: {waiting} stayed in the store, unpublished.")
    said = Reviewed(skus_in(answer.leave_out), skus_in(answer.make_again), answer.add.strip())
    try:
        return _reviewed(batch, plan, run, generator, said)
    except NotStarted as slip:  # such as a sku that isn't there: the person is asked again, with what was wrong
        _ask_to_publish(batch, plan, run, news, f"**{escaped(str(slip))}**", str(run.output.root / "index.html"))


def _held_back(plan: Plan) -> Approval:
    if plan.to_publish:
        get_run_logger().info("%d images that are stored wait to be approved, too", len(plan.to_publish))
    return Approval(held_back(plan))


def _reviewed(batch: BatchSettings, plan: Plan, run: BatchRun, generator: ImageGenerator, said: Reviewed) -> Approval:
    approved_plan = reviewed(plan, said, batch, source_of(generator), run)
    if approved_plan.to_buy:
        check_generator(generator)
        check_caps(approved_plan.to_buy, run)
    leave_out(plan.to_publish, said.left_out, run)
    get_run_logger().info(
        "Approved: %d to publish, %d left out, %d to make again",
        len(approved_plan.to_publish),
        len(said.left_out),
        len(said.again),
    )
    return Approval(approved_plan, again=approved_plan.to_buy)


def _ask_to_publish(batch: BatchSettings, plan: Plan, run: BatchRun, news: News, told: str, sheet: str) -> NoReturn:
    hours = batch.advanced.approve_within_hours
    waiting = len(plan.to_publish)
    _say(news, run, f"To be approved before they are published: {waiting:,} images, {sheet}", hours)
    questions = Questions.of_this_run("publish")
    questions.ask(mark_of_publishing(plan), PublishAnswer, publishing_told(plan, told, sheet, hours), hours)


def _with_templates(names: Sequence[str]) -> type[RunInput]:
    """The form with the plan's templates as a list to choose from."""
    field: FieldInfo = deepcopy(BuyAnswer.model_fields["templates"])
    choices: Any = list[Literal[tuple(names)]]  # type: ignore[misc]
    return create_model("BuyAnswer", __base__=BuyAnswer, templates=(choices, field))


def _say(news: News, run: BatchRun, told: str, hours: int) -> None:
    get_run_logger().info("%s (it waits %d hours; Resume on this page is where to answer)", told, hours)
    news.asks(run, told)
