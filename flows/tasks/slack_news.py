"""What Slack hears of a run: its start and its end. Nothing here fails a run or changes how it ends."""

from collections.abc import Iterator
from dataclasses import replace

from prefect.blocks.notifications import SlackWebhook
from prefect.runtime import flow_run

from flows.batch.plan import Plan
from flows.batch.run import BatchRun
from flows.batch.slack_message import Links, Picture, end_message, question_message, start_message
from flows.batch.summary import Summary
from flows.tasks.embedded_server import OWN_SERVER
from flows.tasks.notify import load_webhook, tell_slack


class News:
    """Tells the webhook that a batch names, or nobody."""

    def __init__(self, webhook: SlackWebhook | None, invalid_before: int = 0) -> None:
        self._webhook = webhook
        self._invalid_before = invalid_before
        self._unheard = ""
        self._is_idle = False

    @classmethod
    def of(cls, notify: str, run: BatchRun) -> "News":
        """News for `slack-webhook/NAME`; for nobody where that is empty. Raises: NotStarted."""
        return cls(load_webhook(notify), run.ledger.rows.invalid(run.output.name)) if notify else cls(None)

    def begun(self, run: BatchRun, plan: Plan) -> None:
        """The run begins. Of one that finds nothing to do, and nothing newly wrong, nobody hears: it is no news."""
        invalid = sum(1 for row in plan.batch.rows if row.job is None)
        self._is_idle = not (plan.todo or plan.to_store or plan.to_publish or invalid > self._invalid_before)
        goes_on = run.request.holds_back and not plan.to_buy  # somebody has answered, and knows
        if self._webhook is not None and not self._is_idle and not goes_on:
            cost = None if plan.unpriced else plan.cost_usd
            rows, images = len(plan.batch.rows), len(plan.to_buy)
            self._unheard = tell_slack(self._webhook, start_message(run.request.name, rows, images, cost, _page()))

    def asks(self, run: BatchRun, question: str) -> None:
        """The run waits for a person."""
        if self._webhook is not None:
            tell_slack(self._webhook, question_message(run.request.name, question, _page()))

    def ended(self, run: BatchRun, summary: Summary) -> Summary:
        """The run has ended; gives its summary, which says so if Slack could not be told."""
        went_well = not (summary.stopped or summary.delivery_stopped or summary.notes)
        asks_now = run.request.holds_back and summary.held_back
        if self._webhook is None or (went_well and (self._is_idle or asks_now)):
            return summary
        links = Links(_page(), summary.sheet_url or str(summary.contact_sheet))
        message = end_message(run.request.name, summary, links, _pictures(run))
        unheard = tell_slack(self._webhook, message, in_a_hurry=summary.interrupted)
        return replace(summary, unheard=unheard or self._unheard)


def _page() -> str:
    """The flow run's page; empty where the server is the command's own, which has none and ends with it."""
    return "" if OWN_SERVER.get() else str(flow_run.get_flow_run_ui_url() or "")


def _pictures(run: BatchRun) -> Iterator[Picture]:
    """Images of this run that the store gives a public address."""
    if run.shelf is None or run.last_report is None:
        return
    for row in run.last_report.rows:
        if row.run == run.id and row.status.has_image and not row.undelivered:
            url = run.shelf.url(row.thumbnail or row.path)
            if url:
                yield Picture(row.sku, url)
