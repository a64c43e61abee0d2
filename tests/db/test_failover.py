"""A primary that is demoted while users are served, and its standby that takes its place."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.engine import Dsn, create_engine
from custody.db.errors import DatabaseError, Demoted
from custody.db.scope import transaction, user_transaction
from custody.deadline import Deadline
from tests.client import Client, client_session
from tests.db.embedded_server import open_folder
from tests.servers import TEMPLATE, Daemon, Database, bare_postgres, daemon_here, make_template
from tests.standby import Standby, eventually, standby_of, take_standbys
from tests.tokens import Issuer

USERS = 8

log = structlog.get_logger()


@dataclass(frozen=True)
class Pair:
    """A primary and its standby."""

    primary: Database
    standby: Standby

    def url(self, role: str = "custody_app") -> str:
        """Return a URL that names both, and wants the one that takes writes."""
        here, there = f"127.0.0.1:{self.primary.server.port}", f"127.0.0.1:{self.standby.port}"
        alone = self.primary.url(role).replace(here, f"{here},{there}")
        return f"{alone}?target_session_attrs=read-write"

    async def demote(self, on: bool = True) -> None:
        """Let the primary take no more writes; its sessions live on."""
        async with self.primary.connect() as admin:
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {on}")
            await admin.execute("SELECT pg_reload_conf()")

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
        await self.standby.wait_for(f"SELECT pg_last_wal_replay_lsn() >= '{written}'")
        assert await self.standby.value("SELECT pg_promote()")


@asynccontextmanager
async def running_pair() -> AsyncIterator[Pair]:
    with open_folder() as folder, bare_postgres(folder / "first", durable=False) as first:
        await make_template(first)
        await asyncio.to_thread(first.grant_logins)
        await take_standbys(first)
        second = folder / "second"
        second.mkdir(0o777)
        second.chmod(0o777)
        with standby_of(first, second) as standby:
            await standby.wait_for("SELECT pg_is_in_recovery()")
            yield Pair(Database(first, TEMPLATE), standby)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with running_pair() as made:
        yield made


@dataclass
class Device:
    """Rotates, reads and looks at the status without a pause.

    Args:
        client: whose.
        keys: acknowledged master keys, by generation.
        served: when something was answered with 200.
    """

    client: Client
    keys: dict[int, str] = field(default_factory=dict)
    served: list[float] = field(default_factory=list)

    async def served_after(self, at: float) -> None:
        """Wait until something was answered with 200 since then."""

        async def served() -> bool:
            return bool(self.served) and self.served[-1] > at

        await eventually(served)

    async def use(self, stop: asyncio.Event) -> None:
        """Go on until it is to stop."""
        while not stop.is_set():
            for call in (self.client.rotate, self.client.key, self.client.status):
                answer = await call()
                now = time.monotonic()
                if answer.status != 200:
                    assert answer.status == 503, answer.body
                    await asyncio.sleep(0.01)
                    continue
                self.served.append(now)
                if "masterKey" in answer.json:
                    generation = int(answer.headers["ETag"].strip('"'))
                    # A key never goes back to one before: what is read is never out of date.
                    assert generation >= max(self.keys, default=0)
                    known = self.keys.setdefault(generation, answer.json["masterKey"])
                    assert known == answer.json["masterKey"]
                else:
                    assert answer.json["vaultExists"]


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
            await asyncio.sleep(0.3)
            began = time.monotonic()
            await pair.fail_over()
            promoted = time.monotonic()
            await asyncio.gather(*(device.served_after(promoted) for device in devices))
            await asyncio.sleep(0.3)
            stop.set()
        for device in devices:
            answer = await device.client.key()
            assert answer.json["masterKey"] == device.keys[max(device.keys)]
    assert await pair.standby.value("SELECT pg_is_in_recovery()") is False
    back = max(next(at for at in device.served if at > promoted) for device in devices)
    log.info("failed_over", without_service=back - began, failover=promoted - began)


# ── what a demoted server says ────────────────────────────────────────────────


@pytest.fixture
async def engine(pair: Pair) -> AsyncIterator[AsyncEngine]:
    made = create_engine(Dsn(pair.url()), pool_size=2)
    yield made
    await made.dispose()


async def server_of(engine: AsyncEngine) -> int:
    async with transaction(engine) as held:
        return int(await held.fetchval("SELECT inet_server_port()"))


async def test_nothing_that_a_demoted_server_tells_is_believed(
    pair: Pair, engine: AsyncEngine
) -> None:
    assert await server_of(engine) == pair.primary.server.port
    await pair.fail_over()
    # A transaction that only reads, on a connection from before.
    with pytest.raises(Demoted):
        await server_of(engine)
    assert await server_of(engine) == pair.standby.port


async def test_a_change_that_was_begun_before_is_not_made_on_a_demoted_server(
    pair: Pair, engine: AsyncEngine
) -> None:
    async def change() -> None:
        async with user_transaction(engine, "alice", Deadline.after(9)) as held:
            await held.execute("INSERT INTO auth.users VALUES ('alice')")
            await pair.demote()
            await held.execute("SELECT 1")

    with pytest.raises(Demoted):
        await change()
    assert await pair.primary.value("SELECT count(*) FROM auth.users WHERE id = 'alice'") == 0
    with pytest.raises(DatabaseError, match="it is not what target_session_attrs wants"):
        await server_of(engine)
    await pair.demote(False)
    assert await server_of(engine) == pair.primary.server.port


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
        await init_elsewhere(pair, daemon, tmp_path)
        assert (await alice.status()).json["vaultExists"]


async def init_elsewhere(pair: Pair, daemon: Daemon, folder: Path) -> None:
    """Make a vault by another daemon, which knows nothing of the old primary."""
    url = pair.standby.url("custody_app", TEMPLATE)
    async with (
        daemon_here(pair.primary, daemon.issuer, folder, DATABASE_URL=url) as other,
        client_session() as session,
    ):
        assert (await Client(other, session, "alice").init()).status == 200
