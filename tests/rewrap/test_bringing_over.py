"""Rows that are not sealed: left alone while the door is shut, all brought over by one run else."""

import asyncio
import base64
import json
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from custody.keks.legacy import Unsealed
from custody.rewrap.batch import WrongWrap
from custody.rewrap.options import Options, Verify
from custody.vault.key_check import key_check_value
from kek_backends.base import KekBackend, Wrap
from kek_backends.binding import Purpose
from kek_backends.errors import Tampered
from kek_backends.keyring import Keyring
from tests.bindings import of
from tests.db import format2_database, old_service
from tests.db.command import Command, Done, custody
from tests.db.kek_registry import retire
from tests.proofs import FULL
from tests.rewrap.kit import (
    AGE_CLAIMS,
    DAMAGE,
    NEW,
    NEW_KEY,
    Cheating,
    Counted,
    CountingKek,
    Inside,
    environ_of,
    fill,
    go_zk,
    has_stored,
    keyring,
    make_format_1,
    new_kek,
    old_kek,
    opened,
    rewrap,
    rewrap_engine,
    rotate,
    rows_of,
    stamps,
    worker_of,
)
from tests.sealed_rows import READ, data_key_of, past_triggers, seal_of
from tests.servers import Database

pytestmark = pytest.mark.usefixtures("short_waits")

ALL = "SELECT user_id FROM auth.encryption_vaults"
UNSEALED = "SELECT count(*) FROM auth.encryption_vaults WHERE seal IS NULL"
UNSEAL = "UPDATE auth.encryption_vaults SET seal = NULL, key_check = $2::text WHERE user_id = $1"
UNSEALED_EVENTS = "SELECT count(*) FROM auth.encryption_vault_audit WHERE seal IS NULL"


@dataclass(frozen=True)
class Before:
    """A database of before, migrated.

    Args:
        database: the database.
        kek: its KEK in base64, stamped env-v1.
        keys: of the users whom the server has a wrap for.
        generations: of all users.
        zero_knowledge: how many are in that mode.
    """

    database: Database
    kek: str
    keys: dict[str, bytes]
    generations: dict[str, int]
    zero_knowledge: int

    def keyring(self, active: KekBackend | None = None) -> Keyring:
        old = CountingKek("env-v1", self.kek)
        return Keyring(active, [old]) if active else Keyring(old)

    async def command(self, *arguments: str, **settings: str) -> Done:
        environ = {
            "CUSTODY_REWRAP_DATABASE_URL": self.database.url("custody_rewrap"),
            "MANA_AUTH_KEK": self.kek,
            **settings,
        }
        return await asyncio.to_thread(custody, environ, "rewrap", *arguments)


@pytest.fixture(
    params=[
        "old service",
        pytest.param("old service, as superuser", marks=pytest.mark.prove),
        "format 2",
    ]
)
async def before(request: pytest.FixtureRequest, empty: Database) -> Before:
    if request.param == "format 2":
        await format2_database.move(empty)
        rows, kek = format2_database.USERS, format2_database.KEK
        held = {row["user_id"]: row["master_key"] for row in rows if "zero" not in row["state"]}
        generations = {row["user_id"]: row["generation"] for row in rows}
    else:
        superuser = request.param.endswith("superuser")
        await old_service.move(empty, "postgres" if superuser else "custody_owner")
        rows, kek = old_service.ROWS, old_service.KEK
        held = {row["user_id"]: row["master_key"] for row in rows if row["wrapped_mk"]}
        generations = dict.fromkeys((row["user_id"] for row in rows), 1)
    keys = {user: base64.b64decode(key) for user, key in held.items()}
    return Before(empty, kek, keys, generations, len(rows) - len(keys))


async def assert_sealed(database: Database, kek: KekBackend) -> None:
    """Every row has the seal that whoever reads it computes."""
    data_key = await data_key_of(database, kek)
    users = [row["user_id"] for row in await database.fetch(ALL)]
    for row in await database.fetch(READ, users):
        assert row["seal"] == seal_of(data_key, row), row["user_id"]


def without_new(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what sealing leaves of a row as it was."""
    new = {"seal", "seal_serial", "row_version", "rewrapped_at"}
    return {name: value for name, value in row.items() if name not in new}


# ── whole databases of before ─────────────────────────────────────────────────


async def test_refused_with_the_cure_and_left_as_they_are(before: Before) -> None:
    rows = await rows_of(before.database)
    done = await before.command("run", "--json")
    assert done.code == 1
    total = len(before.generations)
    assert done.complaint == (
        f"{total} rows ({before.zero_knowledge} in zero-knowledge mode) are not sealed yet and "
        "refused: set CUSTODY_LEGACY_ROWS=accept and restart, then run: custody rewrap run"
    )
    said = json.loads(done.out)
    assert (said["state"], said["done"], said["failed"]) == ("failed", 0, 0)
    assert said["legacy_rows"]["zero_knowledge"] == before.zero_knowledge
    assert said["problems"] == [done.complaint]
    shown = (await before.command("run", "--dry-run")).out
    assert shown.startswith("0 rows to bring to env-v1; in ")
    assert await rows_of(before.database) == rows


@pytest.mark.parametrize(
    "moves",
    [
        pytest.param(False, id="stay"),
        pytest.param(True, id="move to another KEK", marks=pytest.mark.prove),
    ],
)
async def test_one_run_brings_all_over(before: Before, moves: bool) -> None:
    database, rows = before.database, await rows_of(before.database)
    target = new_kek() if moves else None
    settings = {"CUSTODY_LEGACY_ROWS": "accept"}
    if moves:
        settings["CUSTODY_OLD_KEKS"] = "env:MANA_AUTH_KEK"
        settings |= {"CUSTODY_KEK": NEW, "NEW": NEW_KEY}
    stamp, total = "env-v2" if moves else "env-v1", len(rows)
    foreseen = await before.command("run", "--dry-run", "--json", **settings)
    assert json.loads(foreseen.out)["total"] == total
    assert await rows_of(database) == rows
    done = await before.command("run", **settings)
    assert done.code == 0, done.err
    assert done.out.startswith(f"run 1 to {stamp}: {total} re-wrapped, 0 changed by")
    keks = before.keyring(target)
    assert await opened(database, keks) == before.keys
    assert await stamps(database) == {(stamp, 3): len(before.keys)}
    assert await database.value(UNSEALED) == 0
    await assert_sealed(database, keks.active)
    for user, row in (await rows_of(database)).items():
        was = without_new(rows[user])
        if user in before.keys:
            made = {"wrapped_mk", "wrap_iv", "kek_id", "format_version", "key_check"}
            was = {name: row[name] if name in made else value for name, value in was.items()}
            assert row["key_check"] == key_check_value(user, before.keys[user])
        # Of a row in zero-knowledge mode nothing but the seal: its recovery wrap is the same text.
        assert without_new(row) == was
        assert (row["generation"], row["seal_serial"]) == (before.generations[user], 1)
    # The door may be shut now, and a run has nothing to say.
    again = await before.command("run", "--json", **settings | {"CUSTODY_LEGACY_ROWS": "refuse"})
    assert (again.code, json.loads(again.out)["total"]) == (0, 0), again.err
    if moves:
        assert await retire(database, "env-v1") == "retired"


async def test_status_says_how_many(before: Before) -> None:
    shown = (await before.command("status")).out.splitlines()
    total = len(before.generations)
    assert shown == [
        f"env-v1: {len(before.keys)} rows, {len(before.keys)} not sealed, 0 set aside",
        f"{total} rows ({before.zero_knowledge} in zero-knowledge mode) are not sealed yet",
    ]
    said = json.loads((await before.command("status", "--json")).out)
    assert said["legacy_rows"] == {
        "wraps": len(before.keys),
        "zero_knowledge": before.zero_knowledge,
    }


# ── row by row ────────────────────────────────────────────────────────────────


async def unseal(database: Database, user: str, key_check: str | None) -> None:
    """Take a row's seal, and put another key check value there, as one who may do anything."""
    async with past_triggers(database) as superuser:
        await superuser.execute(UNSEAL, user, key_check)


async def test_sealed_rows_are_moved_past_those_that_are_not(database: Database) -> None:
    ledger = await fill(database, 12)
    old = dict(list(ledger.items())[:4])
    await make_format_1(database, old)
    await unseal(database, "user-000007", None)
    before = await rows_of(database)
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keyring(), Options(batch=3))
        run = await worker.run()
        assert (await worker.left(run)).unsealed == Unsealed(5, 0)
    assert (run.state, run.total, run.done) == ("failed", 7, 7)
    after = await rows_of(database)
    for user in (*old, "user-000007"):
        assert after[user] == before[user]
    run = await rewrap(database, keyring(), legacy=True, batch=2)
    assert (run.state, run.total, run.done) == ("done", 5, 5)
    assert await opened(database, keyring()) == ledger
    await assert_sealed(database, old_kek())


@pytest.mark.parametrize("inside", [False, True], ids=["through the process", "inside a KMS"])
async def test_format_3_without_a_seal(database: Database, inside: bool) -> None:
    """Of no daemon's making. It is sealed if its key is the one of its key check value."""
    kek = Inside("env-v2", NEW_KEY) if inside else old_kek()
    ledger = await fill(database, 3, kek=kek)
    right, unknown, wrong = ledger
    await unseal(database, right, key_check_value(right, ledger[right]))
    await unseal(database, unknown, None)
    await unseal(database, wrong, key_check_value(wrong, bytes(32)))
    keks = Keyring(Inside("env-v2", NEW_KEY), [old_kek()])
    run = await rewrap(database, keks, legacy=True)
    assert (run.state, run.done, run.failed) == ("failed", 2, 1)
    rows = await rows_of(database)
    for user in (right, unknown):
        assert rows[user]["key_check"] == key_check_value(user, ledger[user])
    reason = "the wrap opens to another key than this user's"
    assert (rows[wrong]["seal"], rows[wrong]["quarantine_reason"]) == (None, reason)
    assert await opened(database, keks) == ledger


async def test_damaged_rows_are_set_aside(database: Database) -> None:
    ledger = await fill(database, 9)
    await make_format_1(database, ledger)
    async with past_triggers(database) as superuser:
        await superuser.execute(DAMAGE, ["user-000004"])
    before = (await rows_of(database))["user-000004"]
    run = await rewrap(database, keyring(), legacy=True, batch=4)
    assert (run.state, run.done, run.failed) == ("failed", 8, 1)
    row = (await rows_of(database))["user-000004"]
    assert (row["seal"], row["wrapped_mk"]) == (None, before["wrapped_mk"])
    assert row["quarantined_at"] is not None
    assert await database.audit("user-000004") == [("rewrap_failed", "unwrap-failed", 500)]
    # A run has data keys, so its own rows are sealed.
    assert await database.value(UNSEALED_EVENTS) == 0
    async with past_triggers(database) as superuser:
        await superuser.execute(DAMAGE, ["user-000004"])
    run = await rewrap(database, keyring(), legacy=True, quarantined=True)
    assert (run.state, run.done) == ("done", 1)
    assert await opened(database, keyring()) == ledger


@pytest.mark.parametrize("legacy", [False, True], ids=["shut", "open"])
async def test_a_sealed_row_of_an_old_format_is_set_aside(database: Database, legacy: bool) -> None:
    """Somebody has put an old wrap there; by the door for old rows it does not go."""
    ledger = await fill(database, 3)
    seal = (await rows_of(database))["user-000001"]["seal"]
    await make_format_1(database, ledger if legacy else {"user-000001": ledger["user-000001"]})
    async with past_triggers(database) as superuser:
        await superuser.execute(
            "UPDATE auth.encryption_vaults SET seal = $1 WHERE user_id = 'user-000001'", seal
        )
    run = await rewrap(database, keyring(), legacy=legacy)
    assert (run.state, run.done, run.failed) == ("failed", 2, 1)
    row = (await rows_of(database))["user-000001"]
    assert (row["format_version"], row["seal"]) == (1, seal)
    assert row["quarantine_reason"] == "a row that is sealed has a wrap of an old format"


async def test_rows_of_a_kek_that_is_not_there_are_left(database: Database) -> None:
    ledger = await fill(database, 4)
    await make_format_1(database, ledger)
    await database.execute("UPDATE auth.encryption_vaults SET kek_id = 'gone'")
    before = await rows_of(database)
    async with rewrap_engine(database) as engine:
        worker = worker_of(engine, keyring(), Options(legacy=True))
        run = await worker.run()
        assert (await worker.left(run)).kek_ids == ("gone",)
    assert (run.state, run.done) == ("failed", 0)
    assert await rows_of(database) == before


# ── what is verified ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("verify", "some"), [(None, 100), (Verify.ALL, 100), (Verify.SAMPLE, 3), (Verify.NONE, 0)]
)
async def test_what_is_verified(database: Database, verify: Verify | None, some: int) -> None:
    """All of them, unless told otherwise: it costs nothing where the KEK is in the process."""
    await make_format_1(database, await fill(database, 100))
    kek = Counted()
    run = await rewrap(database, Keyring(kek, [old_kek()]), legacy=True, verify=verify)
    assert (run.state, run.done) == ("done", 100)
    assert (len(kek.unwrapped), kek.unwrapped.total()) == (some, some)


async def test_a_wrap_of_another_key_is_not_stored(database: Database) -> None:
    await make_format_1(database, await fill(database, 5))
    before = await rows_of(database)
    keks = Keyring(Cheating(Purpose.MASTER_KEY), [old_kek()])
    with pytest.raises(WrongWrap, match="does not open to the key"):
        await rewrap(database, keks, legacy=True)
    assert await rows_of(database) == before


# ── others at the same time ───────────────────────────────────────────────────


async def let_go_zk(database: Database) -> None:
    await go_zk(database, "user-000003")


async def let_rotate(database: Database) -> None:
    await rotate(database, "user-000003")


@pytest.mark.parametrize("change", [let_rotate, let_go_zk])
async def test_a_users_change_wins(
    database: Database, change: Callable[[Database], Awaitable[None]]
) -> None:
    ledger = await fill(database, 6)
    await make_format_1(database, ledger)

    async def quicker(user: str) -> None:
        if user == "user-000003":
            await change(database)

    run = await rewrap(database, Keyring(new_kek(quicker), [old_kek()]), legacy=True)
    assert (run.state, run.done, run.moved) == ("done", 5, 1)
    found = await opened(database, keyring())
    others = {user: key for user, key in ledger.items() if user != "user-000003"}
    assert {user: found[user] for user in others} == others
    await assert_sealed(database, old_kek())


async def test_workers_share_it_whatever_each_may_do(database: Database) -> None:
    """One with the door shut does the sealed ones, and blocks nobody."""
    ledger = await fill(database, 120)
    await make_format_1(database, dict(list(ledger.items())[:60]))
    shut, *open_ = await asyncio.gather(
        *(rewrap(database, keyring(), batch=5, legacy=legacy) for legacy in (False, True, True))
    )
    assert {run.state for run in open_} <= {"done", "failed"}
    last = await rewrap(database, keyring(), legacy=True)
    assert last.state == "done"
    assert await opened(database, keyring()) == ledger
    assert {row["seal_serial"] for row in (await rows_of(database)).values()} == {0, 1}
    await assert_sealed(database, old_kek())
    assert shut.id == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kills", [3, pytest.param(12, marks=pytest.mark.prove), pytest.param(40, marks=FULL)]
)
async def test_workers_are_killed(database: Database, kills: int) -> None:
    ledger = await fill(database, 400)
    old = dict(list(ledger.items())[:300])
    await make_format_1(database, old)
    environ = environ_of(database) | {"CUSTODY_LEGACY_ROWS": "accept"}
    for _ in range(kills):
        done = (await stamps(database))["env-v2", 3]
        worker = Command(environ, "rewrap", "run", "--batch", "5", "--rate", str(400 // kills))
        await has_stored(database, done)
        await asyncio.sleep(secrets.randbelow(100) / 1000)
        worker.process.kill()
        assert (await asyncio.to_thread(worker.end)).code == -signal.SIGKILL
    left = await database.value(UNSEALED)
    assert 0 < left < 300
    # Nothing is half done: what has a seal has a wrap of the present format, and the other way.
    for user, row in (await rows_of(database)).items():
        assert (row["seal"] is None) == (row["format_version"] == 1), user
    await database.execute(AGE_CLAIMS, 16)
    run = await rewrap(database, keyring(), legacy=True)
    assert (run.state, run.done, run.failed) == ("done", 400, 0)
    assert await opened(database, keyring()) == ledger
    await assert_sealed(database, old_kek())


async def test_a_format_1_key_is_bound_from_then_on(database: Database) -> None:
    """Its wrap opened for anybody before; after the run for nobody else."""
    ledger = await fill(database, 2)
    await make_format_1(database, ledger)
    await rewrap(database, keyring(), legacy=True)
    first, second = (await rows_of(database)).values()
    keks = keyring()
    for binding in (of(second["user_id"]), of(first["user_id"], first["generation"] + 1)):
        assert not await opens(keks, binding, first)
    assert await opens(keks, of(first["user_id"]), first)


async def opens(keks: Keyring, binding: Any, row: Mapping[str, Any]) -> bool:
    wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"])
    try:
        await keks.unwrap(binding, wrap)
    except Tampered:
        return False
    return True
