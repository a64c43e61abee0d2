"""Rows with a rotation pending: moved, ended under, verified and erased as any other row."""

import asyncio
import json
import random
import secrets
from pathlib import Path

import pytest

from custody.rewrap.runs import LEASE_SECONDS
from custody.vault.key_check import key_check_value
from custody.vault.model import PreviousKey
from custody.vault.previous import keep, open_previous
from kek_backends.base import Wrap
from kek_backends.keyring import Keyring
from tests.bindings import of
from tests.client import Client, client_session
from tests.db.command import Command, custody
from tests.rewrap.kit import (
    AGE_CLAIMS,
    KEKS,
    NEW,
    OLD,
    environ_of,
    fill,
    has_stored,
    keyring,
    new_kek,
    old_kek,
    rewrap,
    rows_of,
    stamps,
)
from tests.sealed_rows import data_key_of, reseal
from tests.servers import Database, daemon_here
from tests.tokens import Issuer

USERS = ("alice", "bob", "carol")
NEW_STAMP, OLD_STAMP = ("env-v2", 3), ("env-v1", 3)


@pytest.mark.prove
async def test_a_key_before_goes_wherever_the_live_one_goes(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """Re-wrapped, the old KEK retired and gone, a data key ended: both keys are as they were."""
    keks = {f"raw_{name}": value for name, value in KEKS.items()}
    environ = {
        **environ_of(database),
        "CUSTODY_DATABASE_URL": database.url("custody_app"),
        "CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner"),
    }

    async def run(*words: str) -> str:
        done = await asyncio.to_thread(custody, environ, *words)
        assert done.code == 0, (words, done.out, done.err)
        return done.out

    async with client_session() as session:
        pairs = {}
        async with daemon_here(database, issuer, tmp_path, KEK=OLD, **keks) as daemon:
            for user in USERS:
                await Client(daemon, session, user).init()
                pairs[user] = (await Client(daemon, session, user).begin_rotation()).json
        assert await stamps(database) == {OLD_STAMP: 3}
        await run("rewrap", "run")
        assert await stamps(database) == {NEW_STAMP: 3}
        await run("kek", "retire", "env-v1")
        environ["CUSTODY_OLD_KEKS"] = ""
        await run("rewrap", "run", "--deep")
        said = json.loads(await run("audit", "verify", "--json"))
        assert said["good"]
        await run("verify", "--all")
        async with daemon_here(database, issuer, tmp_path, KEK=NEW, **keks) as daemon:
            for user in USERS:
                client = Client(daemon, session, user)
                answer = (await client.key()).json
                for name in ("masterKey", "previousMasterKey"):
                    assert answer[name] == pairs[user][name]
                assert (await client.end_rotation()).status == 200
        assert json.loads(await run("audit", "verify", "--json"))["good"]


BEGIN = (
    "UPDATE auth.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, key_check = $4,"
    " generation = $5, previous_wrapped_mk = $6, previous_wrap_iv = $7, previous_generation = $8"
    " WHERE user_id = $1"
)
END_BACKENDS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE usename = 'custody_rewrap' AND datname = current_database()"
)


async def begin_all(
    database: Database, ledger: dict[str, bytes]
) -> dict[str, tuple[bytes, bytes | None]]:
    """Begin a rotation for every second user; return each one's keys: the live one, the other."""
    kek = old_kek()
    keys: dict[str, tuple[bytes, bytes | None]] = {}
    rows = await rows_of(database)
    for number, (user, key) in enumerate(ledger.items()):
        keys[user] = key, None
        if number % 2:
            continue
        fresh, generation = secrets.token_bytes(32), rows[user]["generation"]
        wrap = await kek.wrap(of(user, generation + 1), fresh)
        previous = keep(user, fresh, generation, key)
        await database.execute(
            BEGIN,
            *(user, wrap.wrapped_mk, wrap.wrap_iv, key_check_value(user, fresh), generation + 1),
            *(previous.wrapped_mk, previous.iv, previous.generation),
        )
        keys[user] = fresh, key
    await reseal(database, await data_key_of(database, kek), *ledger)
    return keys


async def all_keys(database: Database, keks: Keyring) -> dict[str, tuple[bytes, bytes | None]]:
    found: dict[str, tuple[bytes, bytes | None]] = {}
    for user, row in (await rows_of(database)).items():
        wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"])
        live = await keks.unwrap(of(user, row["generation"]), wrap)
        before = None
        if row["previous_wrapped_mk"] is not None:
            kept = row["previous_wrapped_mk"], row["previous_wrap_iv"]
            before = open_previous(user, live, PreviousKey(row["previous_generation"], *kept))
        found[user] = live, before
    return found


@pytest.mark.prove
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("deep", [False, True], ids=["shallow", "deep"])
async def test_runs_over_pending_rows_are_killed(database: Database, deep: bool) -> None:
    """The process, or its backend in the database: both keys of each row are what they were."""
    seed = secrets.randbits(32)
    dice = random.Random(seed)  # noqa: S311
    keys = await begin_all(database, await fill(database, 200))
    assert await all_keys(database, Keyring(old_kek())) == keys
    words = ("rewrap", "run", *(["--deep"] if deep else []), "--batch", "5", "--rate", "80")
    ended = 0
    for number in range(4):
        stored = (await stamps(database))[NEW_STAMP]
        worker = Command(environ_of(database), *words)
        if number != 2:  # at work; this one may still begin
            await has_stored(database, stored)
        await asyncio.sleep(dice.uniform(0, 0.3))
        if number % 2:
            ended += await database.value(END_BACKENDS)
            await asyncio.sleep(dice.uniform(0, 0.3))
        worker.process.kill()
        await asyncio.to_thread(worker.end)
    assert ended, seed
    assert 0 < (await stamps(database))[NEW_STAMP] < 200, seed
    assert await all_keys(database, keyring()) == keys, seed
    await database.execute(AGE_CLAIMS, LEASE_SECONDS + 1)
    await database.execute(
        "UPDATE auth.rewrap_runs SET heartbeat_at = heartbeat_at - interval '2 minutes'"
    )
    run = await rewrap(database, keyring(), deep=deep)
    assert (run.state, run.failed) == ("done", 0), seed
    assert await stamps(database) == {NEW_STAMP: 200}
    assert await all_keys(database, Keyring(new_kek())) == keys, seed
    environ = {
        **environ_of(database),
        "CUSTODY_DATABASE_URL": database.url("custody_app"),
        "CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner"),
        "CUSTODY_OLD_KEKS": "",
    }
    done = await asyncio.to_thread(custody, environ, "verify", "--all")
    assert done.code == 0, (seed, done.out, done.err)
