"""What Slack hears of a run, and that its being down changes nothing; on a webhook that keeps to Slack's contract."""

import json
from pathlib import Path

import pytest
from command import rowshot, rowshot_here, write_csv
from prefect.blocks.notifications import SlackWebhook
from pydantic import SecretStr
from recorded import Recorded
from slack_server import SECRET, SlackServer

from flows.batch.slack_message import without_pictures
from flows.tasks.notify import notify_slack

pytestmark = pytest.mark.usefixtures("prefect_server")


def webhook(slack: SlackServer, name: str) -> str:
    """Save Prefect's own block with the webhook's address; gives the name that a run names it by."""
    SlackWebhook(url=SecretStr(slack.webhook)).save(name, overwrite=True)
    return f"slack-webhook/{name}"


def test_slack_hears_of_the_start_and_the_end(tmp_path: Path, prefect_server: str, recorded: Recorded) -> None:
    """Two messages, with rows, cost, counts and a link to the run; the address is in no output, log, parameter,
    artifact, ledger or report.
    """
    (tmp_path / "heard.csv").write_text("sku,name,color\na,sock,red\nb,,red\n", encoding="utf-8")
    with SlackServer() as slack:
        told = rowshot(tmp_path, "run", "heard.csv", "--skip-invalid", "--notify", webhook(slack, "heard"))
        assert told.returncode == 1, told
    start, end = slack.messages
    assert start["text"] == "heard.csv: begun. 2 rows; 1 image to buy, for free."
    assert end["text"].startswith("heard.csv: done, with failures. 1 of 2 rows have their image, 1 invalid")
    (run,) = recorded.flow_runs("generate-images / heard.csv")
    page = f"{prefect_server.removesuffix('/api')}/flow-runs/flow-run/{run.id}"
    assert all(f"<{page}|Run>" in json.dumps(message) for message in (start, end))
    assert "1 × Invalid, e.g. line 3, b" in json.dumps(end, ensure_ascii=False)
    assert str(tmp_path / "output/index.html") in json.dumps(end)

    seen = [told.stdout, told.stderr, run.model_dump_json(), *recorded.logs(run.id)]
    seen += [artifact.model_dump_json() for artifact in recorded.artifacts(run.id).values()]
    seen += [task.model_dump_json() for task in recorded.task_runs(run.id, 3)]
    seen += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(seen) > 10
    assert not [text for text in seen if SECRET in text]


@pytest.mark.parametrize("faults", [["no_service"] * 2, ["429", "429"], ["hang up"] * 6])
def test_slack_never_changes_how_a_run_ends(tmp_path: Path, recorded: Recorded, faults: list[str]) -> None:
    """Refused or down: the run ends as it would have, and says so; a 429 is waited out and nothing is missed."""
    csv = f"{faults[0].replace(' ', '-')}.csv"
    write_csv(tmp_path / csv, ["a"])
    with SlackServer(*faults) as slack:
        told = rowshot_here(tmp_path, "run", csv, "--notify", webhook(slack, "faulty"))
    assert told.returncode == 0, told
    assert "1 of 1 rows have their image" in told.stdout
    heard = faults[0] == "429"
    assert len(slack.messages) == (2 if heard else 0)
    assert ("Slack was not told" in told.stdout) is not heard
    (run,) = recorded.flow_runs(f"generate-images / {csv}")
    assert run.state is not None
    assert run.state.is_completed()
    summary = recorded.artifacts(run.id)["rowshot-summary"]
    assert ("Slack was not told" in str(summary.data)) is not heard
    logs = recorded.logs(run.id)
    assert not [text for text in (told.stdout, told.stderr, str(summary.data), *logs) if SECRET in text]


def test_a_slack_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    """With nobody at the address the images are made all the same."""
    write_csv(tmp_path / "gone.csv", ["a"])
    with SlackServer() as slack:
        name = webhook(slack, "gone")
    told = rowshot_here(tmp_path, "run", "gone.csv", "--notify", name)
    assert (told.returncode, "Slack was not told: Slack can't be reached" in told.stdout) == (0, True), told


@pytest.mark.parametrize("name", ["slack-webhook/nobody", "anycap/nobody"])
def test_a_webhook_that_is_not_there_is_found_first(tmp_path: Path, name: str) -> None:
    """Nothing is bought in the belief that somebody will hear of it."""
    write_csv(tmp_path / "none.csv", ["a"])
    told = rowshot_here(tmp_path, "run", "none.csv", "--notify", name)
    assert told.returncode == 2, told
    assert "slack-webhook/NAME" in told.stderr
    assert not (tmp_path / "output/images").exists()


def test_a_picture_that_slack_cannot_fetch_costs_only_the_picture() -> None:
    """Slack refuses a whole message for one image that it can't load: it is sent again without."""
    image = {"type": "image", "image_url": "https://cdn.example.com/a.png", "alt_text": "a"}
    section = {"type": "section", "text": {"type": "mrkdwn", "text": "hello"}}
    message = {"text": "hello", "blocks": [section, image]}
    with SlackServer(images_load=False) as slack:
        notify_slack(SlackWebhook(url=SecretStr(slack.webhook)), message)
    assert slack.messages == [without_pictures(message)]
