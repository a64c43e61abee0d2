"""A primary that is demoted while users are served, and its standby that takes its place."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.events import Event
from custody.audit.settled import settled
from custody.db.commit import commit
from custody.db.connect import Session, connect
from custody.db.dsn import Dsn
from custody.db.engine import timelines_of
from custody.db.errors import DatabaseError, Demoted, Refused, Unreachable
from custody.db.scope import transaction, user_transaction
from custody.db.timelines import Timelines
from custody.deadline import Deadline
from custody.vault.grouped import GroupedRows
from tests.client import Client, client_session
from tests.db.command import custody
from tests.db.connecting import MANNER, engine_of
from tests.eventually import eventually
from tests.majors import NEW_CLIENTS
from tests.servers import Database, daemon_here
from tests.standby import standby_of
from tests.tokens import Issuer

pytestmark = NEW_CLIENTS

USERS = 8


@dataclass(frozen=True)
class Pair:
    """A database, on a primary and on its standby."""

    primary: Database
    standby: Database

    def url(self) -> str:
        """Return a URL that names both, and wants the one that takes writes."""
        here, there = (f"127.0.0.1:{one.server.port}" for one in (self.primary, self.standby))
        alone = self.primary.url("custody_app").replace(here, f"{here},{there}")
        return f"{alone}?target_session_attrs=read-write"

    async def demote(self, on: bool = True) -> None:
        """Let the primary take no more writes; its sessions live on."""
        async with self.primary.connect() as admin:
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {on}")
            await admin.execute("SELECT pg_reload_conf()")
        # The postmaster signals its sessions before it makes one that begins with the new setting.
        taken_up = f"SELECT current_setting('default_transaction_read_only')::boolean = {on}"
        await eventually(lambda: self.primary.value(taken_up))

    async def cut_off(self) -> None:
        """Let the standby have nothing more of what the primary writes."""
        await self.standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        await self.standby.execute("SELECT pg_reload_conf()")
        following = "SELECT count(*) = 0 FROM pg_stat_replication"
        await eventually(lambda: self.primary.value(following))

    async def fail_over(self) -> None:
        """Demote the primary, let the standby catch up, and promote it."""
        await self.demote()
        # What began before ends: a planned failover loses nothing.
        writing = (
            "SELECT count(*) = 0 FROM pg_stat_activity"
            " WHERE application_name = 'custody' AND backend_xid IS NOT NULL"
        )
        await eventually(lambda: self.primary.value(writing))
        written = await self.primary.value("SELECT pg_current_wal_flush_lsn()::text")
        caught_up = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
        await eventually(lambda: self.standby.value(caught_up))
        assert await self.standby.value("SELECT pg_promote()")


@pytest.fixture
async def pair(own_database: Database) -> AsyncIterator[Pair]:
    with standby_of(own_database.server) as standby:
        made = Pair(own_database, Database(standby, own_database.name))
        yield made
    await made.demote(False)


@dataclass
class Device:
    """Rotates, reads and looks at the status without a pause.

    Args:
        client: whose.
        keys: acknowledged master keys, by generation.
        served: when something was last answered with 200.
    """

    client: Client
    keys: dict[int, str] = field(default_factory=dict)
    served: float = 0

    async def use(self, stop: asyncio.Event) -> None:
        """Go on until it is to stop."""
        while not stop.is_set():
            for call in (self.client.rotate, self.client.key, self.client.status):
                answer = await call()
                if answer.status == 503:
                    await asyncio.sleep(0.01)
                    continue
                assert answer.status == 200, answer.body
                self.served = time.monotonic()
                assert answer.json.get("vaultExists", True)
                if "masterKey" in answer.json:
                    generation = int(answer.headers["ETag"].strip('"'))
                    # A key never goes back to one before: what is read is never out of date.
                    assert generation >= max(self.keys, default=0)
                    known = self.keys.setdefault(generation, answer.json["masterKey"])
                    assert known == answer.json["masterKey"]


@pytest.mark.prove
async def test_failover_while_users_are_served(pair: Pair, issuer: Issuer, tmp_path: Path) -> None:
    async with (
        daemon_here(pair.primary, issuer, tmp_path, DATABASE_URL=pair.url()) as daemon,
        client_session() as session,
    ):
        devices = [Device(Client(daemon, session, f"user-{n}")) for n in range(USERS)]
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for device in devices:
                group.create_task(device.use(stop))
            # Else one has no vault yet that the status could tell of.
            await eventually(lambda: all(device.keys for device in devices), 30)
            await pair.fail_over()
            promoted = time.monotonic()
            await eventually(lambda: all(device.served > promoted for device in devices), 30)
            await asyncio.sleep(0.3)
            stop.set()
        for device in devices:
            answer = await device.client.key()
            assert answer.json["masterKey"] == device.keys[max(device.keys)]
    assert await pair.standby.value("SELECT pg_is_in_recovery()") is False


@pytest.mark.prove
@pytest.mark.parametrize("crashes", [False, True], ids=["planned", "crash"])
async def test_the_audit_goes_on_on_the_new_primary(
    pair: Pair, issuer: Issuer, tmp_path: Path, crashes: bool
) -> None:
    """Two daemons seal, and go on; after a crash, rows and checkpoints are gone."""
    options = {"DATABASE_URL": pair.url(), "AUDIT_SEAL_INTERVAL": "1"}
    async with (
        daemon_here(pair.primary, issuer, tmp_path, **options) as one,
        daemon_here(pair.primary, issuer, tmp_path, **options) as other,
        client_session() as session,
    ):
        alice, bob = Client(one, session, "alice"), Client(other, session, "bob")
        for _ in range(3):
            assert (await alice.rotate()).status == (await bob.rotate()).status == 200
        await eventually(lambda: is_sealed(pair.primary), 30)
        if crashes:
            await pair.cut_off()
            carol = Client(one, session, "carol")
            assert (await carol.init()).status == 200
            await eventually(lambda: is_sealed(pair.primary), 30)
            await pair.demote()
            assert await pair.standby.value("SELECT pg_promote()")
            for client in (alice, bob):
                await eventually(lambda: served(client), 30)  # noqa: B023 - awaited here
            assert not (await carol.status()).json["vaultExists"]
        else:
            await pair.fail_over()
        for _ in range(3):
            for client in (alice, bob):
                await eventually(lambda: served(client), 30)  # noqa: B023 - awaited here
        await eventually(lambda: is_sealed(pair.standby), 30)
        environ = {**one.settings, "CUSTODY_OWNER_DATABASE_URL": pair.standby.url("custody_owner")}
        done = await asyncio.to_thread(custody, environ, "audit", "verify")
        assert done.code == 0, done.out + done.err


async def served(client: Client) -> bool:
    return (await client.rotate()).status == 200


async def is_sealed(database: Database) -> bool:
    """Say whether each row is under a checkpoint."""
    return bool(
        await database.value(
            "SELECT coalesce(max(last_row), 0) >= (SELECT max(number)"
            " FROM auth.encryption_vault_audit) FROM auth.encryption_audit_checkpoints"
        )
    )


# ── what a demoted server says ────────────────────────────────────────────────


@pytest.fixture
async def engine(pair: Pair) -> AsyncIterator[AsyncEngine]:
    async with engine_of(pair.url(), 2) as made:
        yield made


async def server_of(engine: AsyncEngine) -> int:
    async with transaction(engine) as held:
        return int(await held.fetchval("SELECT inet_server_port()"))


@pytest.mark.prove
async def test_nothing_that_a_demoted_server_tells_is_believed(
    pair: Pair, engine: AsyncEngine
) -> None:
    assert await server_of(engine) == pair.primary.server.port
    await pair.fail_over()
    # A transaction that only reads, on a connection from before.
    with pytest.raises(Demoted):
        await server_of(engine)
    assert await server_of(engine) == pair.standby.server.port


@pytest.mark.prove
async def test_a_change_that_was_begun_before_is_not_made_on_a_demoted_server(
    pair: Pair, engine: AsyncEngine
) -> None:
    async def change() -> None:
        async with user_transaction(engine, "alice", Deadline.after(9)) as held:
            await held.execute("INSERT INTO auth.users VALUES ('alice')")
            await pair.demote()
            # Each of the server's sessions takes it up by itself, in a moment.
            await eventually(lambda: held.fetchval(taken_up))

    taken_up = "SELECT current_setting('default_transaction_read_only') = 'on'"
    with pytest.raises(Demoted):
        await change()
    assert await pair.primary.value("SELECT count(*) FROM auth.users WHERE id = 'alice'") == 0
    with pytest.raises(DatabaseError, match="it is not what target_session_attrs wants"):
        await server_of(engine)
    await pair.demote(False)
    assert await server_of(engine) == pair.primary.server.port


@pytest.mark.prove
async def test_status_alone_finds_the_new_primary(
    pair: Pair, issuer: Issuer, tmp_path: Path
) -> None:
    """Nobody writes: only what the server says by itself shows that it was demoted."""
    async with (
        daemon_here(pair.primary, issuer, tmp_path, DATABASE_URL=pair.url()) as daemon,
        client_session() as session,
    ):
        alice = Client(daemon, session, "alice")
        assert not (await alice.status()).json["vaultExists"]
        await pair.fail_over()
        # By another daemon, which knows nothing of the old primary.
        url = pair.standby.url("custody_app")
        async with daemon_here(pair.primary, issuer, tmp_path, DATABASE_URL=url) as other:
            assert (await Client(other, session, "alice").init()).status == 200
        assert (await alice.status()).json["vaultExists"]


@pytest.mark.prove
async def test_of_two_primaries_the_older_one_is_refused(pair: Pair) -> None:
    """Nobody has told the old one: only that the other was promoted after it says so."""
    async with AsyncExitStack() as stack:
        timelines = Timelines()

        async def opened(url: str) -> Session:
            made = await connect(Dsn(url), MANNER, variable="URL", timelines=timelines)
            assert isinstance(made, Session)
            stack.push_async_callback(made.close)
            return made

        alone = f"{pair.primary.url('custody_app')}?target_session_attrs=read-write"
        other = f"{pair.standby.url('custody_app')}?target_session_attrs=read-write"
        old = await opened(pair.url())
        await old.execute("BEGIN")
        assert await pair.standby.value("SELECT pg_promote()")
        assert await (await opened(alone)).fetchval("SHOW transaction_read_only") == "off"
        assert not old.is_demoted
        before = asyncio.get_running_loop().time()
        assert not timelines.has_moved_since(before)
        new = await opened(other)
        assert old.is_demoted
        assert timelines.has_moved_since(before)
        with pytest.raises(Demoted):
            await commit(old, asyncio.get_running_loop().time() + 5)
        with pytest.raises(Unreachable, match="it is an old primary"):
            await opened(alone)
        port = "SELECT inet_server_port()"
        assert await (await opened(pair.url())).fetchval(port) == await new.fetchval(port)
        assert not new.is_demoted


async def test_nothing_leaves_that_was_read_before_a_promotion_was_known(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is read over one connection, and recorded over another, to the new primary."""
    record = GroupedRows.record
    promotions = iter([True, False])

    async def learn(self: GroupedRows, event: Event, deadline: Deadline) -> None:
        await record(self, event, deadline)
        if next(promotions):
            timelines = timelines_of(self._records._engine)
            monkeypatch.setattr(timelines, "_moved_at", asyncio.get_running_loop().time())

    async with daemon_here(database, issuer, tmp_path) as daemon, client_session() as session:
        alice = Client(daemon, session, "alice")
        key = (await alice.init()).json["masterKey"]
        monkeypatch.setattr(GroupedRows, "record", learn)
        refused = await alice.key()
        assert (refused.status, refused.code) == (503, "AUDIT_UNAVAILABLE")
        assert key.encode() not in refused.body
        assert (await alice.key()).json["masterKey"] == key


@pytest.mark.prove
async def test_a_standby_can_not_say_what_is_settled(pair: Pair) -> None:
    """Rows that the primary has still to send have numbers below what it sees."""
    async with engine_of(pair.primary.url("custody_app")) as engine:
        assert await settled(engine) == 0
    async with engine_of(pair.standby.url("custody_app")) as engine:
        with pytest.raises(Refused, match="a standby can't say"):
            await settled(engine)
