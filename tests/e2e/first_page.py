"""The page of the first five minutes in a real browser: each step as a user takes it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.leaks import remember

NOTE = "The spare key is under the third flowerpot."
# Before any script of the page: what the policy refuses is kept to be asked for.
_KEEP_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (one) =>
  window.violations.push(`${one.violatedDirective} ${one.blockedURI} ${one.sample}`));
"""


@asynccontextmanager
async def person(chromium: Browser, origin: str, **options: Any) -> AsyncIterator[BrowserContext]:
    """Open a browser of somebody; in the end nothing was complained of, and nobody else asked."""
    context = await chromium.new_context(**options)
    said: list[str] = []
    asked: list[str] = []

    def listen(page: Page) -> None:
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))

    context.on("page", listen)
    context.on("request", lambda request: asked.append(request.url))
    try:
        await context.add_init_script(_KEEP_VIOLATIONS)
        yield context
        # A browser says of each refusal that it was one.
        assert [one for one in said if "status of 404" not in one] == []
        assert {urlsplit(url).netloc for url in asked} == {urlsplit(origin).netloc}
        for page in context.pages:
            assert await page.evaluate("window.violations") == []
    finally:
        await context.close()


async def opened(context: BrowserContext, origin: str) -> Page:
    """Open the page in a new tab."""
    page = await context.new_page()
    await page.goto(f"{origin}/")
    await is_ready(page)
    return page


async def begin_anew(page: Page, user: str) -> None:
    """Give a user a fresh vault, whatever another test has left, with nobody signed in."""
    await page.evaluate(
        """async (user) => {
          const { session, signIn } = await import("/page/session.js");
          await signIn(user);
          await session.vault.reset();
          sessionStorage.clear();
        }""",
        user,
    )
    await page.reload()
    await is_ready(page)


async def is_ready(page: Page) -> None:
    """Wait until the page's program has run."""
    await expect(page.locator("html[data-ready]")).to_have_count(1)


async def says(page: Page, step: str, text: str) -> None:
    """Wait until a step says something."""
    await expect(page.locator(f"#{step} .said")).to_contain_text(text, timeout=20_000)


async def press(page: Page, name: str) -> None:
    """Press a button."""
    await page.get_by_role("button", name=name, exact=True).click()


async def sign_in(page: Page, user: str = "Alice") -> None:
    """Steps 1 and 2, as far as they go without a code."""
    await press(page, f"Sign in as {user}")
    await says(page, "sign-in", "Signed in")
    await press(page, "Unlock")


async def write(page: Page, text: str = NOTE) -> None:
    """Step 3."""
    await page.get_by_label("Your note").fill(text)
    await press(page, "Encrypt and keep")
    await says(page, "note", "Encrypted and kept")


async def make_code(page: Page) -> str:
    """Step 5; returns the code that is shown."""
    await press(page, "Make a code")
    await says(page, "code", "The wrap is stored")
    return remember((await page.locator("#made-code").inner_text()).replace("\n", ""))


async def turn_on(page: Page, code: str) -> None:
    """Step 6."""
    await page.get_by_label("The code, typed back").fill(code)
    await press(page, "Turn it on")
    await says(page, "zero", "Zero-knowledge mode is on")


async def stored(page: Page, column: str) -> str:
    """Return what step 4 shows of a column."""
    row = page.locator("#stored tr", has=page.locator(f"th code:text-is('{column}')"))
    return await row.locator("td").first.inner_text()
