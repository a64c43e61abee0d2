"""Rows with a rotation pending: erased, put back, of a format of before, under a KEK to retire."""

from asyncio import to_thread
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from custody.client import AsyncVault, HttpTransport, RolledBack
from custody.http.routes import BASE_PATH
from tests.client import Client, client_session, generation_of, tag_of
from tests.db.command import Done, custody
from tests.db.format2_database import KEK, USERS, move
from tests.e2e.test_client_life import Remembered
from tests.e2e.test_legacy_rows import write
from tests.leaks import remember
from tests.sealed_rows import past_triggers
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

pytestmark = pytest.mark.prove

KEY_BEFORE = bytes(range(32))
ROW = "SELECT * FROM auth.encryption_vaults WHERE user_id = $1"
PLANT = (
    "UPDATE auth.encryption_vaults SET previous_wrapped_mk = wrapped_mk,"
    " previous_wrap_iv = wrap_iv, previous_generation = generation - 1 WHERE user_id = $1"
)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with client_session() as made:
        yield made


async def run(daemon: Daemon, *words: str) -> Done:
    owner = daemon.database.url("custody_owner")
    rewrap = daemon.database.url("custody_rewrap")
    environ = daemon.settings | {
        "CUSTODY_OWNER_DATABASE_URL": owner,
        "CUSTODY_REWRAP_DATABASE_URL": rewrap,
    }
    return await to_thread(custody, environ, *words)


async def put_back(database: Database, row: dict[str, object]) -> None:
    """Make a user's row what it was, past whatever forbids that."""
    names = ", ".join(name for name in row if name != "user_id")
    values = ", ".join(f"${place}" for place in range(2, len(row) + 1))
    async with past_triggers(database) as superuser:
        await superuser.execute(
            f"UPDATE auth.encryption_vaults SET ({names}) = ({values}) WHERE user_id = $1",  # noqa: S608
            *(row["user_id"], *(value for name, value in row.items() if name != "user_id")),
        )


async def test_a_user_is_erased_in_mid_rotation(
    database: Database, issuer: Issuer, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with daemon_here(database, issuer, tmp_path) as daemon:
        alice = Client(daemon, session, "alice")
        await alice.init()
        begun = await alice.begin_rotation()
        done = await run(daemon, "users", "erase", "alice", "--yes")
        assert done.code == 0, done.err
        assert await database.vault("alice") == {}
        assert (await alice.end_rotation(tag_of(begun))).code == "STALE_GENERATION"
        assert (await alice.end_rotation()).code == "VAULT_NOT_INITIALISED"
        # The stale device begins no rotation of a vault that is not its own any more.
        assert (await alice.begin_rotation(tag_of(begun))).code == "STALE_GENERATION"
        fresh = await alice.begin_rotation()
        assert "previousMasterKey" not in fresh.json
        assert fresh.json["masterKey"] != begun.json["masterKey"]
        assert generation_of(fresh) > generation_of(begun)
        for words in (("audit", "verify"), ("verify", "--all")):
            done = await run(daemon, *words)
            assert done.code == 0, (done.out, done.err)


@pytest.mark.parametrize("check", [True, False], ids=["checked", "never opened"])
async def test_a_row_of_format_1_is_brought_over(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    session: aiohttp.ClientSession,
    check: bool,
) -> None:
    async with daemon_here(database, issuer, tmp_path, LEGACY_ROWS="accept") as daemon:
        alice = Client(daemon, session, "alice")
        first = await alice.init()
        old = await write(daemon, "alice", KEY_BEFORE, check=check)
        # With none pending there is nothing to end, and nothing to bring over for it.
        row = await database.vault("alice")
        assert (await alice.end_rotation()).status == 200
        assert await database.vault("alice") == row
        begun = await alice.begin_rotation(tag_of(first))
        assert begun.json["previousMasterKey"] == old
        assert begun.json["formatVersion"] == 3
        assert (await alice.key()).json == begun.json
        assert (await alice.end_rotation(tag_of(begun))).status == 200
    # The door is shut again: the row is sealed.
    async with daemon_here(database, issuer, tmp_path) as daemon:
        answer = (await Client(daemon, session, "alice").key()).json
        assert answer["masterKey"] == begun.json["masterKey"]


async def test_rows_of_format_2_are_brought_over(
    empty: Database, issuer: Issuer, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    await move(empty)
    settings = {"raw_MANA_AUTH_KEK": KEK}
    async with daemon_here(empty, issuer, tmp_path, LEGACY_ROWS="accept", **settings) as daemon:
        for user in USERS:
            client = Client(daemon, session, user["user_id"])
            begun = await client.begin_rotation()
            if user["state"] == "zero-knowledge":
                assert begun.code == "ZK_ROTATE_FORBIDDEN"
                continue
            assert begun.json["previousMasterKey"] == user["master_key"]
            assert generation_of(begun) == user["generation"] + 1
            assert (await client.key()).json == begun.json
            assert (await client.end_rotation(tag_of(begun))).status == 200


async def test_legacy_rows_that_are_refused_rotate_nothing(
    database: Database, issuer: Issuer, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with daemon_here(database, issuer, tmp_path) as daemon:
        alice = Client(daemon, session, "alice")
        await alice.init()
        await write(daemon, "alice", KEY_BEFORE)
        row = await database.vault("alice")
        for answer in (await alice.begin_rotation(), await alice.end_rotation()):
            assert (answer.status, answer.code) == (500, "ROW_TAMPERED")
        assert (await database.audit("alice"))[-2:] == [
            ("rotation_begin", "legacy-row", 500),
            ("rotation_end", "legacy-row", 500),
        ]
        assert await database.vault("alice") == row


async def test_a_legacy_row_has_no_key_before(
    database: Database, issuer: Issuer, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """Whoever begins a rotation seals the row: one that has none and one pending was planted."""
    async with daemon_here(database, issuer, tmp_path, LEGACY_ROWS="accept") as daemon:
        alice = Client(daemon, session, "alice")
        await alice.init()
        await write(daemon, "alice", KEY_BEFORE)
        async with past_triggers(database) as thief:
            await thief.execute(PLANT, "alice")
        for answer in (
            await alice.key(),
            await alice.begin_rotation(),
            await alice.end_rotation(),
            await alice.rotate(),
        ):
            assert (answer.status, answer.code) == (500, "ROW_TAMPERED")


async def test_an_old_row_that_is_put_back(
    database: Database, issuer: Issuer, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """Seal and all: it is served, as any. The audit says so, and so does a client with a pin."""
    async with daemon_here(database, issuer, tmp_path) as daemon:
        alice = Client(daemon, session, "alice")
        await alice.init()
        begun = await alice.begin_rotation()
        (pending,) = map(dict, await database.fetch(ROW, "alice"))
        assert (await run(daemon, "audit", "verify")).code == 0
        await alice.end_rotation()
        # Of the same generation, so no pin sees it: the client has both keys, ends it once more.
        await put_back(database, pending)
        assert (await alice.key()).json == begun.json
        found = await run(daemon, "audit", "verify")
        assert (found.code, "alice" in found.out) == (1, True)
        assert (await alice.end_rotation(tag_of(begun))).status == 200
        pin = Remembered()
        vault = AsyncVault(
            HttpTransport(daemon.base.removesuffix(BASE_PATH)),
            lambda: remember(issuer.token("alice")),
            pin,
        )
        await vault.rotate(lambda _keys: None)
        await put_back(database, pending)
        with pytest.raises(RolledBack):
            await vault.rotate(lambda _keys: None)
        # Nothing was begun or ended on it.
        (row,) = map(dict, await database.fetch(ROW, "alice"))
        assert row["previous_generation"] == pending["previous_generation"]


async def test_a_kek_is_not_retired_under_a_rotation(
    database: Database, issuer: Issuer, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    second = {"raw_OTHER": "T1RIRVIgS0VLIE9GIEEgVEVTVCwgMzIgYnl0ZXMhISE="}
    async with daemon_here(database, issuer, tmp_path) as daemon:
        alice = Client(daemon, session, "alice")
        await alice.init()
        begun = await alice.begin_rotation()
    moved = {"KEK": "env:OTHER?id=env-v2", "OLD_KEKS": "env:MANA_AUTH_KEK", **second}
    async with daemon_here(database, issuer, tmp_path, **moved) as daemon:
        done = await run(daemon, "kek", "retire", "env-v1")
        assert done.code == 1
        assert "env-v1" in done.err
        assert (await Client(daemon, session, "alice").key()).json == begun.json
        assert (await run(daemon, "rewrap", "run")).code == 0
        done = await run(daemon, "kek", "retire", "env-v1")
        assert done.code == 0, done.err
        answer = (await Client(daemon, session, "alice").key()).json
        assert answer == begun.json | {"kekId": "env-v2"}
