"""The page of the first five minutes, on ``custody dev``, in a real Chromium: all of it."""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.db.embedded_server import open_folder
from tests.e2e.console import browser
from tests.e2e.dev import running
from tests.e2e.first_page import (
    NOTE,
    begin_anew,
    is_ready,
    make_code,
    opened,
    person,
    press,
    says,
    sign_in,
    stored,
    turn_on,
    write,
)
from tests.e2e.test_console import fits, is_accessible

pytestmark = [pytest.mark.prove, pytest.mark.asyncio(loop_scope="module")]

LOOKS = ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as found:
        yield found


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """Where ``custody dev`` serves the page, as it says itself."""
    with open_folder() as folder, running(folder / "data") as dev:
        yield dev.shown(r"  (\S+)/$")


async def is_good_to_look_at(page: Page, looks: Sequence[tuple[int, Any]] = LOOKS) -> None:
    """See that axe finds nothing, and nothing is cut off: wide and narrow, light and dark."""
    for width, scheme in looks:
        await page.set_viewport_size({"width": width, "height": 900})
        await fits(page)
        await page.emulate_media(color_scheme=scheme)
        await is_accessible(page)
    await page.set_viewport_size({"width": 1280, "height": 900})


async def test_the_whole_story(chromium: Browser, origin: str) -> None:
    async with person(chromium, origin) as alice:
        page = await opened(alice, origin)
        await is_good_to_look_at(page, LOOKS[1:2])
        await sign_in(page)
        await says(page, "unlock", "Unlocked")
        await expect(page.locator("#unlock .wire")).to_contain_text("404 VAULT_NOT_INITIALISED")
        await write(page)
        assert await page.locator("#note .wire li").count() == 0
        assert await stored(page, "wrapped_mk") != "empty"
        operator = page.locator("#stored tr", has_text="The operator, who has database and KEK")
        await expect(operator.locator(".can")).to_have_text("yes")
        code = await make_code(page)
        await turn_on(page, code)
        assert await stored(page, "wrapped_mk") == "empty"
        await expect(operator.locator(".can")).to_have_text("no")
        await is_good_to_look_at(page)

        # A second device: a login alone opens nothing.
        async with alice.expect_page() as opening:
            await page.get_by_role("link", name="Open device 2 in a new tab").click()
        second = await opening.value
        await is_ready(second)
        await sign_in(second)
        await says(second, "unlock", "only your code opens")
        await expect(second.locator("#notes")).to_contain_text("this tab has no key")
        assert NOTE not in await second.content()
        field = second.locator("#unlock-code")
        await expect(field).to_be_focused()
        await field.fill(code.replace("-", " ").lower()[:-1] + ("0" if code[-1] != "0" else "1"))
        await press(second, "Unlock with the code")
        await says(second, "unlock", "This code does not open the key")
        await field.fill(code.replace("-", " ").lower())
        await press(second, "Unlock with the code")
        await says(second, "unlock", "Unlocked")
        await expect(second.locator("#notes")).to_contain_text(NOTE)
        await says(page, "second", "Device 2 has unlocked the vault")

        await press(page, "Show the newest")
        await expect(page.locator("#events")).to_contain_text("zk_enable")
        await press(page, "Older ones")
        await expect(page.locator("#events")).to_contain_text("init: created")
        await is_good_to_look_at(page, LOOKS[2:3])
        await second.close()

        # Somebody else at the same browser.
        await press(page, "Sign out")
        await is_ready(page)
        await sign_in(page, "Bob")
        await says(page, "unlock", "Unlocked")
        await expect(page.locator("#others")).to_contain_text("1 note of another user")
        await expect(page.locator("#others")).to_contain_text("opens none")
        assert await page.locator("#notes article").count() == 0
        await write(page, "Bob was here.")
        await press(page, "Show the newest")
        await expect(page.locator("#events")).to_contain_text("fetch")
        await page.get_by_label("My notes will never open again").check()
        await press(page, "Give up the old key")
        await says(page, "begin", "A fresh key. 1 note")
        assert await page.locator("#notes article").count() == 0
        await write(page, "And again.")


async def test_a_rotation_that_is_cut_off(chromium: Browser, origin: str) -> None:
    """Twice, by itself and by a reload; another device has the old key meanwhile."""
    async with person(chromium, origin) as bob:
        page = await opened(bob, origin)
        await begin_anew(page, "bob")
        await sign_in(page, "Bob")
        await says(page, "unlock", "Unlocked")
        await write(page)
        second = await opened(bob, origin)
        await sign_in(second, "Bob")
        await says(second, "unlock", "Unlocked")
        await press(page, "Write 200 notes")
        await says(page, "rotate", "200 notes are encrypted")
        await press(page, "Rotate, and reload half-way")
        await says(page, "rotate", "with 101 notes to go")
        await expect(page.locator("#unlock .wire")).to_contain_text("previousMasterKey")
        await expect(page.get_by_role("button", name="Go on with the rotation")).to_be_focused()
        assert await stored(page, "previous_wrapped_mk") != "empty"
        await page.keyboard.press("Enter")
        await expect(page.locator("#progress-text")).to_contain_text(re.compile("^1[1-9]. of 201"))
        await page.reload()
        await says(page, "rotate", "to go. The server gives both keys")
        await press(page, "Go on with the rotation")
        await says(page, "rotate", "201 notes moved, and every one was opened")
        assert await stored(page, "previous_wrapped_mk") == "empty"

        # The other device has the old key: it writes nothing that nobody could read.
        await expect(second.locator("#notes")).to_contain_text("Another device has rotated")
        await second.get_by_label("Your note").fill("too late")
        await press(second, "Encrypt and keep")
        await says(second, "note", "unlock again")
        await press(second, "Unlock")
        await says(second, "unlock", "Unlocked")
        await write(second, "in time")
        await expect(page.locator("#notes")).to_contain_text("in time")


async def test_by_keyboard_alone(chromium: Browser, origin: str) -> None:
    async with person(chromium, origin, permissions=["clipboard-read", "clipboard-write"]) as bob:
        page = await opened(bob, origin)
        await begin_anew(page, "bob")

        async def to(name: str) -> None:
            """Go on to what has this name."""
            for _ in range(60):
                await page.keyboard.press("Tab")
                focused = page.locator(":focus")
                if await focused.count() and name in (await _name(page)):
                    assert await focused.evaluate("(one) => one.matches(':focus-visible')")
                    return
            raise AssertionError(f"no {name} by keyboard")

        await to("To the first step")
        await page.keyboard.press("Enter")
        await to("Sign in as Bob")
        await page.keyboard.press("Enter")
        await says(page, "sign-in", "Signed in")
        await to("Unlock")
        await page.keyboard.press("Space")
        await says(page, "unlock", "Unlocked")
        await to("Your note")
        await page.keyboard.type(NOTE)
        await to("Encrypt and keep")
        await page.keyboard.press("Enter")
        await says(page, "note", "Encrypted and kept")
        await to("Make a code")
        await page.keyboard.press("Enter")
        await says(page, "code", "The wrap is stored")
        await to("Copy")
        await page.keyboard.press("Enter")
        await says(page, "code", "Copied")
        await to("The code, typed back")
        await page.keyboard.press("Control+V")
        await page.keyboard.press("Enter")
        await says(page, "zero", "Zero-knowledge mode is on")
        await to("Open device 2")
        async with bob.expect_page() as opening:
            await page.keyboard.press("Enter")
        await (await opening.value).close()
        await to("Recovery code")
        await page.keyboard.press("Control+V")
        await page.keyboard.press("Enter")
        await says(page, "rotate", "Zero-knowledge mode is off")
        await to("Rotate")
        await to("Rotate")
        await page.keyboard.press("Enter")
        await says(page, "rotate", "every one was opened with the new key")
        await to("Show the newest")
        await page.keyboard.press("Enter")
        await expect(page.locator("#events")).to_contain_text("rotation_end")
        await to("My notes will never open again")
        await page.keyboard.press("Space")
        await to("Give up the old key")
        await page.keyboard.press("Enter")
        await says(page, "begin", "A fresh key")


async def _name(page: Page) -> str:
    """Return what names the element that has the focus."""
    told = await page.evaluate(
        "(({activeElement: one}) => one.labels?.[0]?.textContent ?? one.textContent)(document)"
    )
    return str(told)


async def sees_less_than_before(page: Page) -> None:
    """Sign in as Bob where this browser has seen a later state of the vault."""
    await page.evaluate(
        """async () => {
          const { storeOf } = await import("/page/notes.js");
          await (await storeOf("bob")).pin.save(4102444800000);
        }"""
    )
    await sign_in(page, "Bob")


async def test_an_older_state_is_said(chromium: Browser, origin: str) -> None:
    async with person(chromium, origin) as stranger:
        page = await opened(stranger, origin)
        await begin_anew(page, "bob")
        await sees_less_than_before(page)
        await says(page, "unlock", "The server shows an older state")


async def test_a_vault_that_is_gone_is_said(chromium: Browser, origin: str) -> None:
    """This browser has seen one, as with another data folder: it makes no other unasked."""
    answer = {"error": "There is none.", "code": "VAULT_NOT_INITIALISED"}
    async with person(chromium, origin) as stranger:
        page = await opened(stranger, origin)
        await page.route("**/key", lambda route: route.fulfill(status=404, json=answer))
        await sees_less_than_before(page)
        await says(page, "unlock", "This browser has seen a vault that is not there now")
        assert "init" not in await page.locator("#unlock .wire").inner_text()


async def test_what_is_kept_of_a_vault_that_is_gone_may_be_forgotten(
    chromium: Browser, origin: str
) -> None:
    answer = {"error": "There is none.", "code": "VAULT_NOT_INITIALISED"}
    async with person(chromium, origin) as bob:
        page = await opened(bob, origin)
        await begin_anew(page, "bob")
        await sign_in(page, "Bob")
        await says(page, "unlock", "Unlocked")
        await write(page)
        await expect(page.get_by_role("button", name="Forget what")).to_be_hidden()
        await press(page, "Sign out")
        await is_ready(page)
        await page.route("**/key", lambda route: route.fulfill(status=404, json=answer))
        await sign_in(page, "Bob")
        await says(page, "unlock", "This browser has seen a vault that is not there now")
        await expect(page.locator("#notes article")).to_have_count(1)
        # Another vault, whose key opens nothing of before.
        await page.unroute("**/key")
        await press(page, "Forget what this browser keeps")
        await says(page, "unlock", "Unlocked")
        await expect(page.get_by_role("button", name="Forget what")).to_be_hidden()
        await expect(page.locator("#notes article")).to_have_count(0)
        await write(page, "Begun anew.")
