from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from flows.batch.report import Report, write_report
from flows.batch.row_report import RowReport, Status

NASTY = "</script><img src=x onerror=\"document.title='owned'\"><b id=owned>"
LONG = "스튜디오 조명, 부드러운 그림자, 정면에서 본 모습, 상업용 사진, 주름 없는 원단"
ROWS = 1_000
FAILED_EVERY = 100
BLOG_EVERY = 4
MOST_NODES = 4_000


@pytest.fixture(scope="session")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sheet of 1,000 rows: every 100th failed, every fourth a blog header, the second with nasty texts."""
    folder = tmp_path_factory.mktemp("sheet")
    (folder / "images").mkdir()
    for number in range(ROWS):
        if number % FAILED_EVERY:
            Image.new("RGB", (64, 64), (number % 256, 90, 160)).save(folder / "images" / f"셔츠 #{number}.png")
    now = datetime(2026, 1, 12, 5, 3, tzinfo=UTC)
    rows = [_row(number) for number in range(ROWS)]
    ended = now + timedelta(seconds=72)
    write_report(folder, Report("products.csv", "anycap", now, ended, Decimal("38.61"), rows, ("sku",)))
    return folder / "index.html"


def _row(number: int) -> RowReport:
    sku, prompt = f"KR-{number:04}", f"이커머스 사진: 오버핏 셔츠 {number}, 흰색 배경, {LONG}"
    template, model = ("product", "nano-banana-2") if number % BLOG_EVERY else ("blog_hero", "seedream-5")
    if number % FAILED_EVERY == 0:
        return RowReport(
            number + 2,
            sku,
            template,
            Status.FAILED,
            model=model,
            prompt=prompt,
            error_kind="NoImage",
            error="No picture came.",
        )
    return RowReport(
        number + 2,
        NASTY if number == 1 else sku,
        template,
        Status.STORED,
        path=f"images/셔츠 #{number}.png",
        url="javascript:document.title='owned'" if number == 1 else "https://cdn.example.com/a.png",
        model=NASTY if number == 1 else model,
        generator="anycap",
        fingerprint=f"{number:064x}",
        prompt=NASTY if number == 1 else prompt,
        attempts=1,
        paid_calls=2 if number == 2 else 1,
        price_usd=Decimal("0.039"),
        price_is_estimated=number == 3,
        request_id=f"trc_{number}",
    )


@pytest.fixture
def page(browser: Browser, sheet: Path) -> Iterator[Page]:
    """The sheet, open; at the end the browser must have had nothing to complain of and fetched nothing from outside."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    complaints: list[str] = []
    fetched: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(sheet.as_uri())
    expect(page.locator("#shown")).to_have_text("1,000 rows")
    yield page
    context.close()
    assert complaints == []
    assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []


def nodes(page: Page) -> int:
    """How many elements the page holds now."""
    count: int = page.evaluate("document.querySelectorAll('*').length")
    return count


def scroll(page: Page, y: float) -> None:
    """Scroll to `y` and wait until the page has drawn what is there."""
    page.evaluate(
        "y => new Promise(done => { scrollTo(0, y); requestAnimationFrame(() => requestAnimationFrame(done)); })", y
    )


def test_a_thousand_images_do_not_choke_it(page: Page) -> None:
    """The page holds the cards near the window only, from the top to the last row, and shows their pictures."""
    assert nodes(page) < MOST_NODES
    height = page.evaluate("document.documentElement.scrollHeight")
    for part in (0.25, 0.5, 0.75):
        scroll(page, height * part)
        assert nodes(page) < MOST_NODES
        assert page.locator(".card").first.is_visible()
    scroll(page, height)
    last = page.locator(".card").last
    expect(last.locator(".sku")).to_have_text("KR-0999")
    page.wait_for_function("document.querySelector('.card:last-child img').naturalWidth === 64")
    assert page.evaluate("document.documentElement.scrollHeight") == height
    scroll(page, 0)
    expect(page.locator(".sku").first).to_have_text("KR-0000")


def test_cards_stay_in_the_files_order(page: Page) -> None:
    """However one scrolls, the cards stand in the order of the lines without a gap."""
    for y in (6_000, 5_200, 30_000, 29_000, 400):
        scroll(page, y)
        lines = [int(text) for text in page.locator(".line").all_inner_texts()]
        assert lines == list(range(lines[0], lines[0] + len(lines)))


def test_status_filter_shows_failures_with_their_reason(page: Page) -> None:
    """A click on a status shows its rows only, and a failed row tells why in place of a picture."""
    page.locator(".chip[data-status=failed]").click()
    expect(page.locator("#shown")).to_have_text("10 of 1,000")
    expect(page.locator(".card")).to_have_count(10)
    expect(page.locator(".card").first).to_contain_text("No picture came.")
    expect(page.locator(".card img")).to_have_count(0)
    page.locator("#reset").click()
    expect(page.locator("#shown")).to_have_text("1,000 rows")


def test_template_model_and_search_narrow_together(page: Page) -> None:
    """Filters and words all have to match; Hangul is found in either Unicode form; no match is said."""
    page.locator("#template").select_option("blog_hero")
    expect(page.locator("#shown")).to_have_text("250 of 1,000")
    page.locator("#model").select_option("nano-banana-2")
    expect(page.locator("#empty")).to_be_visible()
    page.locator("#model").select_option("seedream-5")
    page.keyboard.press("/")
    page.keyboard.type("kr-000 \u1109\u1167\u110e\u1173")  # two syllables, letter by letter, as macOS writes them
    expect(page.locator("#shown")).to_have_text("3 of 1,000")
    expect(page.locator(".sku")).to_have_text(["KR-0000", "KR-0004", "KR-0008"])


def test_a_view_has_an_address(page: Page) -> None:
    """The filter is in the address, so that a view can be sent to somebody."""
    page.locator(".chip[data-status=failed]").click()
    page.locator("#words").fill("KR-05")
    expect(page.locator("#shown")).to_have_text("1 of 1,000")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    expect(page.locator("#shown")).to_have_text("1 of 1,000")
    expect(page.locator(".sku")).to_have_text(["KR-0500"])


def test_the_lightbox_walks_by_keyboard(page: Page) -> None:
    """A thumbnail opens large with all that is known; the arrows go on and back; Escape returns to the card."""
    page.locator(".frame").nth(4).focus()
    page.keyboard.press("Enter")
    box = page.locator("#box")
    expect(box).to_be_visible()
    expect(box).to_contain_text("trc_4")
    expect(box).to_contain_text(f"{4:064x}")
    expect(box).to_contain_text("오버핏 셔츠 4, 흰색 배경")
    assert box.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(box.locator("h2")).to_have_text("KR-0007")
    page.keyboard.press("ArrowLeft")
    expect(box.locator("h2")).to_have_text("KR-0006")
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()
    expect(page.locator(":focus")).to_have_attribute("aria-label", "Open KR-0006, line 8")  # a moment after it is shut


def test_the_lightbox_stops_at_both_ends(page: Page) -> None:
    """There is nothing before the first row; far along, closing brings its card into view."""
    page.locator(".frame").first.click()
    box = page.locator("#box")
    page.keyboard.press("ArrowLeft")
    expect(box.locator("h2")).to_have_text("KR-0000")
    expect(page.locator("#before")).to_be_disabled()
    for _ in range(60):
        page.keyboard.press("ArrowRight")
    expect(box.locator("h2")).to_have_text("KR-0060")
    page.locator(".shut").click()
    expect(page.locator(".frame[aria-label='Open KR-0060, line 62']")).to_be_in_viewport()


def test_nasty_texts_are_inert(page: Page) -> None:
    """Markup in a row is shown letter by letter, on the card and in the lightbox, and its address is no link."""
    card = page.locator(".card").nth(1)
    expect(card.locator(".sku")).to_have_text(NASTY)
    expect(card.locator(".prompt")).to_have_text(NASTY)
    card.locator(".frame").click()
    expect(page.locator("#about .full")).to_have_text(NASTY)
    hrefs = page.locator("a").evaluate_all("links => links.map(link => link.protocol)")
    assert set(hrefs) <= {"file:"}
    assert page.locator("#owned").count() == 0
    assert page.title() == "products.csv · contact sheet"


def test_money_marks_are_on_the_cards(page: Page) -> None:
    """A list price is marked as an estimate and a second payment is said."""
    expect(page.locator(".card").nth(2)).to_contain_text("paid twice")
    expect(page.locator(".card").nth(3).locator(".price")).to_have_text("$0.039 est.")
    expect(page.locator(".card").nth(4)).not_to_contain_text("paid")


def test_a_prompt_unfolds_without_moving_the_others(page: Page) -> None:
    """A click shows the whole prompt over its own card, and no other card moves."""
    page.set_viewport_size({"width": 390, "height": 844})
    scroll(page, 0)  # it waits until the sheet is drawn anew
    place = "card => [card.offsetLeft, card.offsetTop, card.offsetHeight]"
    before = page.locator(".card").nth(6).evaluate(place)
    prompt = page.locator(".prompt").nth(4)
    folded = prompt.bounding_box()
    prompt.click()
    unfolded = prompt.bounding_box()
    assert folded is not None
    assert unfolded is not None
    assert unfolded["height"] > folded["height"]
    assert page.locator(".card").nth(6).evaluate(place) == before


@pytest.mark.parametrize("width", [320, 390, 768, 1400])
def test_no_width_scrolls_sideways(page: Page, width: int) -> None:
    """From a phone to a desk, nothing sticks out at the side."""
    page.set_viewport_size({"width": width, "height": 844})
    page.locator(".frame").nth(1).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#box").evaluate("box => box.scrollWidth") <= width


def test_print_has_every_row(page: Page) -> None:
    """For the printer all cards of the view are there; afterwards only those near the window."""
    page.locator("#words").fill("KR-01")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".card").count() == 100
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".card").count() < 100


def test_a_missing_picture_is_said(browser: Browser, tmp_path: Path) -> None:
    """Where the file is gone, the card names it instead of a broken picture."""
    now = datetime(2026, 1, 12, tzinfo=UTC)
    row = RowReport(2, "A", "product", Status.STORED, path="images/gone.png")
    write_report(tmp_path, Report("a.csv", "anycap", now, now, Decimal(0), [row], ("sku",)))
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    expect(page.locator(".card")).to_contain_text("images/gone.png")
    page.close()
