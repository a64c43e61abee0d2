"""``custody verify`` beside users and runs that change rows: no false alarm; and on a standby."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from custody.datakeys.envelope import UserKeyring
from custody.datakeys.ring import Ring
from custody.verify.rows import RowReader
from custody.verify.verification import Verification
from kek_backends.keyring import Keyring
from tests.client import Client, client_session
from tests.db.command import custody
from tests.db.connecting import engine_of
from tests.db.test_verify import BOTH
from tests.eventually import eventually
from tests.majors import NEW_CLIENTS
from tests.rewrap.kit import KEKS, NEW, OLD, fill, new_kek, old_kek
from tests.sealed_rows import past_triggers
from tests.servers import Database, daemon_here
from tests.standby import standby_of
from tests.tokens import Issuer


@pytest.mark.prove
async def test_a_data_key_that_came_meanwhile(database: Database) -> None:
    """Rows are sealed with one that was not there when the data keys were read."""
    await fill(database, 20)
    environ = {**BOTH, "CUSTODY_REWRAP_DATABASE_URL": database.url("custody_rewrap")}
    async with engine_of(database.url("custody_owner")) as engine:
        keks = Keyring(new_kek(), [old_kek()])
        ring = Ring(engine, keks, 3600, 86400)
        await ring.load()
        done = await asyncio.to_thread(custody, environ, "rewrap", "run", "--deep")
        assert done.code == 0, done.err
        verification = Verification(
            engine, UserKeyring(keks, ring), ring, asyncio.Event(), legacy=False
        )
        report = await verification.run(None, 0)
    assert (report.findings, report.good) == ([], 20)


async def test_a_row_that_was_damaged_and_goes_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a user who is erased between the two looks nothing is said."""
    await fill(database, 3)
    async with past_triggers(database) as superuser:
        await superuser.execute(
            "UPDATE auth.encryption_vaults SET generation = 9 WHERE user_id = 'user-000001'"
        )
    read = RowReader.read

    async def erased_first(reader: RowReader, users: Sequence[str]) -> Sequence[Any]:
        await database.execute("DELETE FROM auth.users WHERE id = 'user-000001'")
        return await read(reader, users)

    monkeypatch.setattr(RowReader, "read", erased_first)
    async with engine_of(database.url("custody_owner")) as engine:
        ring = Ring(engine, Keyring(old_kek()), 3600, 86400)
        await ring.load()
        keyring = UserKeyring(Keyring(old_kek()), ring)
        verification = Verification(engine, keyring, ring, asyncio.Event(), legacy=False)
        report = await verification.run(None, 0)
    assert (report.findings, report.looked_at, report.good) == ([], 2, 2)


@pytest.mark.prove
async def test_users_change_their_rows_meanwhile(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """They rotate and begin, while a run re-wraps all of them."""
    await fill(database, 200)
    settings = {"KEK": NEW, "OLD_KEKS": OLD, **{f"raw_{name}": key for name, key in KEKS.items()}}
    async with (
        daemon_here(database, issuer, tmp_path, **settings) as daemon,
        client_session() as session,
    ):
        over = asyncio.Event()

        async def work(first: int) -> int:
            count = 0
            while not over.is_set():
                user = f"user-{first + 4 * (count % 50):06}"
                assert (await Client(daemon, session, user).rotate()).status == 200
                assert (await Client(daemon, session, f"{first}-{count}").init()).status == 200
                count += 1
            return count

        working = [asyncio.create_task(work(first)) for first in range(4)]
        environ = {
            **BOTH,
            "CUSTODY_REWRAP_DATABASE_URL": database.url("custody_rewrap"),
            "CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner"),
        }
        rewrap = asyncio.create_task(asyncio.to_thread(custody, environ, "rewrap", "run"))
        for _ in range(2):
            done = await asyncio.to_thread(custody, environ, "verify", "--all", "--json")
            said = json.loads(done.out)
            assert (done.code, said["findings"]) == (0, []), done.out
            assert said["looked_at"] >= 200
        over.set()
        assert min(await asyncio.gather(*working)) > 0
        assert (await rewrap).code == 0


@pytest.mark.prove
@NEW_CLIENTS
async def test_on_a_standby(own_database: Database, issuer: Issuer, tmp_path: Path) -> None:
    """It writes nothing and locks nothing: a standby that follows its primary will do."""
    async with daemon_here(own_database, issuer, tmp_path, AUDIT_SEAL_INTERVAL="1") as daemon:
        async with client_session() as session:
            for user in ("alice", "bob"):
                assert (await Client(daemon, session, user).init()).status == 200
        environ = dict(daemon.settings)
    login = "CREATE ROLE verifier LOGIN PASSWORD 'x' IN ROLE custody_verify"
    await own_database.execute(login)
    with standby_of(own_database.server) as server:
        standby = Database(server, own_database.name)
        written = await own_database.value("SELECT pg_current_wal_flush_lsn()::text")
        await eventually(lambda: standby.value(f"SELECT pg_last_wal_replay_lsn() >= '{written}'"))
        assert await standby.value("SELECT pg_is_in_recovery()")
        url = f"postgresql://verifier:x@127.0.0.1:{server.port}/{standby.name}"
        for words in (("--all",), ()):
            done = await asyncio.to_thread(
                custody, {**environ, "CUSTODY_AUDIT_DATABASE_URL": url}, "verify", "--json", *words
            )
            said = json.loads(done.out)
            assert (done.code, said["open"], said["audit"]["vaults"]) == (0, 2, 2), done.out
    await own_database.execute("DROP ROLE verifier")
