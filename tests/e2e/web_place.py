"""A daemon over TLS, an app on another origin that may ask it, and a browser to run that in."""

import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page

from custody.client import HttpTransport, Vault
from custody.http.routes import BASE_PATH
from tests.certificates import P256, make_certificate
from tests.e2e.console import browser
from tests.e2e.test_client_life import Remembered
from tests.e2e.web_app import App, served
from tests.leaks import remember
from tests.ports import free_port
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer


@dataclass(frozen=True)
class Place:
    """A daemon, an app that may ask it, and a browser."""

    daemon: Daemon
    app: App
    chromium: Browser
    trust: ssl.SSLContext

    @property
    def vault(self) -> str:
        """The daemon's address."""
        return self.daemon.base.removesuffix(BASE_PATH)

    def python(self, user: str) -> Vault:
        """Return the Python client of the same user, on a device of its own."""
        transport = HttpTransport(self.vault, tls=self.trust)
        return Vault(transport, lambda: remember(self.app.token(user)), Remembered())

    @asynccontextmanager
    async def device(self) -> AsyncIterator[BrowserContext]:
        """A profile of its own; in the end no page has logged more than refused requests."""
        context = await self.chromium.new_context(ignore_https_errors=True)
        said: list[str] = []
        context.on("console", lambda message: said.append(message.text))
        context.on("weberror", lambda error: said.append(str(error.error)))
        try:
            yield context
        finally:
            await context.close()
        assert [one for one in said if not one.startswith("Failed to load resource")] == []

    @asynccontextmanager
    async def tab(self, user: str) -> AsyncIterator[Page]:
        """A tab on a device of its own."""
        async with self.device() as context:
            yield await self.app.open(context, user, self.vault)


@asynccontextmanager
async def placed(database: Database, issuer: Issuer, folder: Path) -> AsyncIterator[Place]:
    """Run them for the length of the block; tokens are those of a login made just now."""
    cert, key = make_certificate(folder / "tls", kind=P256)
    port = free_port()
    settings = {
        "TLS_CERT": str(cert),
        "TLS_KEY": str(key),
        "CORS_ORIGINS": f"http://127.0.0.1:{port}",
        "STEP_UP_MAX_AGE": "300",
        "RESET": "on",
    }

    def token(user: str) -> str:
        return issuer.token(user, auth_time=int(time.time()))

    async with (
        daemon_here(database, issuer, folder, **settings) as daemon,
        served(port, token, "https://127.0.0.1:*") as app,
        browser() as chromium,
    ):
        trust = ssl.create_default_context(cafile=str(cert))
        yield Place(daemon, app, chromium, trust)


async def run(page: Page, program: str, *arguments: Any) -> Any:
    """Run a program in a page: its arguments are `given`; what it throws is an outcome."""
    return await page.evaluate(f"(given) => app.outcome(async () => {{ {program} }})", arguments)


async def failure(page: Page, program: str, *arguments: Any) -> str:
    """Run what must fail; return the name of its error."""
    outcome = await run(page, program, *arguments)
    assert isinstance(outcome, dict), outcome
    assert "error" in outcome, outcome
    return str(outcome["error"])


@asynccontextmanager
async def signing_in(app: App) -> AsyncIterator[list[Callable[[str], str]]]:
    """Hand out these tokens first, and good ones when none is left."""
    good = app.token
    tokens: list[Callable[[str], str]] = []

    def token(user: str) -> str:
        return (tokens.pop(0) if tokens else good)(user)

    app.token = token
    try:
        yield tokens
    finally:
        app.token = good
