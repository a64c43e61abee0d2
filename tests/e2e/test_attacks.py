"""What someone who can write to the database can do with rows: break them, and nothing else.

Sealed rows; rows of before are in test_legacy_rows.py.
"""

import base64
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from tests.client import Client
from tests.http.wire import assert_problem
from tests.sealed_rows import past_triggers
from tests.servers import Daemon, Database

USERS = tuple(f"user-{n}" for n in range(10))
WRAP_COLUMNS = ("wrapped_mk", "wrap_iv", "format_version", "kek_id")
WRITE = (
    "UPDATE auth.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, format_version = $4,"
    " kek_id = $5, key_check = $6 WHERE user_id = $1"
)
EVENTS = "SELECT count(*) FROM auth.encryption_vault_audit"
REFUSED = ("failed_fetch", "row-tampered", 500)

Device = Callable[[str], Client]
Row = dict[str, Any]


class Superuser(Database):
    """Writes to rows as only an administrator, or a burglar, can."""

    async def row(self, user: str) -> Row:
        """Read a row."""
        return await self.vault(user)

    async def write(self, user: str, values: Row) -> None:
        """Overwrite the wrap's columns, and the key check value where one is given."""
        row = await self.row(user) | values
        await self.execute(WRITE, user, *(row[name] for name in (*WRAP_COLUMNS, "key_check")))


@pytest.fixture
async def superuser(daemon: Daemon) -> AsyncIterator[Superuser]:
    async with past_triggers(daemon.database) as connection:
        yield Superuser(daemon.database.server, daemon.database.name, connection)


def wrap_of(row: Row) -> Row:
    return {name: row[name] for name in WRAP_COLUMNS}


async def assert_swaps_are_refused(
    superuser: Superuser,
    devices: dict[str, Client],
    keys: dict[str, str],
    stolen_of: Callable[[Row], Row],
) -> None:
    rows = {user: await superuser.row(user) for user in devices}
    before = await superuser.value(EVENTS)
    attempts = 0
    for victim, device in devices.items():
        for source in devices:
            if source == victim:
                continue
            stolen = stolen_of(rows[source])
            await superuser.write(victim, stolen)
            answer = await device.key()
            attempts += 1
            assert_problem(answer, 500, "ROW_TAMPERED")
            assert not any(key.encode() in answer.body for key in keys.values())
            assert (await superuser.audit(victim))[-1] == REFUSED
            assert await superuser.row(victim) == rows[victim] | stolen
        assert_problem(await device.init(), 500, "ROW_TAMPERED")
        assert (await superuser.audit(victim))[-1] == ("init", "row-tampered", 500)
        await superuser.write(victim, rows[victim])
        assert (await device.key()).json["masterKey"] == keys[victim]
    assert attempts == len(devices) * (len(devices) - 1)
    # One row an answer: the attempts, and for each victim an /init and the last fetch.
    assert await superuser.value(EVENTS) == before + attempts + 2 * len(devices)


async def test_a_wrap_opens_in_no_other_row(superuser: Superuser, device: Device) -> None:
    devices = {user: device(user) for user in USERS}
    keys = {user: (await client.init()).json["masterKey"] for user, client in devices.items()}
    assert len(set(keys.values())) == 10
    assert {(await superuser.row(user))["format_version"] for user in USERS} == {3}
    await assert_swaps_are_refused(superuser, devices, keys, wrap_of)


@pytest.mark.parametrize("copied", [False, True])
async def test_nor_does_it_with_the_key_check_value_copied_or_taken_away(
    superuser: Superuser, device: Device, *, copied: bool
) -> None:
    devices = {user: device(user) for user in USERS[:4]}
    keys = {user: (await client.init()).json["masterKey"] for user, client in devices.items()}

    def stolen(row: Row) -> Row:
        return wrap_of(row) | {"key_check": row["key_check"] if copied else None}

    await assert_swaps_are_refused(superuser, devices, keys, stolen)


@pytest.mark.parametrize("with_check", [False, True])
async def test_a_wrap_of_before_a_rotate_opens_no_more(
    superuser: Superuser, device: Device, *, with_check: bool
) -> None:
    """The right user's, and with its key check value: the generation is another."""
    alice = device("alice")
    old = (await alice.init()).json["masterKey"]
    before = await superuser.row("alice")
    new = (await alice.rotate()).json["masterKey"]
    now = await superuser.row("alice")
    put_back = wrap_of(before) | ({"key_check": before["key_check"]} if with_check else {})
    await superuser.write("alice", put_back)
    answer = await alice.key()
    assert_problem(answer, 500, "ROW_TAMPERED")
    assert not any(key.encode() in answer.body for key in (old, new))
    assert (await superuser.audit("alice"))[-1] == REFUSED
    await superuser.write("alice", now)
    assert (await alice.key()).json["masterKey"] == new


async def test_rotate_heals(superuser: Superuser, daemon: Daemon, device: Device) -> None:
    alice, mallory = device("alice"), device("mallory")
    old = (await alice.init()).json["masterKey"]
    others = (await mallory.init()).json["masterKey"]
    await superuser.write("alice", wrap_of(await superuser.row("mallory")))
    await daemon.database.execute(
        "UPDATE auth.encryption_vaults SET quarantined_at = now(), quarantine_reason = 'a test'"
        " WHERE user_id = 'alice'"
    )
    assert_problem(await alice.key(), 500, "ROW_TAMPERED")
    answer = await alice.rotate()
    assert answer.status == 200
    assert answer.json["masterKey"] not in {old, others}
    assert (await superuser.audit("alice"))[-1] == ("rotate", None, 200)
    row = await superuser.row("alice")
    assert row["quarantined_at"] is row["quarantine_reason"] is None
    assert (await alice.key()).json == answer.json
    assert (await mallory.key()).json["masterKey"] == others


def _flip(text: str) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[len(raw) // 2] ^= 1
    return base64.b64encode(raw).decode()


def _resize(text: str, by: int) -> str:
    raw = base64.b64decode(text)
    return base64.b64encode(raw[:by] if by < 0 else raw + bytes(by)).decode()


GARBLED: dict[str, Callable[[Row], Row]] = {
    "wrap-empty": lambda row: {"wrapped_mk": ""},
    "wrap-and-iv-empty": lambda row: {"wrapped_mk": "", "wrap_iv": ""},
    "wrap-cut": lambda row: {"wrapped_mk": row["wrapped_mk"][:-1]},
    "wrap-a-byte-short": lambda row: {"wrapped_mk": _resize(row["wrapped_mk"], -1)},
    "wrap-of-15-bytes": lambda row: {"wrapped_mk": _resize(row["wrapped_mk"], -33)},
    "wrap-a-byte-long": lambda row: {"wrapped_mk": _resize(row["wrapped_mk"], 1)},
    "wrap-a-bit-off": lambda row: {"wrapped_mk": _flip(row["wrapped_mk"])},
    "wrap-of-blanks": lambda row: {"wrapped_mk": "   \n"},
    "wrap-of-letters": lambda row: {"wrapped_mk": "ключ 🔑 \\x00 '; DROP"},
    "wrap-urlsafe": lambda row: {"wrapped_mk": "-_" + row["wrapped_mk"][2:]},
    "wrap-of-a-megabyte": lambda row: {"wrapped_mk": base64.b64encode(bytes(2**20)).decode()},
    "iv-empty": lambda row: {"wrap_iv": ""},
    "iv-of-12-bytes": lambda row: {"wrap_iv": _resize(row["wrap_iv"], -12)},
    "iv-a-byte-short": lambda row: {"wrap_iv": _resize(row["wrap_iv"], -1)},
    "iv-a-byte-long": lambda row: {"wrap_iv": _resize(row["wrap_iv"], 1)},
    "iv-a-bit-off": lambda row: {"wrap_iv": _flip(row["wrap_iv"])},
    "iv-of-letters": lambda row: {"wrap_iv": "ключ"},
    "iv-of-a-megabyte": lambda row: {"wrap_iv": base64.b64encode(bytes(2**20)).decode()},
    "swapped": lambda row: {"wrapped_mk": row["wrap_iv"], "wrap_iv": row["wrapped_mk"]},
    "format-1": lambda row: {"format_version": 1},
    "format-1-and-its-iv": lambda row: {
        "format_version": 1,
        "wrap_iv": _resize(row["wrap_iv"], -12),
    },
    "format-0": lambda row: {"format_version": 0},
    "format-2": lambda row: {"format_version": 2},
    "format-4": lambda row: {"format_version": 4},
    "format-negative": lambda row: {"format_version": -1},
    "format-huge": lambda row: {"format_version": 32767},
    "key-check-empty": lambda row: {"key_check": ""},
    "key-check-of-letters": lambda row: {"key_check": "0" * 64},
    "key-check-cut": lambda row: {"key_check": row["key_check"][:-1]},
}


async def test_a_garbled_row_gives_no_key_and_no_fresh_one(
    superuser: Superuser, device: Device
) -> None:
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    row = await superuser.row("alice")
    for name, garble in GARBLED.items():
        garbled = garble(row)
        await superuser.write("alice", garbled)
        for _ in range(2):
            assert_problem(await alice.key(), 500, "ROW_TAMPERED")
            assert (await superuser.audit("alice"))[-1] == REFUSED, name
        assert_problem(await alice.init(), 500, "ROW_TAMPERED")
        assert (await superuser.audit("alice"))[-1] == ("init", "row-tampered", 500), name
        # It opens no wrap: whether that is right it can't say.
        is_seen = "key_check" in garbled or garbled.get("format_version", 3) < 3
        assert (await alice.status()).status == (500 if is_seen else 200), name
        assert await superuser.row("alice") == row | garbled, name
        await superuser.write("alice", row)
        assert (await alice.key()).json["masterKey"] == key, name


async def test_a_row_whose_wrap_is_gone_gives_no_fresh_key(
    superuser: Superuser, device: Device
) -> None:
    """The one combination of NULLs that the CHECKs let a superuser write."""
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    wrapped = base64.b64encode(secrets.token_bytes(48)).decode()
    iv = base64.b64encode(secrets.token_bytes(12)).decode()
    assert (await alice.set_recovery(wrapped, iv)).status == 200
    row = await superuser.row("alice")
    await superuser.write("alice", {"wrapped_mk": None, "wrap_iv": None})
    gone = await superuser.row("alice")
    assert_problem(await alice.key(), 500, "ROW_TAMPERED")
    assert (await superuser.audit("alice"))[-1] == REFUSED
    assert_problem(await alice.init(), 500, "ROW_TAMPERED")
    assert await superuser.row("alice") == gone
    await superuser.write("alice", row)
    assert (await alice.key()).json["masterKey"] == key


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"wrapped_mk": None}, asyncpg.CheckViolationError),
        ({"wrap_iv": None}, asyncpg.CheckViolationError),
        ({"wrapped_mk": None, "wrap_iv": None}, asyncpg.CheckViolationError),
        ({"format_version": None}, asyncpg.NotNullViolationError),
        ({"kek_id": None}, asyncpg.NotNullViolationError),
    ],
)
async def test_what_not_even_a_superuser_can_write(
    superuser: Superuser, device: Device, values: Row, error: type[Exception]
) -> None:
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    with pytest.raises(error):
        await superuser.write("alice", values)
    assert (await alice.key()).json["masterKey"] == key


@pytest.mark.parametrize("kek_id", ["env-v2", "", "ENV-V1", "env-v1 ", "ключ", "k" * 10_000])
async def test_a_row_of_a_kek_that_is_not_configured(
    superuser: Superuser, device: Device, kek_id: str
) -> None:
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    row = await superuser.row("alice")
    await superuser.write("alice", {"kek_id": kek_id})
    answer = await alice.key()
    assert_problem(answer, 503, "KEK_UNAVAILABLE")
    assert "Retry-After" in answer.headers
    assert (await superuser.audit("alice"))[-1] == ("failed_fetch", "kek-not-configured", 503)
    assert_problem(await alice.init(), 503, "KEK_UNAVAILABLE")
    assert (await superuser.audit("alice"))[-1] == ("init", "kek-not-configured", 503)
    assert await superuser.row("alice") == row | {"kek_id": kek_id}
    await superuser.write("alice", row)
    assert (await alice.key()).json["masterKey"] == key
    await superuser.write("alice", {"kek_id": kek_id})
    answer = await alice.rotate()
    assert answer.status == 200
    assert answer.json["masterKey"] != key
    assert (await superuser.row("alice"))["kek_id"] == "env-v1"
    assert (await alice.key()).json == answer.json


async def test_a_key_check_value_that_is_not_even_ascii(
    superuser: Superuser, daemon: Daemon, device: Device
) -> None:
    alice = device("alice")
    await alice.init()
    await superuser.execute("UPDATE auth.encryption_vaults SET key_check = 'ключ'")
    assert_problem(await alice.key(), 500, "ROW_TAMPERED")
    assert (await daemon.database.audit("alice"))[-1] == REFUSED
