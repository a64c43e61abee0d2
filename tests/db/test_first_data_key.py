"""The first data key is made once, however many make it and wherever they are killed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.check import DataKeyCheck
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.db.engine import Dsn, open_engine
from custody.development.postgres import EmbeddedPostgres
from custody.keks.keks import Keks
from custody.settings import ConfigurationError
from kek_backends.errors import Misconfigured, Transient
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from tests.client import Client, becomes, client_session
from tests.datakeys import record_of
from tests.db.breaking import forget_keks
from tests.eventually import eventually
from tests.failing_kek import FailingKek
from tests.forked import Forked
from tests.proofs import FULL
from tests.servers import Database, daemon_here, log_file, new_database, settings_for
from tests.tokens import Issuer

RECORDS = "SELECT id, seal FROM auth.encryption_data_keys ORDER BY id"
WRAPS = "SELECT data_key_id, kek_id FROM auth.encryption_data_key_wraps"
ADD = "SELECT auth.custody_add_data_key($1, $2, $3, $4, $5, '{}')"
TABLES = ("encryption_data_keys", "encryption_data_key_wraps")
SEALED_ROW = (
    "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, seal)"
    " VALUES ('alice', 'w', '', 3, $1)"
)


def kek_of(kek_id: str = "k1", key: bytes = b"k" * 32) -> FailingKek:
    uri = KekUri.parse(f"env:{kek_id.upper()}")
    return FailingKek(uri=uri, kek_id=kek_id, key=key, development=False)


class Process:
    """What a process has of data keys."""

    def __init__(self, engine: AsyncEngine, *keks: FailingKek) -> None:
        keyring = Keyring(keks[0], keks[1:])
        self.ring = Ring(engine, keyring, 3600, 86_400)
        self.look = DataKeyCheck(
            engine, keyring, self.ring, Keks(keyring, engine, "one", Sealer(self.ring))
        )

    @property
    def key_id(self) -> str | None:
        return None if self.ring.current is None else self.ring.current.id


@asynccontextmanager
async def process(database: Database, *keks: FailingKek) -> AsyncIterator[Process]:
    async with open_engine(Dsn(database.url("custody_app")), pool_size=1) as engine:
        yield Process(engine, *(keks or (kek_of(),)))


async def plant(database: Database, kek: FailingKek, key_id: str) -> None:
    """Add the record of a data key as the role that daemons are."""
    record = await record_of(kek, key_id=key_id)
    (wrap,) = record.wraps
    async with database.connect("custody_app") as connection:
        await connection.fetchval(
            ADD, record.id, record.seal, wrap.kek_id, wrap.wrapped_mk, wrap.wrap_iv
        )


async def ids(database: Database) -> list[str]:
    return [row["id"] for row in await database.fetch(RECORDS)]


async def test_eight_at_once_make_one(database: Database) -> None:
    async with AsyncExitStack() as stack:
        racers = [await stack.enter_async_context(process(database)) for _ in range(8)]
        await asyncio.gather(*(racer.look.run() for racer in racers))
        (made,) = await ids(database)
        assert {racer.key_id for racer in racers} == {made}
        assert {racer.look.problem for racer in racers} == {None}
        assert [tuple(row) for row in await database.fetch(WRAPS)] == [(made, "k1")]
        for racer in racers:
            await racer.look.run()
    assert await ids(database) == [made]


async def test_key_is_made_by_the_right_kek_alone(database: Database) -> None:
    async with process(database) as first:
        await first.look.run()
    async with process(database, kek_of(key=b"x" * 32)) as other:
        with pytest.raises(Misconfigured, match="stands for other key material"):
            await other.look.run()
    # Whoever takes the KEK's record away doesn't get a second data key for it.
    await forget_keks(database)
    async with process(database, kek_of(key=b"x" * 32)) as other:
        with pytest.raises(Misconfigured, match=r"dk-\w+ does not open under the KEK of k1"):
            await other.look.run()
    assert len(await ids(database)) == 1
    async with process(database) as again:
        await again.look.run()
        assert [again.key_id] == await ids(database)


async def test_record_of_somebody_else_does_not_pass_for_ours(database: Database) -> None:
    await plant(database, kek_of(key=b"x" * 32), "dk-" + "0" * 32)
    async with process(database) as here:
        with pytest.raises(Misconfigured, match=r"run: custody kek forget dk-0{32}"):
            await here.look.run()
        await database.execute("DELETE FROM auth.encryption_data_keys")
        await here.look.run()
        assert [here.key_id] == await ids(database)


async def test_record_under_a_kek_that_is_not_configured(database: Database) -> None:
    old = kek_of("k0", b"o" * 32)
    await plant(database, old, "dk-" + "0" * 32)
    async with process(database) as here:
        await here.look.run()
        assert "list the KEK of k0 in CUSTODY_OLD_KEKS" in (here.look.problem or "")
    async with process(database, kek_of(), old) as here:
        await here.look.run()
        assert here.look.problem is None
    assert await ids(database) == ["dk-" + "0" * 32]


async def test_none_is_made_while_rows_are_sealed(database: Database) -> None:
    async with process(database) as here, process(database) as later:
        await here.look.run()
        assert here.ring.current is not None
        await database.execute("INSERT INTO auth.users (id) VALUES ('alice')")
        await database.execute(SEALED_ROW, here.ring.current.prefix + "0" * 64)
        for table in TABLES:
            await database.execute(f"CREATE TABLE public.{table} AS TABLE auth.{table}")
        await database.execute("DELETE FROM auth.encryption_data_keys")
        for _ in range(3):
            await later.look.run()
        assert "restore auth.encryption_data_keys" in (later.look.problem or "")
        assert await ids(database) == []
        # Who has it goes on, and says so.
        await here.look.run()
        assert here.look.problem is None
        assert "is gone" in (here.ring.degraded or "")
        for table in TABLES:
            await database.execute(f"INSERT INTO auth.{table} TABLE public.{table}")
        await later.look.run()
        assert later.look.problem is None
        assert [later.key_id] == await ids(database)


async def test_kek_that_is_down(database: Database) -> None:
    kek = kek_of()
    async with process(database, kek) as here:
        kek.failure = Transient("k1: down")
        await here.look.run()
        assert here.look.problem == "no data key can be made now: k1: down"
        assert await ids(database) == []
        kek.failure = None
        await here.look.run()
        assert here.look.problem is None


async def test_key_that_is_lost_makes_room(database: Database) -> None:
    async with process(database) as here:
        await here.look.run()
        assert here.ring.current is not None
        await database.execute("INSERT INTO auth.users (id) VALUES ('alice')")
        await database.execute(SEALED_ROW, here.ring.current.prefix + "0" * 64)
    await database.execute("UPDATE auth.encryption_data_keys SET lost_at = now()")
    async with process(database) as later:
        await later.look.run()
        assert later.look.problem is None
        assert "is marked as lost" in (later.ring.degraded or "")
        assert [later.key_id] == (await ids(database))[1:]


async def test_two_roots_refuse_the_boot(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with process(database) as first:
        await first.look.run()
    second = await record_of(kek_of(), key=b"x" * 32)
    await database.execute(
        "INSERT INTO auth.encryption_data_keys (id, seal) VALUES ($1, $2)", second.id, second.seal
    )
    await database.execute(
        "INSERT INTO auth.encryption_data_key_wraps"
        " (data_key_id, kek_id, wrapped_key, wrap_iv, format_version) VALUES ($1, $2, $3, $4, 3)",
        *(second.id, "k1", second.wraps[0].wrapped_mk, second.wraps[0].wrap_iv),
    )
    async with process(database) as later:
        with pytest.raises(Misconfigured, match="more than one data key vouches for itself"):
            await later.look.run()


# ── kill -9 ───────────────────────────────────────────────────────────────────


async def look_beside(environ: dict[str, str], kill_at: int = 0) -> tuple[int, str]:
    """Look in a process of its own; return its exit code, and what it has said last."""
    out = log_file("first-data-key")
    variables = {"PATH": os.defpath, **environ}
    child = Forked("tests.db.first_data_key", str(kill_at), environ=variables, out=out, err=out)
    code = await asyncio.to_thread(child.wait, 60)
    return code, out.read_text().rstrip().rpartition("\n")[2]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kills",
    [5, pytest.param(40, marks=pytest.mark.prove), pytest.param(100, marks=FULL)],
)
async def test_killed_between_every_two_steps(
    database: Database, issuer: Issuer, tmp_path: Path, kills: int
) -> None:
    environ = settings_for(database, issuer, tmp_path)
    code, last = await look_beside(environ)
    assert code == 0, last
    left_behind = set()
    for kill_at in (1 + number * int(last) // kills for number in range(kills)):
        await database.execute("DELETE FROM auth.encryption_vaults")
        await database.execute("DELETE FROM auth.encryption_data_keys")
        assert (await look_beside(environ, kill_at))[0] == -signal.SIGKILL, kill_at
        left, wraps = await ids(database), await database.fetch(WRAPS)
        # Nothing, or all of it.
        assert [(key_id, "env-v1") for key_id in left] == [tuple(row) for row in wraps], kill_at
        left_behind.add(len(left))
        async with daemon_here(database, issuer, tmp_path) as daemon, client_session() as session:
            await becomes(daemon, 200)
            alice = Client(daemon, session, "alice")
            key = (await alice.init()).json["masterKey"]
            assert (await alice.key()).json["masterKey"] == key
        made = await ids(database)
        assert len(made) == 1, kill_at
        assert left in ([], made), kill_at
    assert left_behind == {0, 1}


# ── many first boots ──────────────────────────────────────────────────────────


@pytest.mark.timeout(600)
@pytest.mark.parametrize("boots", [4, pytest.param(50, marks=pytest.mark.prove)])
async def test_first_boots_at_once(
    postgres: EmbeddedPostgres, issuer: Issuer, tmp_path: Path, boots: int
) -> None:
    async with new_database(postgres) as one, new_database(postgres) as two:
        servers = [(one, two)[number % 2] for number in range(boots)]
        # Before any of them: this writes a file that all of them read.
        settings = {each.name: settings_for(each, issuer, tmp_path) for each in (one, two)}
        logs, children = [], []
        for database in servers:
            environ = {"PATH": os.defpath, **settings[database.name]}
            logs.append(log_file("first-boot"))
            children.append(Forked("custody", "serve", environ=environ, out=logs[-1], err=logs[-1]))
        try:
            await eventually(lambda: all("data_key_opened" in log.read_text() for log in logs), 120)
        finally:
            for child in children:
                child.kill()
                child.wait()
        for database in (one, two):
            (made,) = await ids(database)
            for log in (log for log, of in zip(logs, servers, strict=True) if of is database):
                opened = [
                    line for line in log.read_text().splitlines() if "data_key_opened" in line
                ]
                assert len(opened) == 1
                assert made in opened[0]


async def test_wrong_key_at_boot_names_the_cure(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    await plant(database, kek_of("env-v1", b"x" * 32), "dk-" + "0" * 32)
    with pytest.raises(ConfigurationError, match="configure the key that wrapped it"):
        async with daemon_here(database, issuer, tmp_path):
            pass
