"""Whoever writes the database, and has no KEK, does what he likes with the records of data keys.

Daemons that run go on; one that is started believes nothing that it can't judge.
"""
# ruff: noqa: S608 - the SQL is of this file

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from custody.datakeys.data_key import DataKey
from custody.vault.key_check import key_check_value
from tests.bindings import of
from tests.client import Answer, Client, becomes, client_session, generation_of
from tests.datakeys import record_of
from tests.e2e.browser import encode
from tests.e2e.keks import make_place, overrides
from tests.eventually import eventually
from tests.http.wire import assert_problem
from tests.keks import kek_of
from tests.leaks import remember
from tests.moto_server import Moto
from tests.sealed_rows import past_triggers, reseal
from tests.servers import Daemon, Database, daemon_here
from tests.states import IV, WRAPPED
from tests.tokens import Issuer

TABLES = ("encryption_data_keys", "encryption_data_key_wraps")
KEYS, WRAPS = (f"auth.{table}" for table in TABLES)
FOREIGN = "dk-" + "f" * 32


@dataclass(frozen=True)
class Attack:
    """What is done to the records.

    Args:
        sql: it.
        is_judged: whether rows are said to be tampered with, after a restart; else that no data key
            can be opened.
        refuses: what the boot is refused for, where it is.
    """

    sql: str
    is_judged: bool = True
    refuses: str | None = None


ATTACKS = {
    "the record is gone": Attack(f"DELETE FROM {KEYS}; DELETE FROM {WRAPS}"),
    "its wrap is gone": Attack(f"DELETE FROM {WRAPS}"),
    "its wrap is garbled": Attack(f"UPDATE {WRAPS} SET wrapped_key = reverse(wrapped_key)"),
    "its nonce is another": Attack(f"UPDATE {WRAPS} SET wrap_iv = reverse(wrap_iv)"),
    "its seal is another": Attack(f"UPDATE {KEYS} SET seal = reverse(seal)"),
    "its seal is none": Attack(f"UPDATE {KEYS} SET seal = 'ключ'"),
    "its id is another": Attack(
        f"UPDATE {KEYS} SET id = '{FOREIGN}'; UPDATE {WRAPS} SET data_key_id = '{FOREIGN}'"
    ),
    "its KEK is nobody's": Attack(f"UPDATE {WRAPS} SET kek_id = 'env-v9'", is_judged=False),
    "it is called lost": Attack(f"UPDATE {KEYS} SET lost_at = now()", is_judged=False),
    "it is called lost in a year that is none": Attack(
        f"UPDATE {KEYS} SET lost_at = '200000-01-01', created_at = 'infinity'", is_judged=False
    ),
    "its format is of tomorrow": Attack(f"UPDATE {WRAPS} SET format_version = 4"),
}

SOME = {"the record is gone", "its KEK is nobody's"}


@dataclass
class Users:
    """A user whose key the server has, one in zero-knowledge mode, and one to come."""

    daemon: Daemon
    session: aiohttp.ClientSession

    def client(self, user: str) -> Client:
        return Client(self.daemon, self.session, user)

    async def make(self) -> tuple[Answer, Answer]:
        alice, zoe = self.client("alice"), self.client("zoe")
        await alice.init()
        await zoe.init()
        assert (await zoe.set_recovery(WRAPPED, IV)).status == 200
        assert (await zoe.enable_zk()).status == 200
        return await self.read()

    async def read(self) -> tuple[Answer, Answer]:
        """Return what alice and zoe get."""
        return await self.client("alice").key(), await self.client("zoe").key()


@asynccontextmanager
async def served(
    database: Database, issuer: Issuer, folder: Path, **overrides: str
) -> AsyncIterator[Users]:
    async with (
        daemon_here(database, issuer, folder, **overrides) as daemon,
        client_session() as session,
    ):
        yield Users(daemon, session)


async def do(database: Database, *statements: str) -> None:
    """Run SQL past triggers and foreign keys."""
    async with past_triggers(database) as superuser:
        for statement in statements:
            await superuser.execute(statement)


async def keep(database: Database) -> None:
    """Make a backup of the records."""
    await do(database, *(f"CREATE TABLE public.{one} AS TABLE auth.{one}" for one in TABLES))


async def restore(database: Database) -> None:
    await do(database, *(f"DELETE FROM auth.{one}" for one in TABLES))
    await do(database, *(f"INSERT INTO auth.{one} TABLE public.{one}" for one in TABLES))


async def degraded(daemon: Daemon) -> str:
    async with client_session() as session, session.get(f"{daemon.admin}/readyz") as answer:
        body = await answer.json()
    assert body["parts"]["data-key"] == "ok", body
    return str(body.get("degraded", {}).get("data-key", ""))


# Some of them; the others in make prove.
some_attacks = pytest.mark.parametrize(
    "attack",
    [
        pytest.param(attack, id=name, marks=() if name in SOME else pytest.mark.prove)
        for name, attack in ATTACKS.items()
    ],
)


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
@some_attacks
async def test_a_daemon_that_runs_goes_on(
    database: Database, issuer: Issuer, tmp_path: Path, attack: Attack
) -> None:
    async with served(database, issuer, tmp_path, DATA_KEY_TTL="1") as users:
        good = await users.make()
        await keep(database)
        await do(database, attack.sql)
        assert await eventually(lambda: degraded(users.daemon))
        assert [answer.json for answer in await users.read()] == [one.json for one in good]
        # Also whoever comes new, or changes something.
        assert (await users.client("bob").init()).status == 200
        assert (await users.client("alice").rotate()).status == 200
        await restore(database)

        async def well() -> bool:
            return await degraded(users.daemon) == ""

        await eventually(well)
        good = await users.read()
    async with served(database, issuer, tmp_path) as users:
        assert [answer.json for answer in await users.read()] == [one.json for one in good]


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
@some_attacks
async def test_one_that_is_started_believes_nothing(
    database: Database, issuer: Issuer, tmp_path: Path, attack: Attack
) -> None:
    async with served(database, issuer, tmp_path) as users:
        good = await users.make()
    await keep(database)
    await do(database, attack.sql)
    before = [await database.vault(user) for user in ("alice", "zoe")]
    async with served(database, issuer, tmp_path) as users:
        alice, zoe = await users.read()
        if attack.is_judged:
            assert_problem(alice, 500, "ROW_TAMPERED")
            assert_problem(zoe, 500, "ROW_TAMPERED")
            assert (await database.audit("zoe"))[-1] == ("failed_fetch", "row-tampered", 500)
        else:
            assert_problem(alice, 503, "KEK_UNAVAILABLE")
            assert zoe.json == good[1].json
            assert (await database.audit("zoe"))[-1] == ("fetch", "unverified-seal", 200)
        for client in (users.client("alice"), users.client("zoe")):
            for change in (client.rotate(), client.enable_zk(), client.set_recovery(WRAPPED, IV)):
                assert (await change).status == (500 if attack.is_judged else 503)
        if "lost_at" not in attack.sql:
            # None is made beside rows that it could not judge.
            assert_problem(await users.client("bob").init(), 503, "KEK_UNAVAILABLE")
            await becomes(users.daemon, 503, **{"data-key": ""})
        assert [await database.vault(user) for user in ("alice", "zoe")] == before
    await restore(database)
    async with served(database, issuer, tmp_path) as users:
        await becomes(users.daemon, 200)
        assert [answer.json for answer in await users.read()] == [one.json for one in good]


async def chosen_wrap(users: Users, user: str, key: bytes) -> dict[str, Any]:
    """Have the daemon wrap 32 bytes of one's own choice, by turning zero-knowledge mode off."""
    client = users.client(user)
    await client.init()
    await client.set_recovery(WRAPPED, IV)
    await client.enable_zk()
    # Whose key check value is that of before: this needs a row that has none.
    await do(
        users.daemon.database,
        f"UPDATE auth.encryption_vaults SET key_check = NULL, seal = NULL WHERE user_id = '{user}'",
    )
    assert (await client.disable_zk(remember(encode(key)))).status == 200
    return await users.daemon.database.vault(user)


@pytest.mark.usefixtures("pace")
@pytest.mark.parametrize("user", ["mallory", pytest.param(FOREIGN, marks=pytest.mark.prove)])
async def test_chosen_bytes_that_a_daemon_has_wrapped_are_no_data_key(
    database: Database, issuer: Issuer, tmp_path: Path, user: str
) -> None:
    """Also under the name of a data key, in the generation of one, in its own record's place."""
    chosen = secrets.token_bytes(32)
    forged = DataKey.of(FOREIGN, chosen)
    async with served(database, issuer, tmp_path, LEGACY_ROWS="accept") as users:
        good = await users.make()
        row = await chosen_wrap(users, user, chosen)
    await keep(database)
    plant = (
        f"INSERT INTO {KEYS} (id, seal) VALUES ('{forged.id}', '{forged.own_seal}')",
        (
            f"INSERT INTO {WRAPS} (data_key_id, kek_id, wrapped_key, wrap_iv, format_version)"
            f" VALUES ('{forged.id}', 'env-v1', '{row['wrapped_mk']}', '{row['wrap_iv']}', 3)"
        ),
    )
    for begin in ((), tuple(f"DELETE FROM {table}" for table in (KEYS, WRAPS))):
        await do(database, *begin, *plant)
        async with served(database, issuer, tmp_path) as users:
            alice, zoe = await users.read()
            if not begin:
                assert [alice.json, zoe.json] == [one.json for one in good]
            else:
                assert_problem(alice, 500, "ROW_TAMPERED")
                assert_problem(zoe, 500, "ROW_TAMPERED")
            # A row that he has sealed by it.
            await reseal(database, forged, "alice")
            assert_problem(await users.client("alice").key(), 500, "ROW_TAMPERED")
        await restore(database)
        await reseal(database, forged, "alice")
    async with served(database, issuer, tmp_path) as users:
        assert_problem(await users.client("alice").key(), 500, "ROW_TAMPERED")


async def test_the_runtime_roles_add_none_beside_it(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """By the functions that they have: whatever record they call a bad one."""
    async with served(database, issuer, tmp_path) as users:
        await users.make()
        (there,) = await database.fetch(f"SELECT id FROM {KEYS}")
        for role in ("custody_app", "custody_rewrap"):
            async with database.connect(role) as thief:
                add = "SELECT auth.custody_add_data_key($1, 's', 'env-v1', 'w', '', $2)"
                assert await thief.fetchval(add, FOREIGN, []) == there["id"]
                assert await thief.fetchval(add, FOREIGN, [there["id"]]) is None
        assert len(await database.fetch(f"SELECT id FROM {KEYS}")) == 1


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
async def test_whoever_has_the_workers_password_breaks_the_record_and_gets_nothing(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with served(database, issuer, tmp_path, DATA_KEY_TTL="1") as users:
        good = await users.make()
        await keep(database)
        (wrap,) = await database.fetch(f"SELECT * FROM {WRAPS}")
        async with database.connect("custody_rewrap") as thief:
            put = "SELECT auth.custody_put_data_key_wrap($1, $2, 'junk', '', $3)"
            of = wrap["data_key_id"], wrap["kek_id"]
            assert await thief.fetchval(put, *of, wrap["wrapped_key"])
        assert await eventually(lambda: degraded(users.daemon))
        assert [answer.json for answer in await users.read()] == [one.json for one in good]
        await restore(database)


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
async def test_all_keks_are_lost(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    """Standard users get nothing, ZK users their blobs; nothing is changed, and nobody begins."""
    async with served(database, issuer, tmp_path) as users:
        _, blob = await users.make()
    lost = {
        "KEK": "env:NEXT_KEK?id=env-next",
        "raw_NEXT_KEK": remember(base64.b64encode(secrets.token_bytes(32)).decode()),
        "raw_MANA_AUTH_KEK": "",
    }
    async with served(database, issuer, tmp_path, **lost) as users:
        parts = await becomes(users.daemon, 503, **{"data-key": "list the KEK of env-v1"})
        assert parts["database"] == "ok"
        alice, zoe = users.client("alice"), users.client("zoe")
        assert_problem(await alice.key(), 503, "KEK_UNAVAILABLE")
        assert_problem(await alice.status(), 503, "KEK_UNAVAILABLE")
        for action in ("fetch", "init"):
            answer = await (zoe.key() if action == "fetch" else zoe.init())
            assert answer.json == blob.json
            assert answer.headers["ETag"] == blob.headers["ETag"]
            assert (await database.audit("zoe"))[-1] == (action, "unverified-seal", 200)
        assert (await zoe.status()).json["zeroKnowledge"] is True
        for client in (alice, zoe):
            for change in (client.rotate(), client.enable_zk(), client.set_recovery(WRAPPED, IV)):
                assert_problem(await change, 503, "KEK_UNAVAILABLE")
        assert_problem(await zoe.disable_zk(encode(bytes(32))), 503, "KEK_UNAVAILABLE")
        assert_problem(await users.client("bob").init(), 503, "KEK_UNAVAILABLE")
        # A blob that is none: nothing vouches for it.
        of_zoe = "UPDATE auth.encryption_vaults SET recovery_iv = '{}' WHERE user_id = 'zoe'"
        await do(database, of_zoe.format("x"))
        assert_problem(await zoe.key(), 503, "KEK_UNAVAILABLE")
        await do(database, of_zoe.format(IV))
        assert (await zoe.key()).json == blob.json
        # Nor is a row unjudged whose data key has no record at all.
        await do(
            database,
            "UPDATE auth.encryption_vaults SET seal = '1.dk-' || repeat('0', 32) || '.' ||"
            " repeat('0', 64)",
        )
        assert_problem(await zoe.key(), 500, "ROW_TAMPERED")
        await do(database, "UPDATE auth.encryption_vaults SET seal = NULL")
        assert_problem(await zoe.key(), 500, "ROW_TAMPERED")
        assert (await database.audit("zoe"))[-1] == ("failed_fetch", "legacy-row", 500)


@pytest.mark.prove
async def test_a_key_of_ones_own_that_an_alias_might_have_meant(
    database: Database, issuer: Issuer, tmp_path: Path, moto: Moto
) -> None:
    """In the same account, on record, with rows and a data key under it: it opens nothing here."""
    place = make_place("aws-kms", tmp_path, moto=moto)
    his = f"aws-kms:{await asyncio.to_thread(moto.make_key)}"
    chosen = secrets.token_bytes(32)
    async with (
        served(database, issuer, tmp_path, **overrides(place)) as users,
        kek_of(his, moto.environ) as kek,
    ):
        alice = users.client("alice")
        generation = generation_of(await alice.init())
        async with database.connect("custody_app") as thief:
            register = "SELECT auth.custody_register_kek($1, 'aws-kms', $1, NULL, NULL, false)"
            await thief.execute(register, his)
        wrap = await kek.wrap(of("alice", generation), chosen)
        async with past_triggers(database) as superuser:
            await superuser.execute(
                "UPDATE auth.encryption_vaults SET wrapped_mk = $1, wrap_iv = '', kek_id = $2",
                *(wrap.wrapped_mk, his),
            )
        assert_problem(await alice.key(), 503, "KEK_UNAVAILABLE")
        assert (await database.audit("alice"))[-1] == ("failed_fetch", "kek-not-configured", 503)
        record = await record_of(kek, key=chosen, key_id=FOREIGN)
    await do(database, f"DELETE FROM {WRAPS}", f"DELETE FROM {KEYS}")
    async with past_triggers(database) as superuser:
        await superuser.execute(
            f"INSERT INTO {KEYS} (id, seal) VALUES ($1, $2)", record.id, record.seal
        )
        await superuser.execute(
            f"INSERT INTO {WRAPS} (data_key_id, kek_id, wrapped_key, wrap_iv, format_version)"
            " VALUES ($1, $2, $3, '', 3)",
            *(record.id, his, record.wraps[0].wrapped_mk),
        )
        await superuser.execute(
            "UPDATE auth.encryption_vaults SET key_check = $1", key_check_value("alice", chosen)
        )
    await reseal(database, DataKey.of(FOREIGN, chosen), "alice")
    async with served(database, issuer, tmp_path, **overrides(place)) as users:
        await becomes(users.daemon, 503, **{"data-key": FOREIGN})
        assert_problem(await users.client("alice").key(), 503, "KEK_UNAVAILABLE")
        assert_problem(await users.client("bob").init(), 503, "KEK_UNAVAILABLE")
