"""A real Chromium, and pictures of what it shows."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ELSEWHERE = re.compile(r"^(?!data:|blob:|file:|(http|ws)://127\.0\.0\.1[:/])")
WIDTH, HEIGHT = 1280, 900
PATIENCE_S = 180
GLANCE_MS = 4_000
MOST_GLANCE_MS = 30_000
COLORS = 128
SETTLED_MS = 2_500


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is missing: apt-get install chromium fonts-nanum")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        expect.set_options(timeout=PATIENCE_S * 1000 / 3)
        yield browser
        browser.close()


@pytest.fixture
def window(browser: Browser) -> Iterator[Page]:
    """An empty page of a person's browser, that reaches this machine alone."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, timezone_id="Asia/Seoul")

    def refuse(route: Route) -> None:
        route.abort()

    context.route(ELSEWHERE, refuse)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    yield page
    context.close()


Shown = Callable[[Page, Locator], None]
Picture = Callable[[Page | Locator, str], None]


@pytest.fixture
def shown() -> Shown:
    """Waits until something is on the page, and reloads it meanwhile: the server's pages don't always notice."""

    def wait(page: Page, what: Locator) -> None:
        deadline, glance_ms = time.monotonic() + PATIENCE_S, GLANCE_MS
        while time.monotonic() < deadline:
            try:
                expect(what.first).to_be_visible(timeout=glance_ms)
            except AssertionError:
                page.reload()
                glance_ms = min(2 * glance_ms, MOST_GLANCE_MS)
            else:
                return
        expect(what.first).to_be_visible(timeout=GLANCE_MS)

    return wait


@pytest.fixture
def picture() -> Picture:
    """Keeps what a page or a part of it shows, as docs/pictures has it, where ROWSHOT_PICTURES names a folder."""
    folder = os.environ.get("ROWSHOT_PICTURES")

    def keep(what: Page | Locator, name: str) -> None:
        if not folder:
            return
        page = what if isinstance(what, Page) else what.page
        page.mouse.move(0, 0)
        page.wait_for_timeout(SETTLED_MS)  # what fades in or grows has done so; nothing is tested by it
        shot = Image.open(BytesIO(what.screenshot())).convert("RGB")
        Path(folder).mkdir(parents=True, exist_ok=True)
        shot.quantize(COLORS, dither=Image.Dither.NONE).save(Path(folder) / f"{name}.png", optimize=True)

    return keep
