"""What ``custody serve`` refuses to start with, and what a daemon does when its database turns."""

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from custody.app import running
from custody.auth.jwks import JwksCache
from custody.auth.sources import file_source
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.db.checkout import acquire
from custody.db.erasures import Erasures
from custody.development.postgres import EmbeddedPostgres
from custody.keks.keks import Keks
from custody.keks.legacy import Door
from custody.ops import health
from custody.settings import ConfigurationError, load
from kek_backends.loader import load_keyring
from tests.client import Client, becomes, client_session, readiness
from tests.db.breaking import killed
from tests.db.command import custody
from tests.db.connecting import engine_of
from tests.db.old_service import KEK
from tests.db.posture import login
from tests.servers import (
    ROOT,
    Daemon,
    Database,
    daemon_beside,
    daemon_here,
    new_database,
    settings_for,
)
from tests.tokens import Issuer

ZERO = base64.b64encode(bytes(32)).decode()

UNSAFE = {
    "no force": (
        "ALTER TABLE auth.encryption_vaults NO FORCE ROW LEVEL SECURITY",
        "row-level security is not enabled and forced on auth.encryption_vaults; run: ALTER",
    ),
    "policy": (
        "DROP POLICY encryption_vault_audit_own_row ON auth.encryption_vault_audit",
        "the policy encryption_vault_audit_own_row is missing or was changed; run sql/migrations",
    ),
    "trigger": (
        "ALTER TABLE auth.encryption_vault_audit DISABLE TRIGGER ALL",
        "the trigger encryption_vault_audit_deadline is missing, disabled or was changed",
    ),
    "grant": (
        "GRANT DELETE ON auth.encryption_vault_audit TO PUBLIC",
        "may DELETE auth.encryption_vault_audit; run: REVOKE DELETE",
    ),
    "column": (
        "ALTER TABLE auth.encryption_vaults DROP COLUMN key_check",
        "auth.encryption_vaults has no column key_check; run: custody migrate",
    ),
}


@pytest.mark.parametrize("name", UNSAFE)
async def test_unsafe_database(
    database: Database, issuer: Issuer, tmp_path: Path, name: str
) -> None:
    sql, message = UNSAFE[name]
    await database.execute(sql)
    done = await asyncio.to_thread(custody, settings_for(database, issuer, tmp_path), "serve")
    assert done.code == 78
    assert message in done.complaint
    assert done.out == ""


@pytest.mark.parametrize("role", ["postgres", "custody_owner", "custody_rewrap"])
async def test_unsafe_role(database: Database, issuer: Issuer, tmp_path: Path, role: str) -> None:
    url = database.url(role)
    environ = settings_for(database, issuer, tmp_path, DATABASE_URL=url)
    done = await asyncio.to_thread(custody, environ, "serve")
    assert done.code == 78
    assert f"the role {role} " in done.complaint
    assert url.split(":")[2].split("@")[0] not in done.err


async def test_database_that_was_never_migrated(
    postgres: EmbeddedPostgres, issuer: Issuer, tmp_path: Path
) -> None:
    async with new_database(postgres, "template0") as empty:
        done = await asyncio.to_thread(custody, settings_for(empty, issuer, tmp_path), "serve")
    assert done.code == 78
    assert "has no schema of custody; run: custody migrate" in done.complaint


CONFIGURATION: dict[str, tuple[dict[str, str], str]] = {
    "zero KEK": ({"raw_MANA_AUTH_KEK": ZERO}, "the all-zero key protects nothing; restore the key"),
    "no KEK": ({"raw_MANA_AUTH_KEK": ""}, "neither MANA_AUTH_KEK nor MANA_AUTH_KEK_FILE is set"),
    "both": ({"raw_MANA_AUTH_KEK_FILE": "/kek"}, "both MANA_AUTH_KEK and MANA_AUTH_KEK_FILE are"),
    "bad base64": ({"raw_MANA_AUTH_KEK": "correct horse battery"}, "is not base64 of 32 bytes"),
    "short": ({"raw_MANA_AUTH_KEK": "c2hvcnQgc2VjcmV0"}, "is not base64 of 32 bytes"),
    "scheme": ({"KEK": "pgp:KEY"}, "no backend is named 'pgp'; known: "),
    "no URI": ({"KEK": "MANA_AUTH_KEK"}, "is not a KEK URI: write scheme:name"),
    "one kek_id": (
        {"OLD_KEKS": "env:OTHER_KEK", "raw_OTHER_KEK": KEK},
        "KEK env:OTHER_KEK and KEK env:MANA_AUTH_KEK share the kek_id env-v1",
    ),
    "no JWKS": ({"JWKS_FILE": ""}, "CUSTODY_JWKS_URL or CUSTODY_JWKS_FILE must be set"),
    "no issuer": ({"JWT_ISSUER": ""}, "CUSTODY_JWT_ISSUER must be set"),
    "no database": ({"DATABASE_URL": ""}, "CUSTODY_DATABASE_URL must be set"),
    "database URL": (
        {"DATABASE_URL": "mysql://custody_app:hunter2hunter2@h/d"},
        "CUSTODY_DATABASE_URL: write postgresql://role:password@host:5432/database",
    ),
    "password with a slash": (
        {"DATABASE_URL": "postgresql://custody_app:hunter2/hunter2@h/d"},
        "CUSTODY_DATABASE_URL: ",
    ),
    "JWKS file": ({"JWKS_FILE": "/nowhere/jwks.json"}, "CUSTODY_JWKS_FILE: "),
}
SECRETS = ("correct horse", "c2hvcnQgc2VjcmV0", "hunter2", KEK, ZERO)


@pytest.mark.prove
@pytest.mark.parametrize("name", CONFIGURATION)
async def test_configuration(database: Database, issuer: Issuer, tmp_path: Path, name: str) -> None:
    overrides, message = CONFIGURATION[name]
    environ = settings_for(database, issuer, tmp_path, **overrides)
    done = await asyncio.to_thread(custody, environ, "serve")
    assert done.code == 78
    assert message in done.complaint
    assert not any(secret in done.err for secret in SECRETS)


# ── while serving ─────────────────────────────────────────────────────────────


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health judges several times a second."""
    monkeypatch.setattr(health, "_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(health, "_RETRY_SECONDS", 0.1)


@pytest.mark.prove
async def test_database_that_turns_unsafe_shuts_the_routes(
    quick: None, database: Database, daemon: Daemon, device: Callable[[str], Client]
) -> None:
    alice = device("alice")
    key = (await alice.init()).json
    for sql, cure, part, phrase in (
        (
            "ALTER TABLE auth.encryption_vaults NO FORCE ROW LEVEL SECURITY",
            "ALTER TABLE auth.encryption_vaults FORCE ROW LEVEL SECURITY",
            "schema",
            "forced on auth.encryption_vaults",
        ),
        (
            "GRANT TRUNCATE ON auth.encryption_vault_audit TO custody_app",
            "REVOKE TRUNCATE ON auth.encryption_vault_audit FROM custody_app",
            "roles",
            "may TRUNCATE auth.encryption_vault_audit",
        ),
    ):
        await database.execute(sql)
        parts = await becomes(daemon, 503)
        assert phrase in parts.pop(part)
        assert set(parts.values()) == {"ok"}
        for answer in (await alice.key(), await alice.rotate(), await alice.status()):
            assert (answer.status, answer.code) == (503, "DATABASE_UNAVAILABLE")
            assert answer.headers["Retry-After"]
        await database.execute(cure)
        await becomes(daemon, 200)
        assert (await alice.key()).json == key


@pytest.mark.prove
async def test_role_that_is_refused_while_serving(
    database: Database, issuer: Issuer, tmp_path: Path, quick: None
) -> None:
    async with (
        login(database, "custody_app") as (role, url),
        daemon_here(database, issuer, tmp_path, DATABASE_URL=url) as daemon,
        client_session() as session,
    ):
        alice = Client(daemon, session, "alice")
        key = (await alice.init()).json
        await database.execute(f"ALTER ROLE {role} NOLOGIN")
        await database.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role
        )
        # A look that was under way when its session was ended says something else first.
        await becomes(daemon, 503, database="CUSTODY_DATABASE_URL")
        answer = await alice.key()
        assert (answer.status, answer.code) == (503, "DATABASE_UNAVAILABLE")
        await database.execute(f"ALTER ROLE {role} LOGIN")
        await becomes(daemon, 200)
        assert (await alice.key()).json == key


@pytest.mark.prove
async def test_refusal_is_seen_past_connections_that_have_ended(
    database: Database, tmp_path: Path
) -> None:
    """What a lost connection says depends on the moment; what the server says does not."""
    keyring = load_keyring("env:KEK", (), environ={"KEK": KEK}, development=False)
    jwks = JwksCache(fetch=file_source(tmp_path / "none"), source="none")
    async with login(database, "custody_app") as (role, url), engine_of(url, 4) as engine:
        ring = Ring(engine, keyring, 3600, 86_400)
        keks, door = Keks(keyring, engine, "here", Sealer(ring)), Door(engine, is_open=False)
        here = health.Health(
            engine,
            keks,
            ring,
            door,
            jwks,
            reserve=engine,
            erasures=Erasures(None),
            ages=AsyncMock(),
        )
        async with AsyncExitStack() as borrowed:
            for _ in range(4):
                await borrowed.enter_async_context(acquire(engine))
        await here.check()
        # In this thread, so that nobody here notices that they are gone before they are used.
        end = (
            'ALTER ROLE :"role" NOLOGIN;'
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = :'role'"
        )
        done = database.psql("postgres", "-v", f"role={role}", text=end)
        assert done.returncode == 0
        with pytest.raises(ConfigurationError, match=r"CUSTODY_DATABASE_URL: .* not permitted"):
            await here.check()
        assert "CUSTODY_DATABASE_URL" in (here.parts()["database"] or "")
    await jwks.close()


@pytest.mark.prove
async def test_database_that_is_down_at_boot(
    own_database: Database, issuer: Issuer, tmp_path: Path, quick: None
) -> None:
    async with client_session() as session, AsyncExitStack() as serving:
        async with killed(own_database.server) as port:
            daemon = await serving.enter_async_context(daemon_here(own_database, issuer, tmp_path))
            async with session.get(f"{daemon.admin}/livez") as response:
                assert response.status == 200
            status, parts = await readiness(daemon)
            assert status == 503
            page = (ROOT / "docs" / "self-hosting.md").read_text("utf-8")
            (shown,) = (line for line in page.splitlines() if line.startswith('{"ready": false'))
            assert parts == json.loads(shown.replace("5432", str(port)))["parts"]
            alice = Client(daemon, session, "alice")
            assert (await alice.init()).code == "DATABASE_UNAVAILABLE"
            async with session.get(f"{daemon.base}/status") as response:
                assert response.status == 401
        await becomes(daemon, 200)
        assert (await alice.init()).status == 200


@pytest.mark.prove
async def test_database_that_comes_up_unsafe(
    own_database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    await own_database.execute("ALTER TABLE auth.encryption_vaults NO FORCE ROW LEVEL SECURITY")
    with ExitStack() as serving:
        async with killed(own_database.server):
            daemon = await asyncio.to_thread(
                serving.enter_context, daemon_beside(own_database, issuer, tmp_path, probe="livez")
            )
            assert daemon.process is not None
            assert daemon.log is not None
            assert daemon.process.poll() is None
        assert await asyncio.to_thread(daemon.process.wait, 15) == 78
        log = daemon.log.read_text()
    complaints = [line for line in log.splitlines() if not line.startswith("{")]
    assert len(complaints) == 1
    assert "row-level security is not enabled and forced on auth.encryption_vaults" in complaints[0]


@pytest.mark.prove
async def test_wrong_key_on_a_database_that_was_down(
    own_database: Database, issuer: Issuer, tmp_path: Path, quick: None
) -> None:
    async with daemon_here(own_database, issuer, tmp_path):
        pass
    environ = settings_for(own_database, issuer, tmp_path, raw_MANA_AUTH_KEK=KEK)
    async with AsyncExitStack() as serving:
        async with killed(own_database.server):
            here = await serving.enter_async_context(running(load(environ), environ))
            assert not here.watch.done()
        with pytest.raises(ConfigurationError, match="stands for other key material"):
            async with asyncio.timeout(10):
                await here.watch
