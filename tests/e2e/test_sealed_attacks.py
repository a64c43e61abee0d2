"""Whoever can write the database, and has no KEK, tries to make the daemon give out a key.

As the thief of custody_app's password, who is under row-level security and triggers; where these
refuse him already, as superuser too, past both. He has an account of his own, and old backups.
"""
# ruff: noqa: S608 - the SQL is of this file

import asyncio
import base64
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from custody.vault.key_check import key_check_value
from kek_backends.env import EnvKek
from kek_backends.uri import KekUri
from tests.bindings import of
from tests.client import Answer, Client, becomes, client_session, generation_of
from tests.e2e.browser import encode
from tests.http.wire import assert_problem
from tests.leaks import remember
from tests.sealed_rows import data_key_of, past_triggers, reseal
from tests.servers import Daemon, Database, daemon_here
from tests.states import IV, WRAPPED
from tests.tokens import Issuer

Device = Callable[[str], Client]

SCOPE = "SELECT set_config('app.current_user_id', $1, true)"
UPDATE = "UPDATE auth.encryption_vaults SET"
OF = "WHERE user_id = $1"
READ = f"SELECT * FROM auth.encryption_vaults {OF}"
UNBOUND = (
    f"{UPDATE} wrapped_mk = $2, wrap_iv = $3, format_version = 1, kek_id = 'env-v1',"
    f" key_check = NULL {OF}"
)
PUT_BACK = f"{UPDATE} wrapped_mk = $2, wrap_iv = $3 {OF}"
WITH_CHECK = f"{UPDATE} wrapped_mk = $2, wrap_iv = $3, key_check = $4 {OF}"
UNLOCK = f"{UPDATE} zero_knowledge = false, wrapped_mk = $2, wrap_iv = $3 {OF}"
UNLOCK_FULLY = (
    f"{UPDATE} zero_knowledge = false, wrapped_mk = $2, wrap_iv = $3, recovery_wrapped_mk = NULL,"
    f" recovery_iv = NULL, recovery_set_at = NULL, seal = $4 {OF}"
)
VOUCH = f"{UPDATE} key_check = $2 {OF}"
RECOVERY = f"{UPDATE} recovery_wrapped_mk = $2, recovery_iv = $3 {OF}"
NO_SEAL = "7b2\U0001f511"
REFUSALS = asyncpg.RestrictViolationError, asyncpg.InsufficientPrivilegeError
REGISTER = (
    "SELECT * FROM auth.custody_register_kek('env-v2', 'env', 'env:NEW?id=env-v2', repeat('0', 64),"
    " $1, false)"
)
# What custody_app may write of a row.
WRITABLE = (
    "generation",
    "zero_knowledge",
    "wrapped_mk",
    "wrap_iv",
    "format_version",
    "kek_id",
    "key_check",
    "recovery_wrapped_mk",
    "recovery_iv",
    "recovery_format_version",
    "recovery_set_at",
    "seal",
)


async def as_app(daemon: Daemon, user: str, sql: str, *parameters: Any) -> str:
    """Run one statement as the thief of custody_app's password, in the scope of a user."""
    async with daemon.database.connect("custody_app") as thief, thief.transaction():
        await thief.execute(SCOPE, user)
        return str(await thief.execute(sql, user, *parameters))


async def as_anyone(daemon: Daemon, sql: str, *parameters: Any) -> None:
    """Run one statement past row-level security and triggers."""
    async with past_triggers(daemon.database) as superuser:
        assert str(await superuser.execute(sql, *parameters)) != "UPDATE 0"


async def put_row(daemon: Daemon, row: dict[str, Any], *columns: str) -> None:
    """Write columns of a row as superuser; all where none are named."""
    names = columns or tuple(row)
    values = ", ".join(f"{name} = ${place}" for place, name in enumerate(names, 2))
    await as_anyone(
        daemon, f"{UPDATE} {values} {OF}", row["user_id"], *(row[name] for name in names)
    )


async def row_of(daemon: Daemon, user: str) -> dict[str, Any]:
    (row,) = await daemon.database.fetch(READ, user)
    return dict(row)


def unbound_wrap(daemon: Daemon, key: bytes) -> tuple[str, str]:
    """Wrap a key as it stands in a backup of the old service: AES-256-GCM, bound to nobody."""
    iv = secrets.token_bytes(12)
    kek = base64.b64decode(daemon.settings["MANA_AUTH_KEK"])
    return encode(AESGCM(kek).encrypt(iv, key, None)), encode(iv)


def kek_of(daemon: Daemon) -> EnvKek:
    key = base64.b64decode(daemon.settings["MANA_AUTH_KEK"])
    uri = KekUri.parse("env:MANA_AUTH_KEK")
    return EnvKek(uri=uri, kek_id="env-v1", key=key, development=False)


async def assert_nothing(client: Client, *secret: str, context: str = "row-tampered") -> None:
    """No route gives anything out, changes anything, or believes anything."""
    daemon, user = client.daemon, client.user
    before = await daemon.database.vault(user)
    mine = encode(bytes(32))
    asked: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("failed_fetch", client.key),
        ("init", client.init),
        ("rotate", client.rotate),
        ("recovery_set", lambda: client.set_recovery(WRAPPED, IV)),
        ("recovery_clear", client.clear_recovery),
        ("zk_enable", client.enable_zk),
        ("zk_disable", lambda: client.disable_zk(mine)),
    )
    seen = len(await daemon.database.audit(user))
    answers: list[Answer] = [await call() for _, call in asked]
    assert_problem(await client.status(), 500, "ROW_TAMPERED")
    for answer in answers:
        assert_problem(answer, 500, "ROW_TAMPERED")
        assert not any(one.encode() in answer.body for one in secret)
    audited = (await daemon.database.audit(user))[seen:]
    assert audited == [(action, context, 500) for action, _ in asked]
    assert await daemon.database.vault(user) == before


# ── five attacks, which all succeeded before rows were sealed ─────────────────────────────────────


@pytest.mark.prove
async def test_an_old_wrap_of_another_user_in_ones_own_row(daemon: Daemon, device: Device) -> None:
    alice, mallory = device("alice"), device("mallory")
    victims = (await alice.init()).json["masterKey"]
    await mallory.init()
    wrap = unbound_wrap(daemon, base64.b64decode(victims))
    with pytest.raises(REFUSALS):
        await as_app(daemon, "mallory", UNBOUND, *wrap)
    await as_anyone(daemon, UNBOUND, "mallory", *wrap)
    await assert_nothing(mallory, victims)
    # As a row that was never sealed, too.
    await as_anyone(daemon, f"{UPDATE} seal = NULL {OF}", "mallory")
    await assert_nothing(mallory, victims, context="legacy-row")


async def test_the_wrap_of_before_a_rotate(daemon: Daemon, device: Device) -> None:
    alice = device("alice")
    old = (await alice.init()).json["masterKey"]
    row = await row_of(daemon, "alice")
    new = (await alice.rotate()).json["masterKey"]
    await as_app(daemon, "alice", PUT_BACK, row["wrapped_mk"], row["wrap_iv"])
    # Format 3: the wrap was made for another generation.
    answer = await alice.key()
    assert_problem(answer, 500, "ROW_TAMPERED")
    assert not any(key.encode() in answer.body for key in (old, new))
    await as_app(daemon, "alice", WITH_CHECK, row["wrapped_mk"], row["wrap_iv"], row["key_check"])
    await assert_nothing(alice, old, new)


async def test_the_wrap_of_before_zero_knowledge_mode(daemon: Daemon, device: Device) -> None:
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    row = await row_of(daemon, "alice")
    wrap = row["wrapped_mk"], row["wrap_iv"]
    await alice.set_recovery(WRAPPED, IV)
    await alice.enable_zk()
    assert (await alice.key()).json["requiresRecoveryCode"] is True
    await as_app(daemon, "alice", UNLOCK, *wrap)
    await assert_nothing(alice, key, WRAPPED)
    await as_app(daemon, "alice", UNLOCK_FULLY, *wrap, row["seal"])
    await assert_nothing(alice, key, WRAPPED)


async def test_the_key_check_value_of_a_key_of_ones_own(daemon: Daemon, device: Device) -> None:
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    await alice.set_recovery(WRAPPED, IV)
    await alice.enable_zk()
    mine = secrets.token_bytes(32)
    good = await row_of(daemon, "alice")
    await as_app(daemon, "alice", VOUCH, key_check_value("alice", mine))
    assert_problem(await alice.disable_zk(remember(encode(mine))), 500, "ROW_TAMPERED")
    assert (await daemon.database.audit("alice"))[-1] == ("zk_disable", "row-tampered", 500)
    await assert_nothing(alice, key, WRAPPED)
    await put_row(daemon, good)
    assert (await alice.disable_zk(encode(mine))).code == "MASTER_KEY_MISMATCH"


@pytest.mark.prove
@pytest.mark.parametrize("seal", [None, "junk", "1.dk-" + "0" * 32 + "." + "0" * 64])
async def test_a_kek_id_registered_before_its_kek_is_there(
    database: Database, issuer: Issuer, tmp_path: Path, seal: str | None
) -> None:
    kek = {"KEK": "env:NEW?id=env-v2", "OLD_KEKS": "env:MANA_AUTH_KEK"}
    kek["raw_NEW"] = remember(encode(b"the KEK that the operator makes!"))
    async with daemon_here(database, issuer, tmp_path), database.connect("custody_app") as thief:
        await thief.execute(REGISTER, seal)
    async with (
        daemon_here(database, issuer, tmp_path, **kek) as daemon,
        client_session() as session,
    ):
        await becomes(daemon, 200)
        assert (await Client(daemon, session, "alice").init()).json["kekId"] == "env-v2"
    (record,) = await database.fetch("SELECT * FROM auth.encryption_keks WHERE kek_id = 'env-v2'")
    assert record["fingerprint"] not in {None, "0" * 64}
    assert record["seal"].startswith("1.dk-")


# ── what is not about a wrap ──────────────────────────────────────────────────────────────────────


async def test_the_recovery_wrap_of_before_the_code_was_changed(
    daemon: Daemon, device: Device
) -> None:
    """In one generation: a thief who knows the old code shall not need the new one."""
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    old = encode(secrets.token_bytes(48)), encode(secrets.token_bytes(12))
    await alice.set_recovery(*old)
    await alice.enable_zk()
    before = await row_of(daemon, "alice")
    await alice.set_recovery(WRAPPED, IV)
    now = await row_of(daemon, "alice")
    assert before["generation"] == now["generation"]
    await as_app(daemon, "alice", RECOVERY, *old)
    await assert_nothing(alice, key, old[0], WRAPPED)
    await put_row(daemon, now)
    await as_app(
        daemon,
        "alice",
        f"{RECOVERY[: -len(OF)]}, recovery_set_at = $4, seal = $5 {OF}",
        *old,
        before["recovery_set_at"],
        before["seal"],
    )
    await assert_nothing(alice, key, old[0], WRAPPED)


@pytest.mark.parametrize(
    "said",
    [
        "recovery_set_at = now() + interval '1 day'",
        "recovery_set_at = NULL",
        "recovery_set_at = 'infinity'",
        "recovery_set_at = '200000-01-01'",
        "recovery_format_version = 2",
        "generation = generation + 1",
        "generation = 9223372036854775807",
        "key_check = upper(key_check)",
        "seal = upper(seal)",
        "recovery_wrapped_mk = NULL, recovery_iv = NULL",
    ],
)
async def test_what_clients_are_told(daemon: Daemon, device: Device, said: str) -> None:
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    await alice.set_recovery(WRAPPED, IV)
    await as_app(daemon, "alice", f"{UPDATE} {said} {OF}")
    await assert_nothing(alice, key, WRAPPED)


async def test_a_generation_that_is_not_sealed_meets_no_precondition(
    daemon: Daemon, device: Device
) -> None:
    alice = device("alice")
    generation = generation_of(await alice.init())
    await as_app(daemon, "alice", f"{UPDATE} generation = generation + 1 {OF}")
    for tag in (generation, generation + 1):
        assert_problem(await alice.rotate(f'"{tag}"'), 500, "ROW_TAMPERED")


async def test_the_victims_whole_row_under_ones_own_name(daemon: Daemon, device: Device) -> None:
    alice, mallory = device("alice"), device("mallory")
    victims = (await alice.init()).json["masterKey"]
    await alice.set_recovery(WRAPPED, IV)
    own = (await mallory.init()).json["masterKey"]
    stolen = await row_of(daemon, "alice") | {"user_id": "mallory"}
    await put_row(daemon, stolen, *WRITABLE, "seal_serial", "row_version")
    await assert_nothing(mallory, victims, own, WRAPPED)
    # The same by renaming rows: each has the other's name then.
    await as_anyone(daemon, f"{UPDATE} user_id = 'x' {OF}", "alice")
    await as_anyone(daemon, f"{UPDATE} user_id = 'alice' {OF}", "mallory")
    await as_anyone(daemon, f"{UPDATE} user_id = 'mallory' {OF}", "x")
    await assert_nothing(mallory, victims, own, WRAPPED)


# ── rows that were never sealed ───────────────────────────────────────────────────────────────────


async def test_a_row_of_ones_own_making(daemon: Daemon, device: Device) -> None:
    alice, mallory = device("alice"), device("mallory")
    victims = (await alice.init()).json["masterKey"]
    wrap = unbound_wrap(daemon, base64.b64decode(victims))
    insert = (
        "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, seal)"
        " VALUES ($1, $2, $3, $4, $5)"
    )
    await daemon.database.execute("INSERT INTO auth.users (id) VALUES ('mallory')")
    for form, seal in ((1, None), (3, None), (2, "s")):
        with pytest.raises(REFUSALS):
            await as_app(daemon, "mallory", insert, *wrap, form, seal)
    await as_anyone(daemon, insert, "mallory", *wrap, 1, None)
    await assert_nothing(mallory, victims, context="legacy-row")
    await as_anyone(daemon, "DELETE FROM auth.encryption_vaults WHERE user_id = $1", "mallory")
    # With a seal of somebody's, or one that is none.
    for seal in ((await row_of(daemon, "alice"))["seal"], "s"):
        await as_app(daemon, "mallory", insert, *wrap, 3, seal)
        await assert_nothing(mallory, victims)
        await as_anyone(daemon, "DELETE FROM auth.encryption_vaults WHERE user_id = $1", "mallory")


async def test_a_seal_that_is_taken_away(daemon: Daemon, device: Device) -> None:
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    with pytest.raises(REFUSALS):
        await as_app(daemon, "alice", f"{UPDATE} seal = NULL {OF}")
    await as_anyone(daemon, f"{UPDATE} seal = NULL {OF}", "alice")
    await assert_nothing(alice, key, context="legacy-row")


async def test_a_format_of_nobodys_locks_nobody_out(daemon: Daemon, device: Device) -> None:
    alice = device("alice")
    old = (await alice.init()).json["masterKey"]
    await as_app(daemon, "alice", f"{UPDATE} format_version = 32767 {OF}")
    answer = await alice.key()
    assert_problem(answer, 500, "ROW_TAMPERED")
    assert old.encode() not in answer.body
    fresh = await alice.rotate()
    assert (fresh.status, fresh.json["formatVersion"]) == (200, 3)
    assert (await alice.key()).json == fresh.json


# ── wraps that are genuine ────────────────────────────────────────────────────────────────────────


async def test_an_older_wrap_of_the_same_key(daemon: Daemon, device: Device) -> None:
    """It holds what the row's own wrap holds: nothing is lost, nothing is won."""
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    row = await row_of(daemon, "alice")
    await alice.set_recovery(WRAPPED, IV)
    await alice.enable_zk()
    assert (await alice.disable_zk(key)).status == 200
    assert (await row_of(daemon, "alice"))["wrapped_mk"] != row["wrapped_mk"]
    await as_app(daemon, "alice", PUT_BACK, row["wrapped_mk"], row["wrap_iv"])
    assert (await alice.key()).json["masterKey"] == key


async def test_a_generation_that_names_two_keys(daemon: Daemon, device: Device) -> None:
    """A rotate was lost with its database, and made again: the key check value decides."""
    alice = device("alice")
    await alice.init()
    dump = await row_of(daemon, "alice")
    lost = await alice.rotate()
    of_lost = await row_of(daemon, "alice")
    await put_row(daemon, dump)
    again = await alice.rotate()
    assert generation_of(again) == generation_of(lost)
    await as_app(daemon, "alice", PUT_BACK, of_lost["wrapped_mk"], of_lost["wrap_iv"])
    answer = await alice.key()
    assert_problem(answer, 500, "ROW_TAMPERED")
    for one in (lost, again):
        assert one.json["masterKey"].encode() not in answer.body


async def test_a_wrap_that_the_worker_would_store(daemon: Daemon, device: Device) -> None:
    """The worker makes no seals: what it stores is judged by the key that comes out."""
    alice = device("alice")
    generation = generation_of(await alice.init())
    wrap = await kek_of(daemon).wrap(of("alice", generation), secrets.token_bytes(32))
    async with daemon.database.connect("custody_rewrap") as thief:
        await thief.execute(PUT_BACK, "alice", wrap.wrapped_mk, wrap.wrap_iv)
        for column in ("key_check", "seal", "generation", "seal_serial", "zero_knowledge"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await thief.execute(f"{UPDATE} {column} = {column}")
    assert_problem(await alice.key(), 500, "ROW_TAMPERED")
    assert (await alice.rotate()).status == 200


async def test_a_sealed_row_without_a_key_check_value(daemon: Daemon, device: Device) -> None:
    """Nobody can seal one; were there one, any key of this generation would do."""
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    await as_anyone(daemon, f"{UPDATE} key_check = NULL {OF}", "alice")
    await reseal(daemon.database, await data_key_of(daemon.database, kek_of(daemon)), "alice")
    await assert_nothing(alice, key)


# ── the next KEK ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.prove
async def test_the_next_kek_retired_before_its_first_use(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """By both passwords together. It is a refusal, and has a cure; no key comes of it."""
    kek = {"KEK": "env:NEW?id=env-v2", "OLD_KEKS": "env:MANA_AUTH_KEK"}
    kek["raw_NEW"] = remember(encode(b"the KEK that the operator makes!"))
    async with (
        daemon_here(database, issuer, tmp_path) as daemon,
        client_session() as session,
        database.connect("custody_app") as app,
        database.connect("custody_rewrap") as rewrap,
    ):
        key = (await Client(daemon, session, "alice").init()).json["masterKey"]
        await app.execute(REGISTER, None)
        assert await rewrap.fetchval("SELECT auth.custody_retire_kek('env-v2')") == "retired"
    with pytest.raises(Exception, match=r"custody kek forget env-v2|retired"):
        async with daemon_here(database, issuer, tmp_path, **kek):
            pass
    async with database.connect("custody_owner") as owner:
        await owner.execute("SELECT auth.custody_forget_kek('env-v2')")
    async with (
        daemon_here(database, issuer, tmp_path, **kek) as daemon,
        client_session() as session,
    ):
        await becomes(daemon, 200)
        assert (await Client(daemon, session, "alice").key()).json["masterKey"] == key


# ── what remains, and how it is noticed ───────────────────────────────────────────────────────────


async def test_a_whole_old_row_as_a_runtime_role(daemon: Daemon, device: Device) -> None:
    """Whatever it writes, the serial is one that never was."""
    alice = device("alice")
    old = (await alice.init()).json["masterKey"]
    before = await row_of(daemon, "alice")
    new = (await alice.rotate()).json["masterKey"]
    values = ", ".join(f"{name} = ${place}" for place, name in enumerate(WRITABLE, 2))
    columns = [before[name] for name in WRITABLE]
    for _ in range(3):
        assert await as_app(daemon, "alice", f"{UPDATE} {values} {OF}", *columns) == "UPDATE 1"
        await assert_nothing(alice, old, new)
        await as_app(daemon, "alice", f"{UPDATE} generation = generation + 1 {OF}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_app(daemon, "alice", f"{UPDATE} seal_serial = 0 {OF}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_app(daemon, "alice", f"DELETE FROM auth.encryption_vaults {OF}")


async def test_a_whole_old_row_as_superuser_remains(daemon: Daemon, device: Device) -> None:
    """It is served. A client that remembers the highest ETag sees it, and so does the audit."""
    alice = device("alice")
    first = await alice.init()
    before = await row_of(daemon, "alice")
    second = await alice.rotate()
    await put_row(daemon, before)
    answer = await alice.key()
    assert answer.json == first.json
    assert generation_of(answer) < generation_of(second)
    # Such a client changes nothing that it does not mean to.
    refused = await alice.rotate(second.headers["ETag"])
    assert_problem(refused, 412, "STALE_GENERATION")


async def test_an_old_recovery_wrap_as_superuser_remains(daemon: Daemon, device: Device) -> None:
    alice = device("alice")
    await alice.init()
    await alice.set_recovery(encode(secrets.token_bytes(48)), IV)
    await alice.enable_zk()
    before, answer = await row_of(daemon, "alice"), await alice.key()
    await alice.set_recovery(WRAPPED, IV)
    await put_row(daemon, before)
    assert (await alice.key()).json == answer.json


async def test_a_row_that_is_taken_away_remains(daemon: Daemon, device: Device) -> None:
    """By a superuser. The vault that comes after it is a later one: an old device is stale."""
    alice = device("alice")
    first = await alice.rotate()
    await as_anyone(daemon, f"DELETE FROM auth.encryption_vaults {OF}", "alice")
    assert_problem(await alice.key(), 404, "VAULT_NOT_INITIALISED")
    second = await alice.init()
    assert second.json["masterKey"] != first.json["masterKey"]
    assert generation_of(second) > generation_of(first)
    assert_problem(await alice.rotate(first.headers["ETag"]), 412, "STALE_GENERATION")


# ── all at once ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.prove
async def test_one_tampered_row_spoils_no_others_answer(daemon: Daemon, device: Device) -> None:
    """Rows are read together: the one is refused, whatever it holds."""
    users = [device(f"user-{number}") for number in range(8)]
    keys = {client.user: (await client.init()).json["masterKey"] for client in users}
    await as_anyone(
        daemon,
        f"{UPDATE} recovery_set_at = 'infinity', generation = 9223372036854775807,"
        f" seal_serial = -9223372036854775808, seal = $2 {OF}",
        "user-0",
        NO_SEAL,
    )
    for _ in range(10):
        answers = await asyncio.gather(*(client.key() for client in users))
        assert_problem(answers[0], 500, "ROW_TAMPERED")
        found = {
            client.user: answer.json["masterKey"]
            for client, answer in zip(users[1:], answers[1:], strict=True)
        }
        assert found == {user: key for user, key in keys.items() if user != "user-0"}
