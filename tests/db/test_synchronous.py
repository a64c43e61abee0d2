"""COMMIT waits for a synchronous standby that is not there: what is answered, and what is true."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from custody.audit.events import event_id
from custody.db import erase, owner
from custody.db.engine import Dsn
from custody.db.erasure_record import Erasure
from custody.db.errors import OutcomeUnknown
from custody.development.postgres import EmbeddedPostgres
from custody.http import frontend
from custody.keks import records, registry
from custody.ops.doctor import examine
from custody.ops.health import Health
from kek_backends.findings import Verdict
from kek_backends.loader import load_keyring
from tests.client import Answer, Client
from tests.db.connecting import engine_of
from tests.db.kek_registry import register
from tests.db.mistakes import OTHER_KEK
from tests.eventually import eventually
from tests.majors import NEW_CLIENTS
from tests.servers import Database, daemon_here
from tests.standby import standby_of
from tests.tokens import Issuer

Device = Callable[[str], Client]

SECONDS = 4.0
WRAPPED, IV = (base64.b64encode(bytes(size)).decode() for size in (48, 12))
# The pool of requests and the connections kept for audit rows of failures.
MOST_CONNECTIONS = 18

VAULTS = "SELECT * FROM auth.encryption_vaults ORDER BY user_id"
WAITING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE wait_event = 'SyncRep' AND application_name = 'custody'"
)
OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'custody'"
END = "SELECT {}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture(autouse=True)
def _short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "REQUEST_SECONDS", SECONDS)


# How a user's device makes each change; the key is the user's.
CHANGES: dict[str, Callable[[Client, str], Awaitable[Answer]]] = {
    "init": lambda device, _key: device.init(),
    "rotate": lambda device, _key: device.rotate(),
    "recovery_set": lambda device, _key: device.set_recovery(WRAPPED, IV),
    "recovery_clear": lambda device, _key: device.clear_recovery(),
    "zk_enable": lambda device, _key: device.enable_zk(),
    "zk_disable": lambda device, key: device.disable_zk(key),
}


@pytest.fixture
def database(own_database: Database) -> Database:
    return own_database


async def set_standbys(server: EmbeddedPostgres, names: str) -> None:
    """Let commits wait for these standbys; when the server has heard of it is another thing."""
    async with Database(server, "postgres").connect() as admin:
        await admin.execute("SET synchronous_commit = local")
        await admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await admin.execute("SELECT pg_reload_conf()")


@asynccontextmanager
async def no_standby(server: EmbeddedPostgres) -> AsyncIterator[None]:
    """For the length of the block, commits wait for a standby that is not there."""

    async def commits(*, wait: bool) -> bool:
        admin = await asyncpg.connect(server.url("postgres"))
        await admin.execute("SET synchronous_commit = on")
        try:
            await admin.execute("SELECT pg_logical_emit_message(true, '', '')", timeout=0.2)
        except TimeoutError:
            return wait
        finally:
            admin.terminate()
        return not wait

    await set_standbys(server, "s1")
    await eventually(partial(commits, wait=True))
    try:
        yield
    finally:
        await set_standbys(server, "")
        await eventually(partial(commits, wait=False))


async def none_waits(database: Database, seconds: float = 2) -> None:
    await eventually(lambda: database.value(f"SELECT ({WAITING}) = 0"), seconds)


@pytest.mark.prove
@pytest.mark.parametrize(
    "action",
    [one if one == "rotate" else pytest.param(one, marks=pytest.mark.prove) for one in CHANGES],
)
async def test_change_that_no_standby_confirms(
    database: Database, device: Device, action: str
) -> None:
    alice, key = device("alice"), ""
    if action != "init":
        key = (await alice.init()).json["masterKey"]
        assert (await alice.set_recovery(WRAPPED, IV)).status == 200
    if action == "zk_disable":
        assert (await alice.enable_zk()).status == 200
    before = await database.fetch(VAULTS)
    async with no_standby(database.server):
        answer = await asyncio.wait_for(CHANGES[action](alice, key), SECONDS + 0.5)
        assert (answer.status, answer.code) == (503, "OUTCOME_UNKNOWN")
        assert answer.headers["Retry-After"]
        # Whoever asks now hears what will be so later.
        await none_waits(database)
        told = await database.fetch(VAULTS)
        assert told != before
        if action != "init":
            assert (await alice.status()).status == 200
    assert await database.fetch(VAULTS) == told
    assert (await database.audit("alice"))[-1][::2] == (action, 200)
    again = await alice.key()
    assert again.status == 200
    assert again.headers["ETag"] == f'"{told[0]["generation"]}"'


@pytest.mark.prove
async def test_no_key_leaves_whose_audit_row_no_standby_confirms(
    database: Database, device: Device
) -> None:
    users = [f"user-{number}" for number in range(10)]
    for user in users:
        assert (await device(user).init()).status == 200
    async with no_standby(database.server):
        for _ in range(2):
            calls = [device(user).key() for user in users for _ in range(4)]
            waited = (asyncio.wait_for(call, SECONDS + 3) for call in calls)
            for answer in await asyncio.gather(*waited):
                assert (answer.status, answer.code) == (503, "AUDIT_UNAVAILABLE")
            assert await database.value(OURS) <= MOST_CONNECTIONS
        # The daemon's own watchdog ping has a few seconds, too.
        await none_waits(database, 5)
    for user in users:
        assert (await device(user).key()).status == 200


@pytest.mark.prove
@pytest.mark.parametrize("end", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_wait_that_an_administrator_cuts_short_is_no_success(
    database: Database, device: Device, end: str
) -> None:
    etags = {user: (await device(user).init()).headers["ETag"] for user in ("alice", "bob")}
    async with no_standby(database.server):
        calls = [
            asyncio.create_task(call()) for call in (device("alice").rotate, device("bob").key)
        ]
        await eventually(lambda: database.value(f"SELECT ({WAITING}) = 2"), 2)
        with capture_logs() as logs:
            await database.fetch(END.format(end))
            rotated, fetched = await asyncio.gather(*calls)
        # Its failure needs no row: that of the change is there.
        events = {one["event"] for one in logs}
        assert "outcome_unknown" in events
        assert "failure_not_audited" not in events
        assert (rotated.status, rotated.code) == (503, "OUTCOME_UNKNOWN")
        assert (fetched.status, fetched.code) == (503, "AUDIT_UNAVAILABLE")
    assert (await device("alice").key()).headers["ETag"] != etags["alice"]
    audit = await database.audit("alice")
    assert [row for row in audit if row[0] == "rotate"] == [("rotate", None, 200)]


@pytest.mark.prove
async def test_change_whose_connection_is_lost_in_commit_and_that_was_not_made(
    database: Database, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit tells: a failure has a row only where that of the change itself is not."""
    # It would look at once, find the trigger below, and shut the routes.
    monkeypatch.setattr(Health, "met", lambda *_: None)
    alice = device("alice")
    before = await alice.init()
    await database.execute(
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
    assert ("rotate", "outcome-unknown", 503) in await database.audit("alice")
    assert ("rotate", None, 200) not in await database.audit("alice")


@pytest.mark.prove
async def test_doctor_knows_that_no_standby_is_there(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with daemon_here(database, issuer, tmp_path) as daemon:
        environ = dict(daemon.settings)
    assert "replication" not in {finding.part for finding in await examine(environ)}
    async with no_standby(database.server):
        (found,) = [one for one in await examine(environ) if one.part == "replication"]
        assert found.verdict is Verdict.FINDING
        assert "synchronous_standby_names = s1" in found.message
        await database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = local")
        assert "replication" not in {finding.part for finding in await examine(environ)}


@pytest.mark.prove
async def test_owner_is_told_that_it_may_have_been_done(
    database: Database, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "_COMMIT_SECONDS", 0.5)
    assert (await device("alice").init()).status == 200
    url = database.url("custody_owner")
    await database.execute(
        f"ALTER ROLE custody_owner IN DATABASE {database.name} SET synchronous_commit = on"
    )
    async with no_standby(database.server):
        with pytest.raises(owner.OwnerUncertain, match="run the command again, which tells"):
            await erase.erase_user(Dsn(url), Erasure(event_id(), "alice"))
        await none_waits(database, 5)
    again = await erase.erase_user(Dsn(url), Erasure(event_id(), "alice"))
    assert (again.vault, again.user) == (False, False)


@pytest.mark.prove
async def test_kek_that_no_standby_has_seen_retired_or_registered(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither passes for done, and neither leaves a session that waits."""
    monkeypatch.setattr(records, "_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(registry, "_REGISTER_SECONDS", 0.5)
    await register(database, "env-gone")
    uri = "env:MANA_AUTH_KEK"
    keyring = load_keyring(uri, (), environ={"MANA_AUTH_KEK": OTHER_KEK}, development=False)
    async with (
        engine_of(database.url("custody_app")) as app,
        engine_of(database.url("custody_rewrap")) as rewrap,
    ):
        async with no_standby(database.server):
            with pytest.raises(OutcomeUnknown):
                await records.retire(rewrap, "env-gone")
            with pytest.raises(OutcomeUnknown):
                await registry.KekRegistry(app, keyring).check()
            await none_waits(database)
        assert await records.retire(rewrap, "env-gone") is records.Retirement.ALREADY_RETIRED
        await registry.KekRegistry(app, keyring).check()
    await keyring.close()


@pytest.mark.prove
@NEW_CLIENTS
async def test_with_a_standby_that_goes_and_comes_back(database: Database, device: Device) -> None:
    alice = device("alice")
    keys = {(await alice.init()).json["masterKey"]}
    for _ in range(2):
        with standby_of(database.server):
            await set_standbys(database.server, "walreceiver")
            rotated = await alice.rotate()
            assert rotated.status == 200
            keys.add(rotated.json["masterKey"])
            assert (await alice.key()).json == rotated.json
        assert (await alice.rotate()).code == "OUTCOME_UNKNOWN"
        await set_standbys(database.server, "")
    assert len(keys) == 3
