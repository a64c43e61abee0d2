"""The browser client in a real Chromium, against a real daemon over TLS, beside the Python one."""

import base64
import json
import ssl
import time
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, Route

from custody.client import HttpTransport, Keys, Vault, make_code
from custody.http.routes import BASE_PATH
from tests.certificates import P256, make_certificate
from tests.e2e.console import browser
from tests.e2e.test_client_life import Remembered, told
from tests.e2e.web_app import App, served
from tests.leaks import forms, remember
from tests.ports import free_port
from tests.servers import ROOT, Daemon, Database, daemon_here
from tests.tokens import Issuer

pytestmark = [pytest.mark.prove, pytest.mark.asyncio(loop_scope="module")]


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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("browser-client")
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
        daemon_here(module_database, issuer, folder, **settings) as daemon,
        served(port, token, "https://127.0.0.1:*") as app,
        browser() as chromium,
    ):
        trust = ssl.create_default_context(cafile=str(cert))
        yield Place(daemon, app, chromium, trust)


async def run(page: Page, program: str, *arguments: Any) -> Any:
    """Run a program in a page: its arguments are `given`; what it throws is an outcome."""
    return await page.evaluate(f"(given) => app.outcome(async () => {{ {program} }})", arguments)


async def test_the_whole_life_and_each_client_opens_what_the_other_made(place: Place) -> None:
    there = place.python("alice")
    async with place.tab("alice") as page:
        nothing = {"vaultExists": False, "hasRecoveryWrap": False, "zeroKnowledge": False}
        assert await run(page, "return app.vault.status()") == nothing | {"recoverySetAt": None}
        first = await run(page, "return app.unlock()")
        assert not first["pending"]
        keys = told(await to_thread(there.unlock))
        assert keys.generation == first["generation"]
        print(first)


async def test_the_vectors_hold_in_a_browser(place: Place) -> None:
    vectors = json.loads((ROOT / "tests/vectors/client.json").read_text("utf-8"))
    async with place.tab("vera") as page:
        program = "return (await import('/vectors.js')).check(given[0])"
        found = await run(page, program, vectors)
    assert found["wrong"] == []
    assert found["checked"] > 150
