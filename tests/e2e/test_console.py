"""The console in a real Chromium: every state, at every width, light and dark."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from custody.ops import health
from tests.bao_server import Bao
from tests.e2e.console import STATES, browser, fresh
from tests.leaks import remember
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

pytestmark = [pytest.mark.prove, pytest.mark.asyncio(loop_scope="module")]

Place: TypeAlias = tuple[Database, Issuer, Path, Bao]

WIDTHS = (390, 1280, 1920)
SCHEMES: tuple[Any, ...] = ("light", "dark")
TOKEN = remember("fedcba9876543210" * 3)
SAID = {
    "fresh": "All is well.",
    "rewrapping": "Users are served",
    "kms-down": "Not ready: users are kept waiting by the KEK.",
    "findings": "things need you.",
    "database-down": "Not ready: users are kept waiting by the database.",
}
# Before any script of the page: what the policy refuses is kept to be asked for.
_KEEP_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (one) =>
  window.violations.push(`${one.violatedDirective} ${one.blockedURI} ${one.sample}`));
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as running:
        yield running


@pytest.fixture
def place(database: Database, issuer: Issuer, folder: Path, own_bao: Bao) -> Place:
    return database, issuer, folder, own_bao


@asynccontextmanager
async def opened(chromium: Browser, daemon: Daemon, **options: Any) -> AsyncIterator[Page]:
    """Open the console; in the end nothing was complained of, and nobody else was asked."""
    context = await chromium.new_context(**options)
    try:
        await context.add_init_script(_KEEP_VIOLATIONS)
        page = await context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"{daemon.admin}/")
        yield page
        assert [one for one in said if "401" not in one and "username fields" not in one] == []
        assert {urlsplit(url).netloc for url in asked} == {urlsplit(daemon.admin).netloc}
        if options.get("java_script_enabled", True):
            assert await page.evaluate("window.violations") == []
    finally:
        await context.close()


async def is_accessible(page: Page) -> None:
    """See that axe finds nothing."""
    # It is put in by the browser's own way, which the policy does not bind.
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


async def fits(page: Page) -> None:
    """See that nothing is wider than the window."""
    wider = await page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wider == 0


async def goes_on(page: Page) -> None:
    """See that the run goes on, without a word to the daemon."""
    done = page.locator("#rewrap dd").first
    before = await done.inner_text()
    await expect(done).not_to_have_text(before, timeout=30_000)
    assert re.search(r"\d+ rows a second", await page.locator("#rewrap").inner_text())


@pytest.mark.parametrize("state", STATES)
async def test_a_state(chromium: Browser, place: Place, state: str) -> None:
    async with STATES[state](*place) as daemon:
        for scheme in SCHEMES:
            async with opened(chromium, daemon, color_scheme=scheme) as page:
                await expect(page.locator("#live")).to_be_visible()
                await expect(page.locator("#doctor .found, #doctor .problem").first).to_be_visible()
                await expect(page.locator("h1")).to_contain_text(SAID[state])
                if state == "rewrapping":
                    await goes_on(page)
                for width in WIDTHS:
                    await page.set_viewport_size({"width": width, "height": 900})
                    await fits(page)
                await is_accessible(page)
                await page.set_viewport_size({"width": WIDTHS[0], "height": 800})
                await is_accessible(page)


async def test_what_goes_wrong_is_seen_at_once(
    chromium: Browser, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever has had the page open all the time."""
    monkeypatch.setattr(health, "_AGAIN_SECONDS", 1.0)
    async with fresh(*place) as daemon, opened(chromium, daemon) as page:
        await expect(page.locator("#live")).to_be_visible()
        await daemon.database.execute(
            "ALTER TABLE auth.encryption_vaults NO FORCE ROW LEVEL SECURITY"
        )
        await expect(page.locator("h1")).to_contain_text("Not ready", timeout=20_000)
        assert await page.title() == "Act · custody"
        await expect(page.locator("#verdict")).to_have_attribute("data-level", "bad")


async def test_without_javascript_it_says_the_same(chromium: Browser, place: Place) -> None:
    async with (
        fresh(*place) as daemon,
        opened(chromium, daemon, java_script_enabled=False) as page,
    ):
        await page.get_by_role("link", name="Reload").click()
        text = await page.locator("body").inner_text()
        for part in ("All is well.", "Keys and rows", "KEKs and their KMS", "Instances"):
            assert part in text
        assert await page.locator("#live").is_hidden()


async def test_the_way_in_and_out(
    chromium: Browser, database: Database, issuer: Issuer, folder: Path
) -> None:
    async with (
        daemon_here(database, issuer, folder, ADMIN_TOKEN=TOKEN) as daemon,
        opened(chromium, daemon) as page,
    ):
        await is_accessible(page)
        await page.get_by_label("Token").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("This is not the token.")
        await is_accessible(page)
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.locator("h1")).to_contain_text(re.compile("well|served"))
        await expect(page.locator("#live")).to_be_visible()
        (cookie,) = await page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert TOKEN not in cookie["value"]
        # By keyboard alone: past the content, to the way out.
        await page.reload()
        for name in ("To the content", "Reload", "Log out"):
            await page.keyboard.press("Tab")
            await expect(page.locator(":focus")).to_have_text(name)
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("Log in")
        assert await page.context.cookies() == []


async def test_a_daemon_that_is_gone_is_seen_and_come_back_to(
    chromium: Browser, database: Database, issuer: Issuer, folder: Path
) -> None:
    async with daemon_here(database, issuer, folder) as daemon:
        place = {"ADMIN_LISTEN": daemon.admin.removeprefix("http://")}
        context = await chromium.new_context()
        page = await context.new_page()
        await page.goto(f"{daemon.admin}/")
        await expect(page.locator("#live")).to_be_visible()
    await expect(page.locator("#live")).to_be_hidden()
    async with daemon_here(database, issuer, folder, **place):
        await expect(page.locator("#live")).to_be_visible(timeout=15_000)
    await context.close()
