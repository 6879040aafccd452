"""A run with all three at once: a real S3, a real CMS and a webhook that keeps to Slack's contract; by the command."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, by_sku, rowshot, rowshot_here, start_rowshot, write_csv
from directus import USER, Directus
from recorded import Recorded
from seaweed import Seaweed
from slack_server import SECRET, SlackServer

pytestmark = pytest.mark.usefixtures("prefect_server")
PUBLIC = "https://cdn.example.com/{key}"
HANGUL = "셔츠 A/1 흰색"


@pytest.fixture
def slack() -> Iterator[SlackServer]:
    """A webhook."""
    with SlackServer() as server:
        yield server


def set_up(folder: Path, name: str, cms: Directus, s3: Seaweed, slack: SlackServer) -> tuple[str, ...]:
    """Make the blocks by `rowshot setup`, with a bucket of their own; gives the options of a run."""
    values = {
        "ROWSHOT_S3_BUCKET": s3.bucket(name),
        "ROWSHOT_S3_ENDPOINT": s3.url,
        "ROWSHOT_S3_ACCESS_KEY_ID": s3.key,
        "ROWSHOT_S3_SECRET_ACCESS_KEY": s3.secret,
        "ROWSHOT_CMS_URL": cms.url,
        "ROWSHOT_CMS_TOKEN": USER,
        "ROWSHOT_SLACK_WEBHOOK": slack.webhook,
    }
    secrets = folder / "elsewhere" / "secrets.env"
    secrets.parent.mkdir()
    secrets.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    made = rowshot_here(folder, "setup", "--env", str(secrets), "--name", name)
    assert made.returncode == 0, made
    secrets.unlink()
    return (
        "--generator", "anycap", "--store", f"s3-bucket/{name}", "--public-url", PUBLIC,
        "--cms", f"cms-site/{name}", "--notify", f"slack-webhook/{name}",
    )  # fmt: skip


def test_a_run_with_all_three(
    tmp_path: Path,
    recorded: Recorded,
    anycap_server: AnyCapServer,
    cms: Directus,
    s3_server: Seaweed,
    slack: SlackServer,
    prefix: str,
) -> None:
    """Sixty images are bought, stored, published and announced; one sku that the CMS lacks is that row's failure, and
    is published by the same command once it is there, without a further call. Then all is taken back. No secret is in
    any output, log, parameter, artifact, message, ledger or report.
    """
    options = set_up(tmp_path, "all-three", cms, s3_server, slack)
    checked = rowshot(tmp_path, "check", *options[2:4], *options[6:8])
    assert checked.returncode == 0, checked
    skus = [*(f"{prefix}-{number}" for number in range(58)), f"{prefix} {HANGUL}"]
    late = f"{prefix}-late"
    cms.add(*skus, image_url="https://cdn.example.com/old.png")
    write_csv(tmp_path / "three.csv", [*skus, late])
    variables = anycap_variables(anycap_server, tmp_path)
    first = rowshot(tmp_path, "run", "three.csv", *options, "--concurrency", "8", **variables)
    assert first.returncode == 1, first
    assert "MissingSku" in first.stdout
    assert anycap_server.charges.total() == 60
    rows = by_sku(tmp_path / "output/manifest.csv")
    assert {sku: row["status"] for sku, row in rows.items()} == {**dict.fromkeys(skus, "published"), late: "stored"}
    assert {sku: cms.value(sku) for sku in skus} == {sku: rows[sku]["url"] for sku in skus}
    stored = {f"https://cdn.example.com/{key}" for key in s3_server.keys("all-three", "images/")}
    assert stored == {row["url"] for row in rows.values()}
    begun, ended = slack.messages
    assert "60 images to buy" in begun["text"]
    assert "1 × MissingSku" in json.dumps(ended, ensure_ascii=False)
    assert len([block for block in ended["blocks"] if block["type"] == "image"]) == 3
    assert "https://cdn.example.com/reports/" in json.dumps(ended)

    cms.add(late)
    again = rowshot(tmp_path, "run", "three.csv", *options, **variables)
    assert again.returncode == 0, again
    assert "nothing was bought" in again.stdout
    assert cms.value(late) == by_sku(tmp_path / "output/manifest.csv")[late]["url"]
    assert anycap_server.calls.total() == 60

    flow_runs = recorded.flow_runs("generate-images / three.csv")
    back = rowshot(tmp_path, "unpublish", str(flow_runs[1].id)[:13])
    assert back.returncode == 0, back
    assert "59 items have their former value back" in back.stdout
    assert {cms.value(sku) for sku in skus} == {"https://cdn.example.com/old.png"}
    assert cms.value(late) is not None  # that was the other run's

    seen = [done.stdout + done.stderr for done in (checked, first, again, back)]
    seen += [json.dumps(message) for message in slack.messages]
    for run in flow_runs:
        seen += [run.model_dump_json(), *recorded.logs(run.id)]
        seen += [one.model_dump_json() for one in recorded.artifacts(run.id).values()]
        seen += [one.model_dump_json() for one in recorded.task_runs(run.id, 60 if run == flow_runs[-1] else 1)]
    seen += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(seen) > 200
    secrets = (USER, SECRET, s3_server.secret, anycap_server.key)
    assert not [secret for secret in secrets if any(secret in text for text in seen)]


def test_a_token_that_is_revoked_stops_publishing_alone(
    tmp_path: Path,
    anycap_server: AnyCapServer,
    cms: Directus,
    s3_server: Seaweed,
    slack: SlackServer,
    prefix: str,
) -> None:
    """Revoked in mid-run: every image is bought and stored, none more is published, and the run ends with 3; with the
    token let in again the same command publishes the rest and buys nothing. A token that is bad from the start is found
    before the first call.
    """
    options = set_up(tmp_path, "revoked", cms, s3_server, slack)
    skus = [f"{prefix}-{number}" for number in range(12)]
    cms.add(*skus)
    write_csv(tmp_path / "revoked.csv", skus)
    variables = anycap_variables(anycap_server, tmp_path)
    command = ("run", "revoked.csv", *options, "--concurrency", "2")
    cms.let_in("another-token-0123456789")
    try:
        refused = rowshot_here(tmp_path, *command, **variables)
        assert (refused.returncode, anycap_server.calls.total()) == (2, 0), refused
        assert "does not take the token" in refused.stderr

        cms.let_in(USER)
        anycap_server.delay_s = 1.0
        run = start_rowshot(tmp_path, *command, **variables)
        deadline = time.monotonic() + 60
        while not anycap_server.charges.total() and time.monotonic() < deadline:
            time.sleep(0.05)
        cms.let_in("another-token-0123456789")
        said = run.communicate(timeout=300)[0]
        assert run.returncode == 3, said
        assert "does not take the token" in said
        assert anycap_server.charges.total() == 12
        assert {row["status"] for row in by_sku(tmp_path / "output/manifest.csv").values()} == {"stored"}
    finally:
        cms.let_in(USER)
    assert "ended early" in slack.messages[-1]["text"]
    rest = rowshot_here(tmp_path, *command, **variables)
    assert rest.returncode == 0, rest
    assert "nothing was bought" in rest.stdout
    assert None not in {cms.value(sku) for sku in skus}
    assert anycap_server.calls.total() == 12
