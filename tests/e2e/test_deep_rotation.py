"""A deep rotation under users' hands, and what whoever knows the old data key can do after it."""
# ruff: noqa: S608 - the SQL is of this file

import asyncio
from pathlib import Path

import pytest

from custody.datakeys.data_key import DataKey
from custody.datakeys.records import open_record, read_records
from custody.datakeys.ring import Ring
from custody.rewrap.options import Options
from custody.rewrap.runs import Run
from custody.rewrap.worker import RewrapRun
from custody.settings import ConfigurationError
from kek_backends.base import KekBackend
from kek_backends.keyring import Keyring
from tests.db.connecting import engine_of
from tests.e2e.test_data_key_attacks import KEYS, WRAPS, Users, do, keep, served
from tests.http.wire import assert_problem
from tests.keks import kek_of
from tests.sealed_rows import reseal
from tests.servers import Database
from tests.tokens import Issuer

pytestmark = pytest.mark.usefixtures("pace")


async def deep(database: Database, kek: KekBackend) -> Run:
    """Run ``custody rewrap run --deep`` here."""
    async with engine_of(database.url("custody_rewrap"), 4) as engine:
        keyring = Keyring(kek)
        ring = Ring(engine, keyring, ttl=3600, max_age=86_400)
        return await RewrapRun(engine, keyring, ring, Options(deep=True, batch=3)).run()


async def the_key(database: Database, kek: KekBackend) -> DataKey:
    """Return the data key that is the only one."""
    async with engine_of(database.url("custody_app")) as engine:
        (record,) = await read_records(engine)
    return (await open_record(Keyring(kek), record)).key


@pytest.mark.prove
async def test_users_notice_nothing(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    async with served(database, issuer, tmp_path) as users:
        await users.make()
        names = [f"user-{number}" for number in range(12)]
        keys = {name: (await users.client(name).init()).json["masterKey"] for name in names}
        working = asyncio.Event()
        working.set()

        async def work() -> None:
            number = 0
            while working.is_set():
                name = names[number % len(names)]
                number += 1
                answer = await users.client(name).key()
                assert (answer.status, answer.json["masterKey"]) == (200, keys[name])
                answer = await users.client(name).rotate()
                assert answer.status == 200
                keys[name] = answer.json["masterKey"]

        at_work = asyncio.create_task(work())
        async with kek_of("env:MANA_AUTH_KEK", environ_of(users)) as kek:
            run = await deep(database, kek)
            working.clear()
            await at_work
            assert run.state == "done"
            key = await the_key(database, kek)
        seals = await database.fetch("SELECT seal FROM auth.encryption_vaults")
        assert {row["seal"][:38] for row in seals} == {key.prefix}
        for name in names:
            assert (await users.client(name).key()).json["masterKey"] == keys[name]
        good = await users.read()
    async with served(database, issuer, tmp_path) as users:
        for name in names:
            assert (await users.client(name).key()).json["masterKey"] == keys[name]
        assert [answer.json for answer in await users.read()] == [one.json for one in good]


def environ_of(users: Users) -> dict[str, str]:
    return {"MANA_AUTH_KEK": users.daemon.settings["MANA_AUTH_KEK"]}


@pytest.mark.prove
async def test_whoever_knows_the_old_data_key_has_nothing_of_it(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """He has its bytes, its records of each step, and writes every table."""
    async with served(database, issuer, tmp_path) as users:
        await users.make()
        await keep(database)
        async with kek_of("env:MANA_AUTH_KEK", environ_of(users)) as kek:
            old = await the_key(database, kek)
            assert (await deep(database, kek)).state == "done"
            new = await the_key(database, kek)
        good = await users.read()
        # A row that he seals, alone; with a record of the old key put back as it was, vouching for
        # itself, or with a word that it gives itself.
        words = (old.own_seal, str(old.vouch(old.id, old.own)))
        plants = (
            (),
            *(
                (
                    f"INSERT INTO {KEYS} (id, seal) VALUES ('{old.id}', '{word}')",
                    f"INSERT INTO {WRAPS} SELECT * FROM public.encryption_data_key_wraps",
                )
                for word in words
            ),
        )
        for plant in plants:
            await do(database, *plant)
            await reseal(database, old, "alice")
            for _ in range(3):
                assert_problem(await users.client("alice").key(), 500, "ROW_TAMPERED")
                await asyncio.sleep(0.2)
            assert (await users.client("zoe").key()).json == good[1].json
            await reseal(database, new, "alice")
            await do(database, f"DELETE FROM {KEYS} WHERE id = '{old.id}'")
            await do(database, f"DELETE FROM {WRAPS} WHERE data_key_id = '{old.id}'")
        assert (await users.client("alice").key()).json == good[0].json
    # And a daemon that starts.
    await do(database, *plants[2])
    await reseal(database, old, "alice")
    async with served(database, issuer, tmp_path) as users:
        assert_problem(await users.client("alice").key(), 500, "ROW_TAMPERED")
        assert (await users.client("zoe").key()).json == good[1].json
    await do(database, f"UPDATE {KEYS} SET seal = '{old.own_seal}' WHERE id = '{old.id}'")
    with pytest.raises(ConfigurationError, match="more than one data key vouches for itself"):
        async with served(database, issuer, tmp_path):
            pass
    # By the code of the database: a daemon that stood still seals nothing with it.
    await do(database, f"DELETE FROM {KEYS} WHERE id = '{old.id}'")
    with pytest.raises(Exception, match="was ended") as refused:
        await database.execute(
            "UPDATE auth.encryption_vaults SET seal = $1 WHERE user_id = 'zoe'",
            old.prefix + "0" * 64,
        )
    assert getattr(refused.value, "sqlstate", "") == "KEK03"
