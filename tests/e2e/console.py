"""The console's states, each with a real daemon, and a real browser to look at it."""

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from playwright.async_api import Browser, async_playwright

from custody.ops import doctor
from tests.bao_server import Bao
from tests.client import Client, client_session
from tests.db.command import Command, custody
from tests.e2e.keks import make_place, overrides
from tests.eventually import eventually
from tests.rewrap.kit import DAMAGE, KEKS, NEW, OLD, fill
from tests.servers import Daemon, Database, daemon_here, settings_for
from tests.tokens import Issuer

_KEKS = {f"raw_{name}": value for name, value in KEKS.items()}
_SHUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"


def chromium() -> str:
    """Return the path of Debian's Chromium; where it is not, the test is skipped."""
    found = shutil.which("chromium")
    if found is None:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking("chromium is not installed: apt-get install --no-install-recommends chromium")
    return found


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Run a Chromium for the length of the block."""
    path = chromium()
    async with async_playwright() as playwright:
        # Tests may run as root, and then there is no sandbox.
        running = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield running
        finally:
            await running.close()


def counted(database: Database) -> dict[str, str]:
    """Return the settings of a daemon that counts rows, and leaves runs to others."""
    return {"REWRAP_DATABASE_URL": database.url("custody_rewrap"), "REWRAP_INTERVAL": "0"}


@asynccontextmanager
async def _serving(
    database: Database, issuer: Issuer, folder: Path, **settings: str
) -> AsyncIterator[Daemon]:
    """Serve in this process; it is a test's, and no daemon's: the doctor looks away from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "examine_this_process", list)
        async with daemon_here(database, issuer, folder, **settings) as daemon:
            yield daemon


@asynccontextmanager
async def fresh(
    database: Database, issuer: Issuer, folder: Path, bao: Bao
) -> AsyncIterator[Daemon]:
    """Some users, some refusals, and nothing wrong."""
    settings = counted(database) | {"AUDIT_SEAL_INTERVAL": "1"}
    async with _serving(database, issuer, folder, **settings) as daemon:
        await _use(daemon)
        yield daemon


@asynccontextmanager
async def rewrapping(
    database: Database,
    issuer: Issuer,
    folder: Path,
    bao: Bao,
    *,
    rows: int = 2000,
    rate: int = 100,
) -> AsyncIterator[Daemon]:
    """In the middle of a re-wrap, from one KEK to another."""
    await fill(database, rows)
    settings = counted(database) | {"KEK": NEW, "OLD_KEKS": OLD, **_KEKS}
    async with _serving(database, issuer, folder, **settings) as daemon:
        environ = settings_for(database, issuer, folder, **settings)
        run = Command(environ, "rewrap", "run", "--rate", str(rate), "--batch", "50")
        try:
            done = "SELECT sum(done) FROM auth.rewrap_runs"

            async def has_begun() -> bool:
                return int(await database.value(done) or 0) >= rows // 10

            await eventually(has_begun, 60)
            yield daemon
        finally:
            run.process.terminate()
            run.end()


@asynccontextmanager
async def kms_down(
    database: Database, issuer: Issuer, folder: Path, bao: Bao
) -> AsyncIterator[Daemon]:
    """The KMS of the active KEK has gone."""
    place = make_place("vault", folder, bao)
    settings = counted(database) | overrides(place)
    async with _serving(database, issuer, folder, **settings) as daemon:
        await _use(daemon)
        bao.kill()
        try:
            await _use(daemon, times=4)
            yield daemon
        finally:
            bao.start()
            bao.unseal()


@asynccontextmanager
async def findings(
    database: Database, issuer: Issuer, folder: Path, bao: Bao
) -> AsyncIterator[Daemon]:
    """Rows are set aside, and a setting is open that should not be."""
    ledger = await fill(database, 300)
    await database.execute(DAMAGE, list(ledger)[:7])
    settings = counted(database) | {"KEK": NEW, "OLD_KEKS": OLD, **_KEKS}
    environ = settings_for(database, issuer, folder, **settings)
    custody(environ, "rewrap", "run")
    async with _serving(database, issuer, folder, LEGACY_ROWS="accept", **settings) as daemon:
        yield daemon


@asynccontextmanager
async def database_down(
    database: Database, issuer: Issuer, folder: Path, bao: Bao
) -> AsyncIterator[Daemon]:
    """The database takes no connections any more."""
    async with _serving(database, issuer, folder, **counted(database)) as daemon:
        await _use(daemon)
        async with client_session() as session:
            await session.get(f"{daemon.admin}/")
        server = Database(database.server, "postgres")
        await server.execute(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
        await server.fetch(_SHUT, database.name)
        try:
            await _use(daemon, times=1)
            yield daemon
        finally:
            await server.execute(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")


async def _use(daemon: Daemon, times: int = 3) -> None:
    async with client_session() as session:
        for number in range(times):
            device = Client(daemon, session, f"user-{number}")
            await device.call("GET", "/key")
            await device.call("POST", "/init")
            await device.call("GET", "/key")
            await device.call("POST", "/zero-knowledge", {"enable": True})


State: TypeAlias = Callable[..., AbstractAsyncContextManager[Daemon]]
STATES: dict[str, State] = {
    "fresh": fresh,
    "rewrapping": rewrapping,
    "kms-down": kms_down,
    "findings": findings,
    "database-down": database_down,
}
