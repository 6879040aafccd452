"""A person at the pages of a real Prefect server, whose runs a real worker does."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from anycap_server import AnyCapServer
from command import anycap_variables, until, write_csv
from playwright.sync_api import Locator, Page, expect
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import SCHEDULE_TYPES, IntervalSchedule
from recorded import Recorded
from served import Served, copy_of_repo

Shown = Callable[[Page, Locator], None]
Picture = Callable[[Page | Locator, str], None]
PATIENCE_S = 180
BUSY = 503
MOST_PRESSES = 5
LONG = 60  # rows, at 4 in 5 s: a run that goes on for longer than a busy machine takes to cancel it
NAMES = ("양말", "모자", "셔츠", "우산", "장갑", "목도리")


@pytest.fixture(scope="module")
def provider() -> Iterator[AnyCapServer]:
    """What the real AnyCap CLI draws against."""
    with AnyCapServer() as server:
        yield server


@pytest.fixture(scope="module")
def served(
    prefect_server_url: str, provider: AnyCapServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A deployed clone with its worker."""
    clone = copy_of_repo(tmp_path_factory.mktemp("shop"))
    place = Served(clone, prefect_server_url, anycap_variables(provider, clone))
    place.deploy()
    with place.worker():
        yield place


@pytest.fixture(autouse=True)
def quick(served: Served, provider: AnyCapServer) -> None:  # noqa: ARG001 - the server starts before the browser, and ends after it
    """The provider answers at once unless a test says otherwise."""
    provider.delay_s = 0.0


def form(window: Page, served: Served, deployment: str = "generate-images") -> None:
    """From the list of deployments to the form."""
    window.goto(f"{served.pages}/deployments")
    window.locator("a[href*='/deployments/deployment/']").get_by_text(deployment, exact=True).click()
    window.get_by_role("button", name="Run", exact=True).click()
    window.get_by_role("menuitem", name="Custom run").click()
    expect(window.get_by_role("button", name="Submit")).to_be_visible()


def done(window: Page, call: str, press: Callable[[], None]) -> Any:
    """Press, and once more where the server's database is busy (503), as its pages then ask for; gives the answer."""
    for _ in range(MOST_PRESSES):
        with window.expect_response(lambda answer: answer.url.endswith(call)) as answered:
            press()
        if answered.value.status != BUSY:
            break
    assert answered.value.ok, answered.value.text()
    return answered.value.json()


def submit(window: Page, served: Served) -> None:
    """Send the form off and go to its run, as the link in the note that shows for some seconds does."""
    run = done(window, "/create_flow_run", window.get_by_role("button", name="Submit").click)["id"]
    window.goto(f"{served.pages}/runs/flow-run/{run}")
    expect(window.get_by_role("tab", name="Details")).to_be_visible()


def artifact(window: Page, name: str) -> None:
    """From a run's artifacts to the newest of this name."""
    window.get_by_role("link", name=name).click()
    window.locator("a[href*='/artifacts/artifact/']").first.click()


def ask_first(window: Page, served: Served, name: str) -> None:
    """Start a run that costs money, and have it ask before it buys."""
    form(window, served)
    window.get_by_label("CSV file").fill(f"{name}.csv")
    window.get_by_label("Image generator").fill("anycap")
    window.get_by_label("Output folder").fill(name)
    choose(window, "Ask for approval", "before-buying")
    submit(window, served)


def choose(place: Page | Locator, field: str, choice: str) -> None:
    """Choose from a list of the form."""
    place.get_by_label(field).or_(place.get_by_role("button", name=f"Select {field}")).first.click()
    window = place if isinstance(place, Page) else place.page
    window.get_by_role("option", name=choice, exact=True).click()


def menu(window: Page, entry: str) -> None:
    """Choose from the menu of a run's page."""
    window.get_by_role("button", name="Open menu").first.click()
    window.get_by_role("menuitem", name=entry).click()


def confirm(window: Page, entry: str) -> None:
    """Choose from the menu of a run's page, and say in the dialog that it is meant."""

    def press() -> None:
        menu(window, entry)
        dialog = window.get_by_role("dialog").or_(window.get_by_role("alertdialog"))
        dialog.get_by_role("button", name=entry).last.click()

    done(window, "/set_state", press)


def bought(provider: AnyCapServer, word: str) -> dict[str, int]:
    """The calls whose prompts have this word in them."""
    return {prompt: calls for prompt, calls in provider.calls.items() if word in prompt}


def test_from_the_form_to_the_contact_sheet(window: Page, served: Served, shown: Shown, picture: Picture) -> None:
    """Somebody who has a CSV opens the deployment, fills in the form, sees the run end, and looks at the images."""
    write_csv(served.clone / "autumn.csv", {f"KR-{number}": name for number, name in enumerate(NAMES)})
    form(window, served)
    window.get_by_label("CSV file").fill("autumn.csv")
    picture(window, "form")
    window.get_by_label("Output folder").fill("autumn")
    submit(window, served)
    shown(window, window.get_by_text("Completed", exact=True))
    shown(window, window.get_by_text("6 of 6", exact=False))
    picture(window, "run")
    window.get_by_role("tab", name="Artifacts").click()
    expect(window.get_by_role("link", name="rowshot-summary")).to_be_visible()
    picture(window, "artifacts")
    of_run = window.url
    artifact(window, "rowshot-contact-sheet")
    thumbnail = window.get_by_role("main").get_by_role("img").last
    expect(thumbnail).to_be_visible()
    assert thumbnail.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    picture(window.get_by_role("main").get_by_role("table"), "small-sheet")
    window.goto(of_run)
    artifact(window, "rowshot-summary")
    path = window.locator("code", has_text="index.html")
    expect(path).to_be_visible()
    window.goto(Path(path.inner_text()).as_uri())
    expect(window.locator("#shown")).to_have_text("6 rows")
    picture(window, "contact-sheet")


def test_a_bad_value_is_refused_in_words(window: Page, served: Served, shown: Shown, picture: Picture) -> None:
    """Nothing starts, and the run's page says which field it was and what to write there."""
    form(window, served)
    window.get_by_label("CSV file").fill("examples/products.csv")
    window.get_by_label("Spend at most (USD)").fill("cheap")
    submit(window, served)
    shown(window, window.get_by_text("NotStarted", exact=True))
    window.get_by_role("tab", name="Details").click()
    reason = window.get_by_text("Spend at most (USD): 'cheap' can't be used. Write US dollars")
    expect(reason).to_be_visible()
    reason.scroll_into_view_if_needed()
    picture(window, "bad-value")


def test_a_purchase_is_approved(
    window: Page, served: Served, provider: AnyCapServer, shown: Shown, picture: Picture
) -> None:
    """The run waits with its plan and the price, and buys once somebody has said yes."""
    write_csv(served.clone / "approved.csv", {f"A{number}": f"yes {name}" for number, name in enumerate(NAMES)})
    ask_first(window, served, "approved")
    shown(window, window.get_by_text("Suspended", exact=True))
    assert not bought(provider, "yes ")
    menu(window, "Resume")
    dialog = window.get_by_role("dialog")
    expect(dialog.get_by_text("6 images to buy from approved.csv")).to_be_visible()
    picture(window, "approval")
    choose(dialog, "Answer", "approve")
    done(window, "/resume", dialog.get_by_role("button", name="Resume").click)
    expect(dialog).to_be_hidden()
    shown(window, window.get_by_text("Completed", exact=True))
    assert sorted(bought(provider, "yes ").values()) == [1] * 6


def test_a_purchase_is_rejected(window: Page, served: Served, provider: AnyCapServer, shown: Shown) -> None:
    """A no ends the run, says so, and nothing is bought."""
    write_csv(served.clone / "rejected.csv", {"N1": "no 양말", "N2": "no 모자"})
    ask_first(window, served, "rejected")
    shown(window, window.get_by_text("Suspended", exact=True))
    menu(window, "Resume")
    dialog = window.get_by_role("dialog")
    choose(dialog, "Answer", "reject")
    done(window, "/resume", dialog.get_by_role("button", name="Resume").click)
    expect(dialog).to_be_hidden()
    shown(window, window.get_by_text("Rejected", exact=True))
    window.get_by_role("tab", name="Details").click()
    expect(window.get_by_text("nothing was bought", exact=False)).to_be_visible()
    assert not bought(provider, "no ")


def test_a_run_is_cancelled_and_retried(
    window: Page, served: Served, provider: AnyCapServer, recorded: Recorded, shown: Shown, picture: Picture
) -> None:
    """Cancel lets calls in flight come home and begins no other; Retry goes on from there and buys nothing twice."""
    write_csv(served.clone / "long.csv", {f"L{number}": f"lamp {number}" for number in range(LONG)})
    provider.delay_s = 5.0
    form(window, served)
    window.get_by_label("CSV file").fill("long.csv")
    window.get_by_label("Image generator").fill("anycap")
    window.get_by_label("Output folder").fill("long")
    submit(window, served)
    until(lambda: len(bought(provider, "lamp ")) >= 4, PATIENCE_S)
    shown(window, window.get_by_text("Running", exact=True))
    confirm(window, "Cancel")
    shown(window, window.get_by_text("Cancelled", exact=True))
    under_way = len(bought(provider, "lamp "))
    assert under_way < LONG
    picture(window, "cancelled")
    provider.delay_s = 0.0

    def is_let_go() -> bool:
        (run,) = recorded.flow_runs("generate-images / long.csv")
        return "cancelled successfully" in str(run.state and run.state.message)

    until(is_let_go, PATIENCE_S)  # a worker's last word on a run would cancel one that is retried before it, too
    confirm(window, "Retry")
    shown(window, window.get_by_text("Completed", exact=True))
    assert sorted(bought(provider, "lamp ").values()) == [1] * LONG


def test_the_schedule_starts_a_run_by_itself(
    window: Page, served: Served, recorded: Recorded, shown: Shown, picture: Picture
) -> None:
    """Off as it is deployed; switched on by its switch, it starts runs at its time, with nobody asking for them."""
    nightly = recorded.deployment("generate-images/nightly-catalog")
    assert [schedule.active for schedule in nightly.schedules] == [False]
    window.goto(f"{served.pages}/deployments/deployment/{nightly.id}")
    switch = window.get_by_role("complementary").get_by_role("switch")
    expect(switch).not_to_be_checked()
    switch.click()
    expect(switch).to_be_checked()
    soon: SCHEDULE_TYPES = IntervalSchedule(interval=timedelta(seconds=20), anchor_date=datetime.now(UTC))
    with get_client(sync_client=True) as client:
        (made,) = client.create_deployment_schedules(nightly.id, [(soon, True)])
        try:
            shown(window, window.get_by_text("Completed", exact=True))
            picture(window, "schedule")
        finally:
            client.delete_deployment_schedule(nightly.id, made.id)
    (run, *_) = recorded.flow_runs("generate-images / products.csv")
    assert run.auto_scheduled
    assert (served.clone / "output/nightly/index.html").is_file()
