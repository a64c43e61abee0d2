"""``make bench-newcomer``: the first five minutes, from ``git clone`` to a second device.

It clones this checkout, runs ``make run`` there, takes the link that is printed, and goes down the
page in Chromium as fast as it answers: what is left of five minutes is for reading. Clicks are
counted as they are made; a code is copied by a click and pasted by one keystroke.
"""

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.async_api import Browser, Page

from tests.bench.table import write_json
from tests.e2e.console import browser
from tests.e2e.first_page import NOTE, is_ready, says
from tests.servers import ROOT

_START_SECONDS = 600
_FREE = "ARGS=--free-ports"


class Newcomer:
    """Takes time and counts clicks, line by line.

    Attributes:
        lines: what was done, the seconds it took, the clicks and the keystrokes.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[str, float, int, int]] = []
        self._began = time.perf_counter()
        self._clicks = self._keys = 0

    def done(self, what: str) -> None:
        """End a line."""
        now = time.perf_counter()
        self.lines.append((what, now - self._began, self._clicks, self._keys))
        _say(what, now - self._began, self._clicks, self._keys)
        self._began, self._clicks, self._keys = now, 0, 0

    async def click(self, page: Page, name: str) -> None:
        """Click what has this name: a button, a field or a link."""
        self._clicks += 1
        kinds: tuple[Any, ...] = ("button", "link", "textbox")
        named = [page.get_by_role(kind, name=name, exact=True) for kind in kinds]
        await named[0].or_(named[1]).or_(named[2]).click()

    async def type(self, page: Page, text: str) -> None:
        """Type a text."""
        self._keys += len(text)
        await page.keyboard.type(text)

    async def paste(self, page: Page) -> None:
        """Paste what was copied."""
        self._keys += 1
        await page.keyboard.press("Control+V")


def _say(what: str, seconds: float, clicks: float, keys: float) -> None:
    print(f"{what:40} {seconds:6.1f} s {clicks:3.0f} clicks {keys:3.0f} keys")  # noqa: T201


@contextmanager
def made_to_run(clone: Path) -> Iterator[str]:
    """Run ``make run`` in a clone; return the link that it prints."""
    out = clone.parent / "out"
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    with out.open("wb") as stream:
        process = subprocess.Popen(
            ["make", "run", _FREE],
            cwd=clone,
            env=environ,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield _link(out, process)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def _link(out: Path, process: "subprocess.Popen[bytes]") -> str:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"(?m)^  (http://\S+)/$", out.read_text("utf-8", "replace")):
            return found[1]
        time.sleep(0.05)
    sys.exit(f"make run printed no link: {out.read_text('utf-8', 'replace')[-2000:]}")


async def go_down(running: Browser, link: str, newcomer: Newcomer) -> None:
    """Go down the page, to the second device."""
    allowed = ["clipboard-read", "clipboard-write"]
    context = await running.new_context(permissions=allowed)
    page = await context.new_page()
    await page.goto(f"{link}/")
    await is_ready(page)
    newcomer.done("open the link")
    await newcomer.click(page, "Sign in as Alice")
    await says(page, "sign-in", "Signed in")
    await newcomer.click(page, "Unlock")
    await says(page, "unlock", "Unlocked")
    newcomer.done("sign in, and unlock")
    await newcomer.click(page, "Your note")
    await newcomer.type(page, NOTE)
    await newcomer.click(page, "Encrypt and keep")
    await says(page, "note", "Encrypted and kept")
    newcomer.done("write a note")
    await newcomer.click(page, "Make a code")
    await says(page, "code", "The wrap is stored")
    await newcomer.click(page, "Copy")
    await says(page, "code", "Copied")
    newcomer.done("make a recovery code, and copy it")
    await newcomer.click(page, "The code, typed back")
    await newcomer.paste(page)
    await newcomer.click(page, "Turn it on")
    await says(page, "zero", "Zero-knowledge mode is on")
    newcomer.done("turn zero-knowledge mode on")
    async with context.expect_page() as opening:
        await newcomer.click(page, "Open device 2 in a new tab")
    second = await opening.value
    await is_ready(second)
    await newcomer.click(second, "Sign in as Alice")
    await says(second, "sign-in", "Signed in")
    await newcomer.click(second, "Unlock")
    await says(second, "unlock", "only your code opens")
    # The page puts the cursor there.
    await newcomer.paste(second)
    await newcomer.click(second, "Unlock with the code")
    await says(second, "unlock", "Unlocked")
    await second.locator("#notes", has_text=NOTE).wait_for()
    newcomer.done("the note on a second device")
    await context.close()


async def bench(chosen: argparse.Namespace) -> None:
    """Measure it once."""
    with TemporaryDirectory(prefix="custody-newcomer-") as name:
        newcomer = Newcomer()
        clone = Path(name) / "custody"
        command = ["git", "clone", "--quiet", str(ROOT), str(clone)]
        await asyncio.to_thread(subprocess.run, command, check=True)
        newcomer.done("git clone")
        with made_to_run(clone) as link:
            newcomer.done("make run, until the link")
            async with browser() as running:
                newcomer.done("(start a browser)")
                await go_down(running, link, newcomer)
        _, seconds, clicks, keys = zip(*newcomer.lines, strict=True)
        _say("in all", sum(seconds), sum(clicks), sum(keys))
        fields = ("what", "seconds", "clicks", "keystrokes")
        lines = [dict(zip(fields, line, strict=True)) for line in newcomer.lines]
        write_json(chosen.json, {"newcomer": lines})


def main() -> None:
    """Run it from the command line."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-newcomer", description=text)
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    asyncio.run(bench(parser.parse_args()))


if __name__ == "__main__":
    main()
