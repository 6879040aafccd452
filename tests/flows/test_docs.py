"""Every command that the pages tell people to type is typed here: in a clone, with a server, a worker, a provider, an
S3, a CMS and a Slack of its own.
"""

import contextlib
import os
import pty
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import pytest
from anycap_server import AnyCapServer
from catalog import Items
from cli import VERSION, anycap_executable
from cms_server import CmsServer
from command import anycap_variables, environment, rowshot_here, until, write_csv
from documented import REPO, commands, documented, fenced
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from processes import end
from seaweed import Seaweed, free_ports
from served import copy_of_repo
from slack_server import SlackServer

PATIENCE_S = 300
# Run by tests of their own, which take the very line from its page, or set up what it says for every other test.
ELSEWHERE = {
    "npm install -g @anycap": "tests/doubles/cli.py",
    "prefect deploy --prefect-file": "tests/flows/test_automations.py",
    "prefect event emit": "tests/flows/test_automations.py",
    "prefect automation create": "tests/flows/test_automations.py",
}
# Their page says "Not run here"; tests/server runs what they would start as native processes.
CONTAINERS = (
    "docker compose --file deploy/compose.yaml up --detach --build --wait",
    "docker compose --file deploy/compose.yaml exec -T database pg_dump -U postgres -Fc rowshot > rowshot.dump",
)
# What is typed, in order. The same line on another page is typed once.
TYPED = (
    """
make demo
prefect server start
rowshot plan products.csv
rowshot run products.csv
export ROWSHOT_ANYCAP=$(npm root -g)/@anycap/cli-linux-x64/bin/anycap
export ANYCAP_API_KEY=...
rowshot plan products.csv --generator anycap
rowshot run products.csv --generator anycap --limit 10
rowshot run products.csv --generator anycap
prefect work-pool create rowshot --type process
prefect deploy --all
prefect worker start --pool rowshot
prefect deployment run generate-images/generate-images --param batch='{"csv": "examples/products.csv"}'
prefect deploy --name nightly-catalog
prefect deployment schedule ls generate-images/nightly-catalog
prefect deployment run generate-images/nightly-catalog
cp .env.example .env && chmod 600 .env
rowshot setup
rowshot check
rowshot run products.csv --generator anycap --store s3-bucket/rowshot --public-url 'https://cdn.example.com/{key}'
rowshot run products.csv --generator anycap --store s3-bucket/rowshot --public-url 'https://cdn.example.com/{key}' \
--cms cms-site/rowshot --notify slack-webhook/rowshot
rowshot unpublish 3f2a91c7
rowshot run products.csv --generator anycap --canary 5 --max-cost 20
rowshot run products.csv --generator anycap --approve before-buying
rowshot run products.csv --generator anycap --shards-on generate-shard/generate-shard --shards-at-once 4
rowshot spend
rowshot spend --by run
rowshot plan products.csv --templates my_templates --template gift_box
rowshot plan shop.csv --map name=상품명 --map color=색상
prefect block register -m blocks
prefect block create anycap
prefect block inspect slack-webhook/rowshot
from blocks import AnyCap
AnyCap(api_key="...", account="team", usd_per_credit="0.01").save("team")
cp deploy/server.env.example deploy/.env && chmod 600 deploy/.env
export PREFECT_API_URL=http://127.0.0.1:4200/api
export PREFECT_API_AUTH_STRING=<PREFECT_AUTH_STRING>
export ROWSHOT_LEDGER=postgresql+psycopg://rowshot:<LEDGER_DATABASE_PASSWORD>@127.0.0.1:5432/rowshot
""".replace("\\\n", "")
    .strip()
    .splitlines()
)


@dataclass
class Reader:
    """Somebody with a clone and a terminal."""

    clone: Path
    variables: dict[str, str]
    outside: dict[str, str]  # a line of .env each
    kept: contextlib.ExitStack

    def type(self, line: str) -> None:
        """Do what the line says."""
        match line.replace("(", " ").split(maxsplit=1)[0]:
            case "export":
                assert line.removeprefix("export ").partition("=")[0] in {*self.variables, "PREFECT_API_AUTH_STRING"}
            case "from" | "AnyCap":
                self.python(f"from blocks import AnyCap\n{line}")
            case "make":  # -o: the environment that this test runs in stands for that which `make` would install
                (self.clone / ".venv").symlink_to(Path(sys.executable).parents[1], target_is_directory=True)
                self.shell(f"make -o setup-run {line.removeprefix('make ')}")
            case "rowshot" if "--approve" in line:
                self.at_terminal(line)
            case "rowshot":
                self.rowshot(shlex.split(line)[1:])
            case "prefect":
                self.prefect(line)
            case _:
                self.shell(line)
        if line.startswith("cp .env.example"):
            text = (self.clone / ".env").read_text(encoding="utf-8")
            assert all(f"{name}=" in text for name in self.outside)
            (self.clone / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in self.outside.items()))

    def rowshot(self, arguments: list[str]) -> str:
        """The command, in this process."""
        if arguments[0] == "unpublish":  # of no run yet: the refusal names those that there are
            refused = rowshot_here(self.clone, *arguments, **self.variables)
            found = re.search(r"Runs that have: ([0-9a-f]{8})", refused.stderr)
            assert found, refused
            arguments = ["unpublish", found[1]]
        with temporary_settings({PREFECT_API_URL: self.variables.get("PREFECT_API_URL")}):
            done = rowshot_here(self.clone, *arguments, **self.variables)
        assert done.returncode == 0, done
        return done.stdout

    def at_terminal(self, line: str) -> None:
        """A command that asks its question on a terminal; the answer is yes."""
        keyboard, screen = pty.openpty()
        os.write(keyboard, b"y\n")
        try:
            self.shell(line, stdin=screen)
        finally:
            os.close(keyboard)
            os.close(screen)

    def prefect(self, line: str) -> None:
        """Prefect's command; a server and a worker go on until the test ends."""
        if "start" not in line.split()[1:3]:
            self.shell(line)
            return
        with (self.clone / "long.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", *shlex.split(line)],
                cwd=self.clone,
                env=self._environment(),
                stdout=log,
                stderr=log,
            )
        self.kept.callback(end, child)
        if "server" in line:
            address = f"http://127.0.0.1:{self.variables['PREFECT_SERVER_API_PORT']}/api"
            until(lambda: answers(address))
            self.variables["PREFECT_API_URL"] = address

    def shell(self, line: str, stdin: int = subprocess.DEVNULL) -> None:
        """As a person's own shell does it."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.clone,
            env=self._environment(),
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done

    def python(self, text: str) -> None:
        """In Python, in the clone."""
        self.shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(text)}")

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return environment(self.clone, PATH=path, **self.variables)


def answers(address: str) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, s3_server: Seaweed) -> Iterator[Reader]:
    """The clone has what the pages take for granted: two CSVs, and the template that a page tells."""
    clone = copy_of_repo(tmp_path_factory.mktemp("a clone"))
    write_csv(clone / "products.csv", {"A-1": "양말", "A-2": "모자", "A-3": "장갑"})
    (clone / "shop.csv").write_text("sku,상품명,색상\nB-1,우산,검정\n", encoding="utf-8")
    (clone / "my_templates").mkdir()
    (clone / "my_templates/gift_box.jinja").write_text(fenced("docs/templates.md", "jinja")[0], encoding="utf-8")
    s3_server.bucket("documented")
    with contextlib.ExitStack() as kept:
        provider = kept.enter_context(AnyCapServer())
        cms = kept.enter_context(CmsServer(Items()))
        slack = kept.enter_context(SlackServer())
        variables = {
            **anycap_variables(provider, clone),
            "PREFECT_HOME": str(clone / "prefect"),
            "PREFECT_PROFILES_PATH": str(clone / "prefect/profiles.toml"),
            "PREFECT_SERVER_API_PORT": str(free_ports(1)[0]),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "ROWSHOT_LEDGER": f"sqlite:///{clone / 'ledger.sqlite3'}",
        }
        outside = {
            "ANYCAP_API_KEY": provider.key,
            "ROWSHOT_S3_BUCKET": "documented",
            "ROWSHOT_S3_REGION": "us-east-1",
            "ROWSHOT_S3_ENDPOINT": s3_server.url,
            "ROWSHOT_S3_ACCESS_KEY_ID": s3_server.key,
            "ROWSHOT_S3_SECRET_ACCESS_KEY": s3_server.secret,
            "ROWSHOT_CMS_URL": cms.url,
            "ROWSHOT_CMS_TOKEN": "token-0123456789",
            "ROWSHOT_SLACK_WEBHOOK": slack.webhook,
        }
        yield Reader(clone, variables, outside, kept)


def test_no_command_is_left_out() -> None:
    """A line that a page gains must be typed here, and one that no page has any more isn't."""
    told = {command.text for command in commands() if not command.text.startswith(tuple(ELSEWHERE))}
    assert sorted(told) == sorted({*TYPED, *CONTAINERS})


def test_what_others_run_is_run_by_them() -> None:
    """The AnyCap CLI of all tests is the documented one; a page whose commands are not run says so."""
    for start, file in ELSEWHERE.items():
        assert documented(start)
        assert start in (REPO / file).read_text(encoding="utf-8")
    package, _, version = documented("npm install -g @anycap").split()[-1].rpartition("@")
    assert version == VERSION
    program = documented("export ROWSHOT_ANYCAP=").removeprefix("export ROWSHOT_ANYCAP=$(npm root -g)/")
    assert program == f"{package}/bin/anycap"
    assert anycap_executable().match("node_modules/@anycap/*/bin/anycap"), "npm puts it elsewhere than the pages say"
    pages = {command.page for command in commands() if command.text in CONTAINERS}
    assert all("Not run here" in (REPO / page).read_text(encoding="utf-8") for page in pages)


@pytest.mark.parametrize("line", TYPED)
def test_the_command_does_its_work(line: str, reader: Reader) -> None:
    """It ends well, in the clone, after those before it."""
    reader.type(line)


def test_what_was_asked_for_is_done(reader: Reader) -> None:
    """The worker that was started has done both runs that deployments were asked for."""

    def done() -> bool:
        api = {PREFECT_API_URL: reader.variables["PREFECT_API_URL"]}
        with temporary_settings(api), get_client(sync_client=True) as client:
            runs = [run for run in client.read_flow_runs() if run.deployment_id]
        assert len(runs) == 2
        assert not [run for run in runs if run.state_name in {"Failed", "Crashed", "NotStarted"}]
        return all(run.state_name == "Completed" for run in runs)

    until(done)
