"""`rowshot setup` and `rowshot check`, on a real Prefect server: the blocks that they make, and what they say."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cms_server import as_json
from command import rowshot, rowshot_here
from http_double import Answer, Asked, HttpDouble
from prefect.blocks.notifications import SlackWebhook
from slack_server import SECRET, SlackServer

from blocks import AnyCap, CmsSite
from flows.tasks.block_documents import Kind, load_block
from flows.tasks.stores import load_store

pytestmark = pytest.mark.usefixtures("prefect_server")
KEY = "sk-anycap-0123456789"
TOKEN = "cms-token-0123456789"
SECRETS = (KEY, TOKEN, SECRET, "s3-secret-0123456789")


@pytest.fixture
def slack() -> Iterator[SlackServer]:
    """A webhook."""
    with SlackServer() as server:
        yield server


@pytest.fixture
def cms() -> Iterator[str]:
    """The address of a CMS that lets everybody list its items, but for one token."""

    def answer(asked: Asked) -> Answer:
        if asked.headers["Authorization"] == f"Bearer {TOKEN}":
            return as_json({"data": []})
        return as_json({"errors": [{"message": "Invalid user credentials."}]}, 401)

    with HttpDouble(answer) as server:
        yield server.url


def load(name: str, kind: type[Kind]) -> Kind:
    """A block document as the server has it."""
    return load_block(name, kind, "block", "")


def env(folder: Path, **values: str) -> None:
    """Write a .env."""
    (folder / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in values.items()), encoding="utf-8")


def everything(cms: str, webhook: str) -> dict[str, str]:
    """A .env that fills in all there is."""
    return {
        "ANYCAP_API_KEY": KEY,
        "ROWSHOT_S3_BUCKET": "images",
        "ROWSHOT_S3_ENDPOINT": "http://127.0.0.1:9",
        "ROWSHOT_S3_ACCESS_KEY_ID": "s3-key",
        "ROWSHOT_S3_SECRET_ACCESS_KEY": "s3-secret-0123456789",
        "ROWSHOT_CMS_URL": cms,
        "ROWSHOT_CMS_TOKEN": TOKEN,
        "ROWSHOT_CMS_PATH": "/api/products/{{ sku }}",
        "ROWSHOT_SLACK_WEBHOOK": webhook,
    }


def test_setup_is_safe_to_run_again(tmp_path: Path, cms: str, slack: SlackServer) -> None:
    """The first run makes every block, the second changes nothing, a third what has changed; what a person has set on a
    block and the file doesn't tell stays. No secret is shown.
    """
    env(tmp_path, **everything(cms, slack.webhook))
    first = rowshot(tmp_path, "setup", "--name", "one")
    assert first.returncode == 0, first
    made = dict(line.rsplit(maxsplit=1) for line in first.stdout.splitlines()[:5])
    assert {name.strip(): done for name, done in made.items()} == {
        "anycap/one": "made",
        "aws-credentials/one": "made",
        "s3-bucket/one": "made",
        "cms-site/one": "made",
        "slack-webhook/one": "made",
    }
    assert "automation/crashed-runs" in first.stdout
    assert load("anycap/one", AnyCap).api_key.get_secret_value() == KEY
    site = load("cms-site/one", CmsSite)
    assert (site.path, site.token.get_secret_value()) == ("/api/products/{{ sku }}", TOKEN)
    assert load("slack-webhook/one", SlackWebhook).url.get_secret_value() == slack.webhook
    account = load_store("s3-bucket/one").account
    assert (account.bucket, account.endpoint, account.access_key_id) == ("images", "http://127.0.0.1:9", "s3-key")
    assert account.secret_access_key == "s3-secret-0123456789"

    site.timeout_s = 7
    site.save("one", overwrite=True)
    second = rowshot_here(tmp_path, "setup", "--name", "one")
    assert second.returncode == 0, second
    assert sum(line.endswith("as it was") for line in second.stdout.splitlines()) == 5

    env(tmp_path, **everything(cms, slack.webhook) | {"ROWSHOT_CMS_PATH": "/v2/{{ sku }}", "ROWSHOT_S3_FOLDER": "shop"})
    third = rowshot_here(tmp_path, "setup", "--name", "one")
    assert [line.split()[0] for line in third.stdout.splitlines() if line.endswith("changed")] == [
        "s3-bucket/one",
        "cms-site/one",
    ]
    assert (load("cms-site/one", CmsSite).path, load("cms-site/one", CmsSite).timeout_s) == ("/v2/{{ sku }}", 7)
    account = load_store("s3-bucket/one").account
    assert (account.bucket, account.folder, account.access_key_id) == ("images", "shop", "s3-key")
    said = "".join(run.stdout + run.stderr for run in (first, second, third))
    assert not [secret for secret in SECRETS if secret in said]


@pytest.mark.parametrize(
    ("values", "mend"),
    [
        ({}, ".env.example"),
        ({"ROWSHOT_S3_BUKET": "x"}, "ROWSHOT_S3_BUCKET"),
        ({"ROWSHOT_S3_REGION": "x"}, "ROWSHOT_S3_BUCKET is empty"),
        ({"ROWSHOT_S3_BUCKET": "x", "ROWSHOT_S3_ACCESS_KEY_ID": "k"}, "ROWSHOT_S3_SECRET_ACCESS_KEY is empty"),
        ({"ROWSHOT_CMS_TOKEN": TOKEN}, "ROWSHOT_CMS_URL is empty"),
        ({"ROWSHOT_CMS_URL": "cms.example.com", "ROWSHOT_CMS_TOKEN": TOKEN}, "base_url"),
        ({"ROWSHOT_CMS_URL": "https://c.example.com", "ROWSHOT_CMS_BODY": "{"}, "no JSON"),
        ({"ROWSHOT_CMS_URL": "https://c.example.com", "ROWSHOT_CMS_PATH": "/p/{{ skuu }}"}, "It may name sku"),
        ({"ROWSHOT_LIMIT": "many"}, "ROWSHOT_LIMIT is no whole number"),
        ({"ROWSHOT_LIMITS": "8"}, "ROWSHOT_LIMIT, "),
        ({"ROWSHOT_REQUESTS_PER_MINUTE": "1"}, "from 2 on"),
        ({"ROWSHOT_SLACK_WEBHOOK": "https://hooks.slack.com/"}, "new webhook"),
    ],
)
def test_what_a_file_gets_wrong_is_told(tmp_path: Path, values: dict[str, str], mend: str) -> None:
    """A typing error, half a pair of keys, or a value that can't be used is exit code 2 with its mend and no secret."""
    env(tmp_path, **values)
    told = rowshot_here(tmp_path, "setup", "--name", "wrong")
    assert told.returncode == 2, told
    assert mend in told.stderr
    assert TOKEN not in told.stderr
    assert "Traceback" not in told.stderr


def test_setup_without_its_file_or_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are said with their mend."""
    assert "cp .env.example .env" in rowshot_here(tmp_path, "setup").stderr
    env(tmp_path, ANYCAP_API_KEY=KEY)
    monkeypatch.delenv("PREFECT_API_URL")
    told = rowshot(tmp_path, "setup", PREFECT_HOME=str(tmp_path / "prefect"))
    assert (told.returncode, "prefect server start" in told.stderr) == (2, True), told


def test_check_tries_each_door(tmp_path: Path, cms: str, slack: SlackServer) -> None:
    """Doors that are good say so, the others tell their mend, and no message is sent that nobody asked for."""
    env(tmp_path, **everything(cms, slack.webhook))
    assert rowshot_here(tmp_path, "setup", "--name", "two").returncode == 0
    good = ("--generator", "proof", "--cms", "cms-site/two", "--notify", "slack-webhook/two")
    told = rowshot(tmp_path, "check", *good)
    assert told.returncode == 0, told
    assert [line.split()[2] for line in told.stdout.splitlines()[:3]] == ["ok", "ok", "not"]
    assert "--send-test" in told.stdout
    assert slack.messages == []

    sent = rowshot_here(tmp_path, "check", "--notify", "slack-webhook/two", "--send-test")
    assert (sent.returncode, len(slack.messages)) == (0, 1)

    slack.faults.append("no_service")
    env(tmp_path, ROWSHOT_CMS_URL=cms, ROWSHOT_CMS_TOKEN="another-0123456789")
    assert rowshot_here(tmp_path, "setup", "--name", "bad").returncode == 0
    doors = ("--store", "s3-bucket/two", "--cms", "cms-site/bad", "--notify", "slack-webhook/two", "--send-test")
    bad = rowshot_here(tmp_path, "check", *doors, "--generator", "nonsense")
    assert bad.returncode == 2
    assert bad.stdout.count("FAILED") == 4
    for mend in (
        "Check its endpoint",
        "Put a valid one into its block",
        "new webhook",
        "proof, anycap",
        "4 of 4 failed",
    ):
        assert mend in bad.stdout, bad.stdout
    said = told.stdout + told.stderr + sent.stdout + bad.stdout + bad.stderr
    assert not [secret for secret in (*SECRETS, "another-0123456789") if secret in said]


def test_check_without_a_name_tries_all_there_is(tmp_path: Path, cms: str) -> None:
    """Every block of a kind that Rowshot hands on to is tried."""
    env(tmp_path, ROWSHOT_CMS_URL=cms, ROWSHOT_CMS_TOKEN=TOKEN)
    assert rowshot_here(tmp_path, "setup", "--name", "all").returncode == 0
    told = rowshot_here(tmp_path, "check")
    assert "cms-site/all" in told.stdout


def test_a_cms_that_is_down_is_told(tmp_path: Path) -> None:
    """The address is named, as nobody answers there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        env(tmp_path, ROWSHOT_CMS_URL=address, ROWSHOT_CMS_TOKEN=TOKEN)
        assert rowshot_here(tmp_path, "setup", "--name", "down").returncode == 0
        told = rowshot_here(tmp_path, "check", "--cms", "cms-site/down")
    assert told.returncode == 2
    assert f"{address} can't be reached" in told.stdout
