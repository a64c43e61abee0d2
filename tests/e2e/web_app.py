"""A small app in a real browser, on an origin of its own, that uses the browser client."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlencode

from aiohttp import web
from playwright.async_api import BrowserContext, Page

from tests import shown
from tests.leaks import remember
from tests.servers import ROOT

MODULE = ROOT / "custody/client/browser/custody-client.js"
_HTML = '<!doctype html><title>…</title><script type="module" src="/app.js"></script>'


async def until(page: Page, holds: str) -> None:
    """Wait until an expression holds in a page; not by eval, which its policy forbids."""
    pause = "await new Promise((then) => setTimeout(then, 20))"
    await page.evaluate(f"async () => {{ while (!({holds})) {pause}; }}")


@dataclass
class App:
    """Where the app is served, and who signs its users in.

    Attributes:
        token: makes a token for a user; a test may put its own in place.
    """

    port: int
    token: Callable[[str], str]
    vaults: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """The app's origin."""
        return f"http://127.0.0.1:{self.port}"

    async def open(self, context: BrowserContext, user: str, vault: str) -> Page:
        """Open a tab of a user."""
        page = await context.new_page()
        await page.goto(f"{self.origin}/?{urlencode({'user': user, 'vault': vault})}")
        await until(page, "globalThis.app")
        return page

    async def _page(self, request: web.Request) -> web.Response:
        policy = (
            f"default-src 'none'; script-src 'self'; connect-src 'self' {' '.join(self.vaults)}"
        )
        headers = {"Content-Security-Policy": policy}
        return web.Response(text=_HTML, content_type="text/html", headers=headers)

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.Response(text=self.files[name], content_type="text/javascript")

    async def _token(self, request: web.Request) -> web.Response:
        return web.Response(text=remember(self.token(request.query["user"])))


@asynccontextmanager
async def served(
    port: int, token: Callable[[str], str], *vaults: str, script: str = "web_app.js"
) -> AsyncIterator[App]:
    """Serve the app for the length of the block.

    Args:
        port: on loopback.
        token: makes a token for a user.
        vaults: the daemons' addresses that its policy lets it ask.
        script: the file of tests/e2e that is the app.
    """
    app = App(port, token, vaults)
    app.files = shown.modules() | {
        "custody-client.js": MODULE.read_text("utf-8"),
        "app.js": (ROOT / "tests/e2e" / script).read_text("utf-8"),
        "vectors.js": (ROOT / "tests/e2e/web_vectors.js").read_text("utf-8"),
    }
    server = web.Application()
    server.router.add_get("/", app._page)
    server.router.add_get("/token", app._token)
    server.router.add_get("/{name}", app._file)
    runner = web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield app
    finally:
        await runner.cleanup()
