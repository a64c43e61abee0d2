"""``/readyz`` follows what requests meet, at once; one user's trouble is nobody else's.

The daemon's own looks are an hour apart here: what is seen comes of requests.
"""

import asyncio
import base64
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from custody.development.postgres import EmbeddedPostgres
from custody.http import frontend
from custody.ops import health
from kek_backends.errors import Denied, KekError, Transient
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from tests.client import Client, client_session
from tests.db.breaking import frozen, kill
from tests.http.test_failures import FailingKek
from tests.servers import TEMPLATE, Daemon, Database, daemon_here, postgres_server, start_on
from tests.tokens import Issuer

WRAPPED = base64.b64encode(bytes(48)).decode()
IV = base64.b64encode(bytes(12)).decode()


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for this file alone: its tests freeze and kill it."""
    with postgres_server() as server:
        yield server


@pytest.fixture
async def own_database(own_server: EmbeddedPostgres) -> AsyncIterator[Database]:
    made = Database(own_server, f"test_{secrets.token_hex(6)}")
    admin = Database(own_server, "postgres")
    await admin.execute(f"CREATE DATABASE {made.name} TEMPLATE {TEMPLATE} OWNER custody_owner")
    yield made
    await admin.execute(f"DROP DATABASE {made.name} WITH (FORCE)")


@pytest.fixture(autouse=True)
def no_look_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_AGAIN_SECONDS", 3600.0)
    monkeypatch.setattr(health, "_RETRY_SECONDS", 0.2)


@asynccontextmanager
async def serving(
    database: Database, issuer: Issuer, folder: Path
) -> AsyncIterator[tuple[Daemon, Client]]:
    async with daemon_here(database, issuer, folder) as daemon, client_session() as session:
        alice = Client(daemon, session, "alice")
        assert (await alice.init()).status == 200
        yield daemon, alice


async def readiness(daemon: Daemon) -> tuple[int, dict[str, str]]:
    async with client_session() as session, session.get(f"{daemon.admin}/readyz") as response:
        return response.status, (await response.json())["parts"]


async def ready_again(daemon: Daemon) -> None:
    async with asyncio.timeout(10):
        while True:
            if (await readiness(daemon))[0] == 200:
                return
            await asyncio.sleep(0.02)


@contextmanager
def stopped(server: EmbeddedPostgres) -> Iterator[None]:
    """Kill the server for the length of the block."""
    port = kill(server)
    try:
        yield
    finally:
        start_on(server, port)


@pytest.mark.parametrize("broken", [stopped, frozen])
async def test_database_that_fails_a_request(
    own_database: Database,
    issuer: Issuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[EmbeddedPostgres], AbstractContextManager[None]],
) -> None:
    async with serving(own_database, issuer, tmp_path) as (daemon, alice):
        monkeypatch.setattr(frontend, "REQUEST_SECONDS", 2.0)
        key = (await alice.key()).json
        assert (await readiness(daemon))[0] == 200
        trouble = broken(own_database.server)
        await asyncio.to_thread(trouble.__enter__)
        try:
            for _ in range(2):  # the routes go on trying
                answer = await alice.key()
                assert (answer.status, answer.code) == (503, "DATABASE_UNAVAILABLE")
                status, parts = await readiness(daemon)
                assert status == 503
                assert "the database" in parts["database"]
                assert parts["schema"] == parts["roles"] == parts["kek"] == "ok"
        finally:
            await asyncio.to_thread(trouble.__exit__, None, None, None)
        await ready_again(daemon)
        assert (await alice.key()).json == key


async def test_audit_that_fails_a_request(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with serving(database, issuer, tmp_path) as (daemon, alice):
        await database.execute("REVOKE INSERT ON auth.encryption_vault_audit FROM custody_app")
        assert (await alice.key()).code == "AUDIT_UNAVAILABLE"
        status, parts = await readiness(daemon)
        assert status == 503
        assert parts["audit"] != "ok"
        await database.execute("GRANT INSERT ON auth.encryption_vault_audit TO custody_app")
        await ready_again(daemon)
        assert (await alice.key()).status == 200


async def test_full_disk_is_named(own_database: Database, issuer: Issuer, tmp_path: Path) -> None:
    """As PostgreSQL answers to whatever needs another page: the daemon's own rows, too."""
    tables = ["custody_instances", "encryption_vault_audit"]
    async with serving(own_database, issuer, tmp_path) as (daemon, alice):
        await own_database.execute(
            "CREATE FUNCTION public.fill() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE disk_full; END $$"
        )
        for table in tables:
            await own_database.execute(
                f"CREATE TRIGGER fill BEFORE INSERT OR UPDATE ON auth.{table}"
                " FOR EACH ROW EXECUTE FUNCTION public.fill()"
            )
        assert (await alice.key()).status == 503
        status, parts = await readiness(daemon)
        assert status == 503
        assert "the disk of the database is full: give it room" in parts.values()
        for table in tables:
            await own_database.execute(f"DROP TRIGGER fill ON auth.{table}")
        await ready_again(daemon)
        assert (await alice.key()).status == 200


@pytest.mark.parametrize("failure", [Transient("failing: down"), Denied("failing: no"), None])
async def test_kek_that_fails_a_request(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: KekError | None,
) -> None:
    monkeypatch.setattr("custody.vault.keys.KEK_TIMEOUT_SECONDS", 0.2)
    # One that says nothing of itself: all there is to see is what requests meet.
    uri = KekUri.parse("env:FAILING")
    kek = FailingKek(uri=uri, kek_id="failing-v1", key=bytes(range(32)), development=False)
    monkeypatch.setattr("custody.keks.keks.load_keyring", lambda *_uris, **_rest: Keyring(kek))
    async with serving(database, issuer, tmp_path) as (daemon, alice):
        kek.failure, kek.hangs = failure, failure is None
        for call in (alice.key, alice.init):
            assert (await call()).code == "KEK_UNAVAILABLE"
            status, parts = await readiness(daemon)
            assert status == 503
            assert "failing" in parts["kek"].lower()
            assert parts["database"] == "ok"
        kek.failure, kek.hangs = None, False
        await ready_again(daemon)
        assert (await alice.key()).status == 200


async def test_row_of_a_kek_that_is_not_configured(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with serving(database, issuer, tmp_path) as (daemon, alice):
        await database.execute("UPDATE auth.encryption_vaults SET kek_id = 'gone-v1'")
        assert (await alice.key()).code == "KEK_UNAVAILABLE"
        status, parts = await readiness(daemon)
        assert status == 503
        assert "gone-v1" in parts["kek"]
        await database.execute("UPDATE auth.encryption_vaults SET kek_id = 'env-v1'")
        await ready_again(daemon)


async def test_trouble_of_one_user_leaves_it_ready(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    note = health.Health.parts

    def parts(self: health.Health) -> dict[str, str | None]:
        found = note(self)
        seen.extend(what for what in found.values() if what)
        return found

    async def watch(daemon: Daemon) -> None:
        while True:
            await readiness(daemon)

    async with serving(database, issuer, tmp_path) as (daemon, alice):
        monkeypatch.setattr(health.Health, "parts", parts)
        watching = asyncio.create_task(watch(daemon))
        # A row that somebody else has locked.
        async with database.connect() as other, other.transaction():
            await other.execute("SELECT FROM auth.encryption_vaults FOR UPDATE")
            assert (await alice.set_recovery(WRAPPED, IV)).status == 503
        # A request that comes when its time is over.
        monkeypatch.setattr(frontend, "REQUEST_SECONDS", 0.2)
        assert (await alice.key()).status == 503
        monkeypatch.setattr(frontend, "REQUEST_SECONDS", 10.0)
        # A wrap that somebody has touched.
        await database.execute(
            "UPDATE auth.encryption_vaults SET wrapped_mk = translate(wrapped_mk, 'abc', 'bca')"
        )
        assert (await alice.key()).code == "UNWRAP_FAILED"
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        assert (await readiness(daemon))[0] == 200
    assert seen == []
