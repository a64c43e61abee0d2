"""``/readyz`` follows what requests meet, at once; one user's trouble is nobody else's.

The daemon's own looks are an hour apart here: what is seen comes of requests.
"""

import asyncio
import base64
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from custody.development.postgres import EmbeddedPostgres
from custody.http import frontend
from custody.ops import health
from kek_backends.errors import Denied, KekError, Transient
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from tests.client import Client, becomes, readiness
from tests.db.breaking import frozen, killed
from tests.failing_kek import FailingKek
from tests.servers import Daemon, Database

WRAPPED = base64.b64encode(bytes(48)).decode()
IV = base64.b64encode(bytes(12)).decode()


@pytest.fixture(autouse=True)
def no_look_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_AGAIN_SECONDS", 3600.0)
    monkeypatch.setattr(health, "_RETRY_SECONDS", 0.2)


@pytest.fixture
def database(own_database: Database) -> Database:
    return own_database


@pytest.fixture
async def alice(device: Callable[[str], Client]) -> Client:
    """A user with a vault."""
    client = device("alice")
    assert (await client.init()).status == 200
    return client


@pytest.fixture
def kek(monkeypatch: pytest.MonkeyPatch) -> FailingKek:
    """The daemon's KEK. It says nothing of itself: all there is to see is what requests meet."""
    monkeypatch.setattr("custody.vault.kek_timeout.KEK_TIMEOUT_SECONDS", 0.2)
    uri = KekUri.parse("env:FAILING")
    made = FailingKek(uri=uri, kek_id="failing-v1", key=bytes(range(32)), development=False)
    monkeypatch.setattr("custody.keks.keks.load_keyring", lambda *_uris, **_rest: Keyring(made))
    return made


@pytest.mark.prove
@pytest.mark.parametrize("broken", [killed, frozen], ids=["stopped", "frozen"])
async def test_database_that_fails_a_request(
    own_server: EmbeddedPostgres,
    daemon: Daemon,
    alice: Client,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[EmbeddedPostgres], AbstractAsyncContextManager[object]],
) -> None:
    monkeypatch.setattr(frontend, "REQUEST_SECONDS", 2.0)
    key = (await alice.key()).json
    assert (await readiness(daemon))[0] == 200
    async with broken(own_server):
        for _ in range(2):  # the routes go on trying
            answer = await alice.key()
            assert (answer.status, answer.code) == (503, "DATABASE_UNAVAILABLE")
            status, parts = await readiness(daemon)
            assert status == 503
            assert "the database" in parts["database"]
            assert parts["schema"] == parts["roles"] == parts["kek"] == "ok"
    await becomes(daemon, 200)
    assert (await alice.key()).json == key


@pytest.mark.prove
async def test_audit_that_fails_a_request(
    database: Database, daemon: Daemon, alice: Client
) -> None:
    await database.execute("REVOKE INSERT ON auth.encryption_vault_audit FROM custody_app")
    assert (await alice.key()).code == "AUDIT_UNAVAILABLE"
    status, parts = await readiness(daemon)
    assert status == 503
    assert parts["audit"] != "ok"
    await database.execute("GRANT INSERT ON auth.encryption_vault_audit TO custody_app")
    await becomes(daemon, 200)
    assert (await alice.key()).status == 200


@pytest.mark.prove
async def test_full_disk_is_named(database: Database, daemon: Daemon, alice: Client) -> None:
    """As PostgreSQL answers to whatever needs another page: the daemon's own rows, too."""
    tables = ["custody_instances", "encryption_vault_audit"]
    await database.execute(
        "CREATE FUNCTION public.fill() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE disk_full; END $$"
    )
    for table in tables:
        await database.execute(
            f"CREATE TRIGGER fill BEFORE INSERT OR UPDATE ON auth.{table}"
            " FOR EACH ROW EXECUTE FUNCTION public.fill()"
        )
    assert (await alice.key()).status == 503
    status, parts = await readiness(daemon)
    assert status == 503
    assert "the disk of the database is full: give it room" in parts.values()
    for table in tables:
        await database.execute(f"DROP TRIGGER fill ON auth.{table}")
    await becomes(daemon, 200)
    assert (await alice.key()).status == 200


@pytest.mark.prove
@pytest.mark.parametrize("failure", [Transient("failing: down"), Denied("failing: no"), None])
async def test_kek_that_fails_a_request(
    kek: FailingKek, daemon: Daemon, alice: Client, failure: KekError | None
) -> None:
    kek.failure, kek.hangs = failure, failure is None
    for call in (alice.key, alice.init):
        assert (await call()).code == "KEK_UNAVAILABLE"
        status, parts = await readiness(daemon)
        assert status == 503
        assert "failing" in parts["kek"].lower()
        assert parts["database"] == "ok"
    kek.failure, kek.hangs = None, False
    await becomes(daemon, 200)
    assert (await alice.key()).status == 200


@pytest.mark.prove
async def test_row_of_a_kek_that_is_not_configured(
    database: Database, daemon: Daemon, alice: Client
) -> None:
    await database.execute("UPDATE auth.encryption_vaults SET kek_id = 'gone-v1'")
    assert (await alice.key()).code == "KEK_UNAVAILABLE"
    status, parts = await readiness(daemon)
    assert status == 503
    assert "gone-v1" in parts["kek"]
    await database.execute("UPDATE auth.encryption_vaults SET kek_id = 'env-v1'")
    await becomes(daemon, 200)


@pytest.mark.prove
async def test_trouble_of_one_user_leaves_it_ready(
    database: Database, daemon: Daemon, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    note = health.Health.parts

    def parts(self: health.Health) -> dict[str, str | None]:
        found = note(self)
        seen.extend(what for what in found.values() if what)
        return found

    async def watch() -> None:
        while True:
            await readiness(daemon)

    monkeypatch.setattr(health.Health, "parts", parts)
    watching = asyncio.create_task(watch())
    # A row that somebody else has locked.
    async with database.connect() as other, other.transaction():
        await other.execute("SELECT FROM auth.encryption_vaults FOR UPDATE")
        assert (await alice.set_recovery(WRAPPED, IV)).status == 503
    # A request that comes when its time is over.
    monkeypatch.setattr(frontend, "REQUEST_SECONDS", 0.2)
    assert (await alice.key()).status == 503
    monkeypatch.setattr(frontend, "REQUEST_SECONDS", 10.0)
    # A wrap that somebody has touched.
    await database.execute("UPDATE auth.encryption_vaults SET wrapped_mk = reverse(wrapped_mk)")
    assert (await alice.key()).code == "ROW_TAMPERED"
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    assert (await readiness(daemon))[0] == 200
    assert seen == []
