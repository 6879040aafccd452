"""A run that waits for a person: before it buys, and before it publishes; on a real server."""

import json
import os
import pty
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from anycap_server import AnyCapServer
from catalog import Catalog, catalog
from command import ROWSHOT, anycap_variables, by_sku, environment, rowshot_here, until, write_csv
from deployed import Deployed
from prefect.client.orchestration import get_client
from recorded import Recorded
from seaweed import Seaweed

from flows.batch.ledger import Ledger
from flows.batch.prices import BUILT_IN
from flows.batch.settings import BatchSettings
from flows.batch.settings_groups import Advanced, Approve
from flows.generate_images import generate_images
from flows.tasks.approval import Terminal, terminal

pytestmark = pytest.mark.usefixtures("prefect_server")
MANIFEST = "output/manifest.csv"


@pytest.fixture
def deployed(tmp_path: Path, anycap_server: AnyCapServer) -> Deployed:
    """A deployment that draws against the provider."""
    return Deployed(tmp_path, anycap_variables(anycap_server, tmp_path))


@pytest.fixture
def shop(s3_server: Seaweed) -> Iterator[Catalog]:
    """A bucket, a CMS and a webhook."""
    with catalog(s3_server) as there:
        yield there


def question(deployed: Deployed, run: UUID) -> tuple[str, dict[str, Any]]:
    """What a suspended run asks, as Markdown, and the fields of its form."""
    keyset = deployed.state(run).state_details.run_input_keyset
    assert keyset
    with get_client(sync_client=True) as client:
        found = {name: client.read_flow_run_input(run, key) for name, key in keyset.items() if name != "response"}
    return json.loads(found["description"]), json.loads(found["schema"])


def statuses(folder: Path) -> dict[str, str]:
    """How the rows stand in the reports."""
    return {sku: row["status"] for sku, row in by_sku(folder / MANIFEST).items()}


def test_nothing_is_bought_before_somebody_has_approved(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer
) -> None:
    """The run is suspended with its plan and price in the form, holds nothing in the ledger, and buys once it is
    approved; a retry of it asks nobody again.
    """
    write_csv(tmp_path / "asked.csv", ["a", "b", "c"])
    run = deployed.start(csv="asked.csv", generator="anycap", approve="before-buying")
    assert deployed.work(run).name == "Suspended"
    told, form = question(deployed, run)
    assert "3 images to buy from asked.csv, for about $0.015" in told
    assert "within 72 hours" in told
    assert list(form["properties"]) == ["answer", "max_cost_usd", "templates"]
    assert form["required"] == ["answer"]
    assert Ledger.open(str(tmp_path / "ledger.sqlite3")).is_idle()
    assert anycap_server.calls.total() == 0

    ended = deployed.answer(run, answer="approve")
    assert (ended.name, ended.message) == ("Completed", "3 of 3")
    assert deployed.flow_run(run).name == "generate-images / asked.csv"
    assert statuses(tmp_path) == dict.fromkeys("abc", "stored")
    again = deployed.retry(run)
    assert (again.name, again.message) == ("Completed", "3 of 3")
    assert set(anycap_server.charges.values()) == {1}


def test_a_rejected_plan_buys_nothing_and_a_retry_asks_again(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer
) -> None:
    """Rejected: the run is Cancelled and says so; who retries it is asked anew."""
    write_csv(tmp_path / "no.csv", ["a"])
    run = deployed.start(csv="no.csv", generator="anycap", approve="before-buying")
    deployed.work(run)
    ended = deployed.answer(run, answer="reject")
    assert (ended.type.value, ended.name) == ("CANCELLED", "Rejected")
    assert "nothing was bought" in str(ended.message)
    assert deployed.retry(run).name == "Suspended"
    assert anycap_server.calls.total() == 0
    assert deployed.answer(run, answer="approve").message == "1 of 1"


def test_an_approval_can_take_less_than_the_plan(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer
) -> None:
    """Only some templates, and no more than so much money: what is left stays pending."""
    lines = ["sku,name,color,template", *(f"h{n},Shirt,red,product_hero" for n in range(3)), "p,Shirt,red,product"]
    (tmp_path / "less.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = deployed.start(csv="less.csv", generator="anycap", approve="before-buying")
    deployed.work(run)
    _, form = question(deployed, run)
    assert form["properties"]["templates"]["items"]["enum"] == ["product", "product_hero"]
    with get_client(sync_client=True) as client:
        for wrong in ({"answer": "perhaps"}, {"answer": "approve", "templates": ["nobody's"]}, {}):
            assert client.resume_flow_run(run, run_input=wrong).status.value == "REJECT"
    assert deployed.answer(run, answer="approve", max_cost_usd="a lot").name == "Suspended"
    assert "'a lot': Write US dollars" in question(deployed, run)[0]
    hero_usd = 0.015
    ended = deployed.answer(run, answer="approve", templates=["product_hero"], max_cost_usd=str(2.5 * hero_usd))
    assert (ended.name, ended.message) == ("Completed", "2 of 4, 2 pending")
    assert statuses(tmp_path) == {"h0": "stored", "h1": "stored", "h2": "pending", "p": "pending"}
    assert anycap_server.charges.total() == 2


def test_an_approval_holds_for_the_plan_that_it_was_given_to(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer
) -> None:
    """Where the file has changed meanwhile, the resumed run asks again, with the new plan."""
    write_csv(tmp_path / "moved.csv", ["a"])
    run = deployed.start(csv="moved.csv", generator="anycap", approve="before-buying")
    deployed.work(run)
    write_csv(tmp_path / "moved.csv", ["a", "b"])
    assert deployed.answer(run, answer="approve").name == "Suspended"
    assert "2 images to buy" in question(deployed, run)[0]
    assert anycap_server.calls.total() == 0
    assert deployed.answer(run, answer="approve").message == "2 of 2"


def test_an_approval_holds_for_the_prices_that_were_told(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer
) -> None:
    """A run that ended half way and is retried asks again for what is left only where the price book is another."""
    write_csv(tmp_path / "dear.csv", ["a", "b", "c"])
    run = deployed.start(csv="dear.csv", generator="anycap", approve="before-buying", concurrency=1)
    deployed.work(run)
    anycap_server.credit = 1
    assert deployed.answer(run, answer="approve").name == "EndedEarly"
    anycap_server.credit = 1
    assert deployed.retry(run).name == "EndedEarly"
    assert anycap_server.charges.total() == 2
    book = BUILT_IN.read_text("utf-8").replace("nano-banana-2,*,0.005", "nano-banana-2,*,0.05")
    (tmp_path / "prices.csv").write_text(book, encoding="utf-8")
    deployed.variables["ROWSHOT_PRICES"] = str(tmp_path / "prices.csv")
    anycap_server.credit = None
    assert deployed.retry(run).name == "Suspended"
    assert "1 image to buy from dear.csv, for about $0.05" in question(deployed, run)[0]
    assert deployed.answer(run, answer="approve").message == "3 of 3"
    assert anycap_server.charges.total() == 3


def test_images_are_published_once_somebody_has_looked(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer, shop: Catalog, recorded: Recorded
) -> None:
    """Made and stored, they wait. One is left out, one is made again with words added and waits once more, the others
    are published; a slip in a sku is asked about again, and the next run leaves what was left out alone.
    """
    write_csv(tmp_path / "look.csv", ["a", "b", "c", "d"])
    given = {"csv": "look.csv", "generator": "anycap", "delivery": shop.delivery}
    run = deployed.start(**given, approve="before-publishing")
    assert deployed.work(run).name == "Suspended"
    assert shop.items == {}
    assert statuses(tmp_path) == dict.fromkeys("abcd", "stored")
    told, form = question(deployed, run)
    assert "4 images to publish" in told
    assert "[Contact sheet](https://cdn.example.com/reports/" in told
    assert list(form["properties"]) == ["answer", "leave_out", "make_again", "add"]

    assert deployed.answer(run, answer="approve", leave_out="a, nobody").name == "Suspended"
    assert "'nobody' is not among the images" in question(deployed, run)[0].replace("\\", "")
    assert shop.items == {}
    again = deployed.answer(run, answer="approve", leave_out="a", make_again="b", add="softer light")
    assert again.name == "Suspended"
    assert sorted(shop.items) == ["c", "d"]
    assert "1 image to publish" in question(deployed, run)[0]
    assert anycap_server.charges.total() == 5

    ended = deployed.answer(run, answer="approve")
    assert (ended.name, ended.message) == ("Completed", "4 of 4, 1 not handed on yet")
    rows = by_sku(tmp_path / MANIFEST)
    assert rows["b"]["prompt"].endswith("softer light")
    assert shop.items == {sku: rows[sku]["url"] for sku in "bcd"}
    assert (rows["a"]["status"], rows["a"]["error_kind"]) == ("stored", "LeftOut")
    assert shop.heard == [
        "look.csv: begun",
        *["look.csv: waits for your answer"] * 2,
        "look.csv: begun",
        "look.csv: waits for your answer",
        "look.csv: done, with failures",
    ]
    assert "rowshot-contact-sheet" in recorded.artifacts(run)

    assert deployed.work(deployed.start(**given)).message == "4 of 4, 1 not handed on yet"
    assert sorted(shop.items) == ["b", "c", "d"]
    assert anycap_server.charges.total() == 5


def test_rejected_images_stay_in_the_store(tmp_path: Path, deployed: Deployed, shop: Catalog) -> None:
    """Rejected as a whole: none is published and none is thrown away; the next run asks again."""
    write_csv(tmp_path / "kept.csv", ["a"])
    given = {"csv": "kept.csv", "generator": "proof", "delivery": shop.delivery, "approve": "before-publishing"}
    run = deployed.start(**given)
    deployed.work(run)
    assert deployed.answer(run, answer="reject").name == "Rejected"
    assert shop.items == {}
    assert statuses(tmp_path) == {"a": "stored"}
    assert deployed.work(deployed.start(**given)).name == "Suspended"


def test_an_image_that_the_cms_refuses_is_not_asked_about_again(
    tmp_path: Path, deployed: Deployed, shop: Catalog
) -> None:
    """The run ends with the others published and says what was not; a retry asks about that alone, and a rejection
    counts only what it holds back.
    """
    write_csv(tmp_path / "lacking.csv", ["a", "b", "c"])
    shop.lacks.add("b")
    given = {"csv": "lacking.csv", "generator": "proof", "delivery": shop.delivery, "approve": "before-publishing"}
    run = deployed.start(**given)
    deployed.work(run)
    ended = deployed.answer(run, answer="approve")
    assert (ended.name, ended.message) == ("Completed", "3 of 3, 1 not handed on yet")
    assert sorted(shop.items) == ["a", "c"]
    assert by_sku(tmp_path / MANIFEST)["b"]["error_kind"] == "MissingSku"

    assert deployed.retry(run).name == "Suspended"
    assert "1 image to publish" in question(deployed, run)[0]
    rejected = deployed.answer(run, answer="reject")
    assert rejected.message == "It was rejected: 1 image stayed in the store, unpublished."


def test_who_can_not_be_asked_is_told_so(tmp_path: Path, shop: Catalog) -> None:
    """A command without a terminal, and images that are published nowhere: nothing starts, and the mend is named."""
    write_csv(tmp_path / "nobody.csv", ["a"])
    for when in ("before-buying", "before-publishing"):
        refused = rowshot_here(tmp_path, "run", "nobody.csv", "--approve", when)
        assert refused.returncode == 2, refused
        assert "no terminal to ask on" in refused.stderr
        assert "--yes" in refused.stderr
    deployed = Deployed(tmp_path)
    nowhere = deployed.work(deployed.start(csv="nobody.csv", approve="before-publishing"))
    assert nowhere.is_failed()
    assert "needs a CMS" in str(nowhere.message)
    assert not (tmp_path / "output").exists()
    agreed = rowshot_here(tmp_path, "run", "nobody.csv", "--approve", "before-buying", "--yes")
    assert agreed.returncode == 0, agreed
    assert shop.items == {}
    assert json.dumps(shop.heard) == "[]"


def test_without_an_answer_the_run_ends_with_nothing_bought(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer
) -> None:
    """Where its time is over before somebody answers, the server ends the run and says so; a retry asks anew."""
    write_csv(tmp_path / "late.csv", ["a"])
    run = deployed.start(csv="late.csv", generator="anycap", approve="before-buying")
    deployed.work(run)
    waiting = deployed.state(run)
    assert waiting.state_details.pause_timeout
    left_s = waiting.state_details.pause_timeout.timestamp() - time.time()
    assert 71 * 3600 < left_s <= 72 * 3600
    overdue = waiting.state_details.model_copy(update={"pause_timeout": datetime.now(UTC) - timedelta(seconds=1)})
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, waiting.model_copy(update={"state_details": overdue}), force=True)
    until(lambda: deployed.state(run).is_failed())
    assert "never resumed" in str(deployed.state(run).message)
    assert anycap_server.calls.total() == 0
    assert deployed.retry(run).name == "Suspended"
    assert deployed.answer(run, answer="approve").message == "1 of 1"


def test_a_command_asks_on_its_terminal(tmp_path: Path, shop: Catalog) -> None:
    """Before buying it is yes or no; before publishing, the skus to leave out and to make again, as in the form. What
    the CMS refuses is told, and not asked about for ever.
    """
    write_csv(tmp_path / "typed.csv", ["a", "b", "c", "d"])
    shop.lacks.add("d")
    code, said = at_a_terminal(tmp_path, ["typed.csv", "--approve", "before-buying"], {"Buy 4 images": "n"})
    assert (code, "was not approved" in said) == (2, True)
    assert not (tmp_path / "output").exists()
    delivery = shop.delivery
    options = ["--store", delivery["store"], "--public-url", delivery["public_url"], "--cms", delivery["cms"]]
    answers = {
        "leave out": "a",
        "make again": "b",
        "Words to add": "softer light",
        "Publish 2 images, and make 1 again?": "y",
        "leave out, ": "",
        "make again ": "",
        "Publish 2 images?": "y",
    }
    code, said = at_a_terminal(tmp_path, ["typed.csv", "--approve", "before-publishing", *options], answers)
    assert code == 1, said
    rows = by_sku(tmp_path / MANIFEST)
    assert rows["b"]["prompt"].endswith("softer light")
    assert shop.items == {sku: rows[sku]["url"] for sku in "bc"}
    assert {sku: rows[sku]["error_kind"] for sku in "ad"} == {"a": "LeftOut", "d": "MissingSku"}


def test_a_word_on_changed_rows_is_no_approval(tmp_path: Path) -> None:
    """Who agrees that many rows are bought anew is asked for approval all the same; only --yes stands for both."""
    skus = [f"s{number}" for number in range(101)]
    write_csv(tmp_path / "many.csv", dict.fromkeys(skus, "sock"))
    assert rowshot_here(tmp_path, "run", "many.csv").returncode == 0
    write_csv(tmp_path / "many.csv", dict.fromkeys(skus, "hat"))
    answers = {"Buy them anew?": "y", "Buy 101 images for free?": "n"}
    code, said = at_a_terminal(tmp_path, ["many.csv", "--approve", "before-buying"], answers)
    assert (code, "was not approved" in said) == (2, True)


def test_a_word_on_the_terminal_holds_for_the_plan_that_was_asked_about(tmp_path: Path) -> None:
    """Where the file changes while the question waits, nothing is bought, and the mend is told."""
    write_csv(tmp_path / "shifted.csv", ["a"])
    batch = BatchSettings(
        csv=str(tmp_path / "shifted.csv"),
        output=str(tmp_path / "output"),
        approve=Approve.BEFORE_BUYING,
        advanced=Advanced(ledger=str(tmp_path / "ledger.sqlite3")),
    )
    before = terminal.set(Terminal(to_buy="another plan"))
    try:
        state = generate_images(batch, return_state=True)
    finally:
        terminal.reset(before)
    assert (state.name, "another plan now" in str(state.message)) == ("NotStarted", True)
    assert not (tmp_path / "output").exists()


def test_with_a_limit_the_next_images_are_asked_about(
    tmp_path: Path, deployed: Deployed, anycap_server: AnyCapServer
) -> None:
    """A retry has used up the run's limit and buys none of them; a new run asks anew."""
    write_csv(tmp_path / "few.csv", ["a", "b", "c"])
    run = deployed.start(csv="few.csv", generator="anycap", approve="before-buying", limit=1)
    deployed.work(run)
    assert deployed.answer(run, answer="approve").name == "Completed"
    assert deployed.retry(run).name == "Completed"
    another = deployed.start(csv="few.csv", generator="anycap", approve="before-buying", limit=1)
    assert deployed.work(another).name == "Suspended"
    assert anycap_server.charges.total() == 1


def at_a_terminal(folder: Path, arguments: list[str], answers: dict[str, str]) -> tuple[int, str]:
    """Run the command on a terminal of its own, and type an answer once each question is there, in this order.

    Gives its exit code and all that it showed.
    """
    ours, theirs = pty.openpty()
    run = subprocess.Popen(
        [ROWSHOT, "run", *arguments], cwd=folder, env=environment(folder), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = unasked = ""
    waiting = list(answers.items())
    while True:
        try:
            read = os.read(ours, 65536).decode(errors="replace")
        except OSError:  # it has closed its terminal: it is over
            break
        said, unasked = said + read, unasked + read
        if waiting and waiting[0][0] in unasked:
            unasked = ""
            os.write(ours, f"{waiting.pop(0)[1]}\n".encode())
    os.close(ours)
    assert waiting == [], said
    return run.wait(timeout=180), said
