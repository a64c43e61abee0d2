"""The web client of the service that custody replaces goes on working, in a real Chromium."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, Route

from tests.certificates import P256, make_certificate
from tests.e2e.console import browser
from tests.e2e.web_app import served
from tests.ports import free_port
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

pytestmark = [pytest.mark.prove, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Daemon, Page]]:
    """A daemon with the settings that it has of itself, and a page of the old client."""
    folder = tmp_path_factory.mktemp("old-client")
    cert, key = make_certificate(folder / "tls", kind=P256)
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    settings = {"TLS_CERT": str(cert), "TLS_KEY": str(key), "CORS_ORIGINS": origin}
    async with (
        daemon_here(module_database, issuer, folder, **settings) as daemon,
        served(port, issuer.token, "https://127.0.0.1:*", script="old_web_client.js") as app,
        browser() as chromium,
    ):
        context = await chromium.new_context(ignore_https_errors=True)
        yield daemon, await app.open(context, "old", daemon.base.partition("/api/")[0])
        await context.close()


async def test_it_lives_its_whole_life(place: tuple[Daemon, Page]) -> None:
    _, page = place
    steps = await page.evaluate("app.live()")
    status = steps.pop(3)
    assert status.pop("recoverySetAt").endswith("Z")
    assert status == dict.fromkeys(("vaultExists", "hasRecoveryWrap", "zeroKnowledge"), True)
    note, ok = "what only alice may read", {"ok": True}
    assert steps == [
        *("unlocked", ok, {"ok": True, "zeroKnowledge": True}),
        *("needs-code", "unlocked", note, ok, "unlocked", note),
        *("409 ZK_ROTATE_FORBIDDEN", "409 ZK_ACTIVE", "409 MASTER_KEY_MISMATCH"),
        *({"ok": True, "zeroKnowledge": False}, ok, "unlocked", "under the new key"),
    ]


async def test_it_sends_a_rotation_again_whose_answer_was_lost(place: tuple[Daemon, Page]) -> None:
    daemon, page = place
    # Whichever test runs first: there is a vault.
    assert await page.evaluate("app.rotates()") is True

    async def lose(route: Route) -> None:
        await route.fetch()
        await route.abort()

    await page.context.route("**/rotate", lose, times=2)
    assert await page.evaluate("app.rotates()") is True
    rows = await daemon.database.audit("old")
    assert rows[-5:-1] == [("fetch", None, 200), *[("rotate", None, 200)] * 3]


async def test_it_hears_of_an_outage_and_not_of_a_sign_out(place: tuple[Daemon, Page]) -> None:
    daemon, page = place
    server = Database(daemon.database.server, "postgres")
    name = daemon.database.name
    await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        shut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
        await server.fetch(shut, name)
        assert await page.evaluate("app.status()") == "503 DATABASE_UNAVAILABLE"
    finally:
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
