"""Behind PgBouncer, where a connection is another session of the server in each transaction."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from custody.audit.events import event_id
from custody.db import migrate as migrations
from custody.db import pooler as pooler_module
from custody.db.checkout import acquire
from custody.db.engine import Dsn
from custody.db.erase import erase_user
from custody.db.erasure_record import Erasure
from custody.db.errors import DatabaseError
from custody.db.migrate import migrate
from custody.development.postgres import EmbeddedPostgres
from tests.checker import check
from tests.client import Client, client_session
from tests.db.command import custody
from tests.db.connecting import engine_of
from tests.db.posture import problems_of
from tests.ledger import ROUTES, going_on, ledger_of
from tests.pgbouncer import UrlOf, keeps_statements, pgbouncer
from tests.servers import Database, daemon_here, new_database, settings_for
from tests.tokens import Issuer


@pytest.fixture(scope="module")
def pooler(postgres: EmbeddedPostgres) -> Iterator[UrlOf]:
    """A PgBouncer in transaction mode that knows nothing of prepared statements."""
    with pgbouncer(postgres) as running:
        yield running


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_mixed_requests_and_a_rewrap_beside_them(
    database: Database, postgres: EmbeddedPostgres, issuer: Issuer, tmp_path: Path, mode: str
) -> None:
    """All routes, and all rows wrapped anew all the while; POOLER_REQUESTS of them."""
    count = int(os.environ.get("POOLER_REQUESTS", "400"))
    # In session mode each connection of a daemon has one of the server to itself.
    with pgbouncer(postgres, pool_mode=mode, default_pool_size="40") as pooler:
        urls = {
            "DATABASE_URL": pooler(database, "custody_app"),
            "REWRAP_DATABASE_URL": pooler(database, "custody_rewrap"),
        }
        async with (
            daemon_here(database, issuer, tmp_path, **urls) as daemon,
            ledger_of([daemon.base], issuer) as ledger,
        ):
            async with going_on(ledger, [f"user-{n}" for n in range(16)], devices=1, pause=0.01):
                rewrapped = 0
                while len(ledger.entries) < count or not rewrapped:
                    run = ("rewrap", "run", "--all", "--rate", "8", "--json")
                    done = await asyncio.to_thread(custody, daemon.settings, *run)
                    assert done.code == 0, done.err
                    rewrapped += json.loads(done.out)["done"]
            assert ledger.errors() == {}
            found = await check(
                ledger,
                database=database.url("postgres"),
                environ=daemon.settings
                | {"CUSTODY_OWNER_DATABASE_URL": pooler(database, "custody_owner")},
                admins=[daemon.admin],
            )
    assert found == []
    assert {entry.act for entry in ledger.entries} == set(ROUTES)


async def prepared(url: str) -> int:
    """Return how many prepared statements a session has after one question of an engine."""
    async with engine_of(url) as engine, acquire(engine) as held:
        return int(await held.fetchval("SELECT count(*) FROM pg_prepared_statements"))


@pytest.mark.prove
async def test_daemon(database: Database, pooler: UrlOf, issuer: Issuer, tmp_path: Path) -> None:
    """Two daemons with many users at once share the pooler's sessions."""
    url = pooler(database, "custody_app")
    async with (
        daemon_here(database, issuer, tmp_path, DATABASE_URL=url) as one,
        daemon_here(database, issuer, tmp_path, DATABASE_URL=url) as other,
        client_session() as session,
    ):

        async def live(number: int) -> list[int]:
            device = Client((one, other)[number % 2], session, f"user-{number}")
            calls = (device.init, device.key, device.rotate, device.status, device.key)
            return [(await call()).status for call in calls]

        seen = await asyncio.gather(*(live(number) for number in range(40)))
    assert seen == [[200] * 5] * 40


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_statements_are_sent_anew_where_nobody_keeps_them(
    database: Database, postgres: EmbeddedPostgres, mode: str
) -> None:
    with pgbouncer(postgres, pool_mode=mode) as pooler, capture_logs() as logged:
        assert await prepared(pooler(database, "custody_app")) == 0
        assert [line["event"] for line in logged] == ["pooler_keeps_no_statements"]
        # What the question left behind would be in the way of the next one.
        assert await prepared(pooler(database, "custody_app")) == 0


async def test_statements_are_kept_where_nobody_is_in_between(database: Database) -> None:
    with capture_logs() as logged:
        assert await prepared(database.url("custody_app")) > 0
    assert logged == []


@pytest.mark.skipif(not keeps_statements(), reason="this PgBouncer is older than 1.21")
async def test_statements_are_kept_by_a_newer_one(
    database: Database, postgres: EmbeddedPostgres
) -> None:
    with pgbouncer(postgres, max_prepared_statements="100") as pooler, capture_logs() as logged:
        assert await prepared(pooler(database, "custody_app")) > 0
    assert logged == []


async def test_statement_mode_is_named(database: Database, postgres: EmbeddedPostgres) -> None:
    said = "pool_mode neither transaction nor session"
    with (
        pgbouncer(postgres, pool_mode="statement") as pooler,
        pytest.raises(DatabaseError, match=said),
    ):
        await prepared(pooler(database, "custody_app"))


@pytest.mark.prove
async def test_pooler_with_too_few_connections_is_named(
    database: Database, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In session mode: each connection to it keeps one of its own to the server."""
    monkeypatch.setattr(pooler_module, "_PROBE_SECONDS", 0.2)
    with pgbouncer(postgres, pool_mode="session", default_pool_size="1") as pooler:
        url = pooler(database, "custody_app")
        async with engine_of(url, 2) as engine, acquire(engine):
            with pytest.raises(DatabaseError, match="default_pool_size"):
                await prepared(url)
            # And one that has seen before what stands in between.
            with pytest.raises(DatabaseError, match="default_pool_size"):
                async with acquire(engine):
                    pass


async def test_session_that_forgot_its_statements_is_thrown_away(database: Database) -> None:
    """As behind a pooler that was set up anew while we were connected."""
    async with engine_of(database.url("custody_app")) as engine:
        async with acquire(engine) as held:
            before = await held.fetchval("SELECT pg_backend_pid()")
            await held.execute("DEALLOCATE ALL")
        with pytest.raises(DatabaseError, match="InvalidSQLStatementName"):
            async with acquire(engine) as held:
                await held.fetchval("SELECT pg_backend_pid()")
        async with acquire(engine) as held:
            assert await held.fetchval("SELECT pg_backend_pid()") != before


@pytest.mark.prove
async def test_migrations_leave_no_lock(
    postgres: EmbeddedPostgres, pooler: UrlOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "_LOCK_TIMEOUT_SECONDS", 1)
    async with new_database(postgres, "template0") as empty:
        owner = Dsn(pooler(empty, "custody_owner"))
        both = await asyncio.gather(*(migrate(owner) for _ in range(2)))
        names = [migration.name for migration in migrations.migrations()]
        assert sorted(both[0] + both[1]) == names
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert await empty.value(locks) == 0
        for _ in range(3):
            assert await migrate(owner) == ()
        assert await problems_of(pooler(empty, "custody_app")) == ()
        erased = await erase_user(owner, Erasure(event_id(), "nobody"))
    assert not erased.vault


@pytest.mark.prove
async def test_doctor_says_it_beside_its_findings(
    database: Database, pooler: UrlOf, issuer: Issuer, tmp_path: Path
) -> None:
    url = pooler(database, "custody_app")
    environ = settings_for(database, issuer, tmp_path, DATABASE_URL=url)
    done = await asyncio.to_thread(custody, environ, "doctor", "--json")
    assert [one["verdict"] for one in json.loads(done.out) if one["part"] == "database"] == ["ok"]
    assert "max_prepared_statements" in done.err
