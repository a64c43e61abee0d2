"""COMMIT waits for a synchronous standby that is not there: what is answered, and what is true."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from custody.db import erase, owner
from custody.db.engine import Dsn, create_engine
from custody.db.errors import OutcomeUnknown
from custody.development.postgres import EmbeddedPostgres
from custody.http import frontend
from custody.keks import records, registry
from custody.ops.doctor import examine
from custody.ops.health import Health
from kek_backends.findings import Verdict
from kek_backends.loader import load_keyring
from tests.client import Answer, Client, client_session
from tests.db.embedded_server import open_folder
from tests.db.kek_registry import register
from tests.db.mistakes import OTHER_KEK
from tests.servers import (
    TEMPLATE,
    Database,
    bare_postgres,
    daemon_here,
    make_template,
    new_database,
    postgres_server,
)
from tests.standby import eventually, standby_of, take_standbys
from tests.tokens import Issuer

SECONDS = 4.0
WRAPPED, IV = (base64.b64encode(bytes(size)).decode() for size in (48, 12))
# The pool of requests and the connections kept for audit rows of failures.
MOST_CONNECTIONS = 18

WAITING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE wait_event = 'SyncRep' AND application_name = 'custody'"
)
OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'custody'"
END = "SELECT {}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture(autouse=True)
def _short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "REQUEST_SECONDS", SECONDS)


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for this file alone: what its commits wait for is a setting of all of it."""
    with postgres_server() as server:
        yield server


@pytest.fixture
async def own_database(own_server: EmbeddedPostgres) -> AsyncIterator[Database]:
    async with new_database(own_server) as made:
        yield made


async def waits_for(server: EmbeddedPostgres, names: str) -> None:
    """Have commits wait for these standbys, from now on."""
    admin = await asyncpg.connect(server.url("postgres"))
    try:
        await admin.execute("SET synchronous_commit = local")
        await admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.execute("SET synchronous_commit = on")
        # The server's checkpointer has to hear of it, too.
        for _ in range(100):
            try:
                await admin.execute("SELECT pg_logical_emit_message(true, '', '')", timeout=0.2)
            except TimeoutError:
                assert names
                return
            if not names:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("commits wait for nobody")
    finally:
        admin.terminate()


@asynccontextmanager
async def no_standby(server: EmbeddedPostgres) -> AsyncIterator[None]:
    """For the length of the block, commits wait for a standby that is not there."""
    await waits_for(server, "s1")
    try:
        yield
    finally:
        await waits_for(server, "")


@asynccontextmanager
async def serving(
    database: Database, issuer: Issuer, folder: Path
) -> AsyncIterator[Callable[[str], Client]]:
    async with daemon_here(database, issuer, folder) as daemon, client_session() as session:
        yield lambda user: Client(daemon, session, user)


async def timed(call: Awaitable[Answer]) -> tuple[Answer, float]:
    began = time.monotonic()
    return await call, time.monotonic() - began


async def vaults(database: Database) -> list[Any]:
    return await database.fetch("SELECT * FROM auth.encryption_vaults ORDER BY user_id")


async def none_waits(database: Database) -> bool:
    return bool(await database.value(WAITING) == 0)


async def prepare_zk(device: Client, *, on: bool) -> str:
    key = str((await device.init()).json["masterKey"])
    assert (await device.set_recovery(WRAPPED, IV)).status == 200
    if on:
        assert (await device.enable_zk()).status == 200
    return key


async def change(device: Client, action: str, key: str) -> Answer:
    match action:
        case "recovery_set":
            return await device.set_recovery(WRAPPED, IV)
        case "recovery_clear":
            return await device.clear_recovery()
        case "zk_enable":
            return await device.enable_zk()
        case "zk_disable":
            return await device.disable_zk(key)
        case "init":
            return await device.init()
        case _:
            return await device.rotate()


@pytest.mark.parametrize(
    "action", ["init", "rotate", "recovery_set", "recovery_clear", "zk_enable", "zk_disable"]
)
async def test_change_that_no_standby_confirms(
    own_server: EmbeddedPostgres,
    own_database: Database,
    issuer: Issuer,
    tmp_path: Path,
    action: str,
) -> None:
    async with serving(own_database, issuer, tmp_path) as device:
        alice, key = device("alice"), ""
        if action != "init":
            key = await prepare_zk(alice, on=action == "zk_disable")
        before = await vaults(own_database)
        async with no_standby(own_server):
            answer, seconds = await timed(change(alice, action, key))
            assert (answer.status, answer.code) == (503, "OUTCOME_UNKNOWN")
            assert answer.headers["Retry-After"]
            assert seconds < SECONDS + 0.5
            # Whoever asks now hears what will be so later.
            await eventually(lambda: none_waits(own_database), 2)
            told = await vaults(own_database)
            assert told != before
            if action != "init":
                assert (await alice.status()).status == 200
        assert await vaults(own_database) == told
        assert (await own_database.audit("alice"))[-1][::2] == (action, 200)
        again = await alice.key()
        assert again.status == 200
        assert again.headers["ETag"] == f'"{told[0]["generation"]}"'


async def test_no_key_leaves_whose_audit_row_no_standby_confirms(
    own_server: EmbeddedPostgres, own_database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    users = [f"user-{number}" for number in range(10)]
    async with serving(own_database, issuer, tmp_path) as device:
        for user in users:
            assert (await device(user).init()).status == 200
        async with no_standby(own_server):
            for _ in range(2):
                calls = [device(user).key() for user in users for _ in range(4)]
                for answer, seconds in await asyncio.gather(*map(timed, calls)):
                    assert (answer.status, answer.code) == (503, "AUDIT_UNAVAILABLE")
                    assert seconds < SECONDS + 0.5
                assert await own_database.value(OURS) <= MOST_CONNECTIONS
            # The daemon's own sign of life has a few seconds, too.
            await eventually(lambda: none_waits(own_database), 5)
        for user in users:
            assert (await device(user).key()).status == 200


@pytest.mark.parametrize("end", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_wait_that_an_administrator_cuts_short_is_no_success(
    own_server: EmbeddedPostgres, own_database: Database, issuer: Issuer, tmp_path: Path, end: str
) -> None:
    async with serving(own_database, issuer, tmp_path) as device:
        etags = {user: (await device(user).init()).headers["ETag"] for user in ("alice", "bob")}
        async with no_standby(own_server):
            calls = [
                asyncio.create_task(call()) for call in (device("alice").rotate, device("bob").key)
            ]

            async def both_wait() -> bool:
                return bool(await own_database.value(WAITING) == 2)

            await eventually(both_wait, 2)
            with capture_logs() as logs:
                await own_database.fetch(END.format(end))
                rotated, fetched = await asyncio.gather(*calls)
            # Its failure needs no row: that of the change is there.
            events = {one["event"] for one in logs}
            assert "outcome_unknown" in events
            assert "failure_not_audited" not in events
            assert (rotated.status, rotated.code) == (503, "OUTCOME_UNKNOWN")
            assert (fetched.status, fetched.code) == (503, "AUDIT_UNAVAILABLE")
        assert (await device("alice").key()).headers["ETag"] != etags["alice"]
        audit = await own_database.audit("alice")
        assert [row for row in audit if row[0] == "rotate"] == [("rotate", None, 200)]


async def test_change_whose_connection_is_lost_in_commit_and_that_was_not_made(
    own_database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit tells: a failure has a row only where that of the change itself is not."""
    # It would look at once, find the trigger below, and shut the routes.
    monkeypatch.setattr(Health, "met", lambda *_: None)
    async with serving(own_database, issuer, tmp_path) as device:
        alice = device("alice")
        before = await alice.init()
        await own_database.execute(
            "CREATE FUNCTION public.vanish() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER vanish AFTER INSERT ON auth.encryption_vault_audit"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
            " WHEN (NEW.action = 'rotate' AND NEW.status = 200) EXECUTE FUNCTION public.vanish()"
        )
        answer = await alice.rotate()
        assert (answer.status, answer.code) == (503, "OUTCOME_UNKNOWN")
        after = await alice.key()
        assert (after.json, after.headers["ETag"]) == (before.json, before.headers["ETag"])
        assert ("rotate", "outcome-unknown", 503) in await own_database.audit("alice")
        assert ("rotate", None, 200) not in await own_database.audit("alice")


async def test_doctor_knows_that_no_standby_is_there(
    own_server: EmbeddedPostgres, own_database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with daemon_here(own_database, issuer, tmp_path) as daemon:
        environ = dict(daemon.settings)
    assert "replication" not in {finding.part for finding in await examine(environ)}
    async with no_standby(own_server):
        (found,) = [one for one in await examine(environ) if one.part == "replication"]
        assert found.verdict is Verdict.FINDING
        assert "synchronous_standby_names = s1" in found.message
        await own_database.execute(
            f"ALTER DATABASE {own_database.name} SET synchronous_commit = local"
        )
        assert "replication" not in {finding.part for finding in await examine(environ)}


async def test_owner_is_told_that_it_may_have_been_done(
    own_server: EmbeddedPostgres,
    own_database: Database,
    issuer: Issuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, "_COMMIT_SECONDS", 0.5)
    async with serving(own_database, issuer, tmp_path) as device:
        assert (await device("alice").init()).status == 200
    url = own_database.url("custody_owner")
    await own_database.execute(
        f"ALTER ROLE custody_owner IN DATABASE {own_database.name} SET synchronous_commit = on"
    )
    async with no_standby(own_server):
        with pytest.raises(owner.OwnerUncertain, match="run the command again, which tells"):
            await erase.erase_user(Dsn(url), "alice")
        await eventually(lambda: none_waits(own_database), 2)
    again = await erase.erase_user(Dsn(url), "alice")
    assert (again.vault, again.user) == (False, False)


async def test_kek_that_no_standby_has_seen_retired_or_registered(
    own_server: EmbeddedPostgres, own_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither passes for done, and neither leaves a session that waits."""
    monkeypatch.setattr(records, "_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(registry, "_REGISTER_SECONDS", 0.5)
    await register(own_database, "env-gone")
    app = create_engine(Dsn(own_database.url("custody_app")), pool_size=1)
    rewrap = create_engine(Dsn(own_database.url("custody_rewrap")), pool_size=1)
    uri = "env:MANA_AUTH_KEK"
    keyring = load_keyring(uri, (), environ={"MANA_AUTH_KEK": OTHER_KEK}, development=False)
    try:
        async with no_standby(own_server):
            with pytest.raises(OutcomeUnknown):
                await records.retire(rewrap, "env-gone")
            with pytest.raises(OutcomeUnknown):
                await registry.KekRegistry(app, keyring).check()
            await eventually(lambda: none_waits(own_database), 2)
        assert await records.retire(rewrap, "env-gone") is records.Retirement.ALREADY_RETIRED
        await registry.KekRegistry(app, keyring).check()
    finally:
        await app.dispose()
        await rewrap.dispose()
        await keyring.close()


@pytest.mark.prove
async def test_with_a_standby_that_goes_and_comes_back(issuer: Issuer, tmp_path: Path) -> None:
    with open_folder() as folder, bare_postgres(folder / "first", durable=False) as first:
        await make_template(first)
        await asyncio.to_thread(first.grant_logins)
        await take_standbys(first)
        database = Database(first, TEMPLATE)
        async with serving(database, issuer, tmp_path) as device:
            alice = device("alice")
            keys = {(await alice.init()).json["masterKey"]}
            for number in range(2):
                copy = folder / f"copy-{number}"
                copy.mkdir(0o777)
                copy.chmod(0o777)
                with standby_of(first, copy) as standby:
                    await standby.wait_for("SELECT pg_is_in_recovery()")
                    await set_names(first, "walreceiver")
                    rotated = await alice.rotate()
                    assert rotated.status == 200
                    keys.add(rotated.json["masterKey"])
                    assert (await alice.key()).json == rotated.json
                assert (await alice.rotate()).code == "OUTCOME_UNKNOWN"
                await set_names(first, "")
            assert len(keys) == 3


async def set_names(server: EmbeddedPostgres, names: str) -> None:
    admin = await asyncpg.connect(server.url("postgres"))
    await admin.execute("SET synchronous_commit = local")
    await admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
