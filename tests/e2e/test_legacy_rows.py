"""Rows that were never sealed, as the service of before left them: refused, or accepted.

Accepted, they are believed as far as their key check value goes, and each change brings one over.
"""

import base64
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from custody.vault.key_check import key_check_value
from tests.client import Client, client_session
from tests.http.wire import assert_problem
from tests.leaks import remember
from tests.sealed_rows import past_triggers
from tests.servers import Daemon, Database, daemon_here
from tests.states import IV, WRAPPED
from tests.tokens import Issuer

WRITE = (
    "UPDATE auth.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, format_version = 1,"
    " kek_id = 'env-v1', key_check = $4, seal = NULL WHERE user_id = $1"
)
BREAK = "UPDATE auth.encryption_vaults SET "


@pytest.fixture
async def accepting(database: Database, issuer: Issuer, tmp_path: Path) -> AsyncIterator[Daemon]:
    async with daemon_here(database, issuer, tmp_path, LEGACY_ROWS="accept") as daemon:
        yield daemon


@pytest.fixture
async def alice(accepting: Daemon) -> AsyncIterator[Client]:
    async with client_session() as session:
        yield Client(accepting, session, "alice")


def wrapped(daemon: Daemon, key: bytes) -> tuple[str, str]:
    """Wrap as the old service did: AES-256-GCM, bound to nobody."""
    iv = secrets.token_bytes(12)
    kek = base64.b64decode(daemon.settings["MANA_AUTH_KEK"])
    sealed = AESGCM(kek).encrypt(iv, key, None)
    return base64.b64encode(sealed).decode(), base64.b64encode(iv).decode()


async def write(daemon: Daemon, user: str, key: bytes, *, check: bool = True) -> str:
    """Make a user's row one of before; return its key as clients see it."""
    value = key_check_value(user, key) if check else None
    async with past_triggers(daemon.database) as superuser:
        await superuser.execute(WRITE, user, *wrapped(daemon, key), value)
    return remember(base64.b64encode(key).decode())


async def row(daemon: Daemon) -> dict[str, Any]:
    return await daemon.database.vault("alice")


@pytest.mark.prove
async def test_they_are_refused_by_default(daemon: Daemon, device: Callable[[str], Client]) -> None:
    alice = device("alice")
    await alice.init()
    await write(daemon, "alice", secrets.token_bytes(32))
    before = await row(daemon)
    assert_problem(await alice.key(), 500, "ROW_TAMPERED")
    assert (await daemon.database.audit("alice"))[-1] == ("failed_fetch", "legacy-row", 500)
    assert_problem(await alice.status(), 500, "ROW_TAMPERED")
    for action, ask in {
        "init": alice.init(),
        "rotate": alice.rotate(),
        "recovery_set": alice.set_recovery(WRAPPED, IV),
        "recovery_clear": alice.clear_recovery(),
        "zk_enable": alice.enable_zk(),
        "zk_disable": alice.disable_zk(base64.b64encode(bytes(32)).decode()),
    }.items():
        assert_problem(await ask, 500, "ROW_TAMPERED")
        assert (await daemon.database.audit("alice"))[-1] == (action, "legacy-row", 500)
    assert await row(daemon) == before


@pytest.mark.prove
async def test_accepted_they_are_read_and_stay_as_they_are(
    accepting: Daemon, alice: Client
) -> None:
    await alice.init()
    for check in (True, False):
        key = await write(accepting, "alice", secrets.token_bytes(32), check=check)
        before = await row(accepting)
        answer = await alice.key()
        assert answer.json == {"masterKey": key, "formatVersion": 1, "kekId": "env-v1"}
        assert (await alice.init()).json == answer.json
        assert (await alice.status()).json["vaultExists"] is True
        assert await row(accepting) == before


async def test_a_key_check_value_that_does_not_fit_is_refused(
    accepting: Daemon, alice: Client
) -> None:
    await alice.init()
    await write(accepting, "alice", secrets.token_bytes(32))
    async with past_triggers(accepting.database) as superuser:
        await superuser.execute("UPDATE auth.encryption_vaults SET key_check = repeat('0', 64)")
    assert_problem(await alice.key(), 500, "UNWRAP_FAILED")
    assert (await accepting.database.audit("alice"))[-1] == ("failed_fetch", "unwrap-failed", 500)


@pytest.mark.prove
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("change", ["set_recovery", "clear_recovery", "enable_zk"])
async def test_a_change_brings_one_over(
    accepting: Daemon, alice: Client, change: str, *, check: bool
) -> None:
    await alice.init()
    await alice.set_recovery(WRAPPED, IV)
    secret = secrets.token_bytes(32)
    key = await write(accepting, "alice", secret, check=check)
    before = await row(accepting)
    arguments = (WRAPPED, IV) if change == "set_recovery" else ()
    assert (await getattr(alice, change)(*arguments)).status == 200
    after = await row(accepting)
    assert after["seal"] is not None
    assert after["generation"] == before["generation"]
    assert after["key_check"] == key_check_value("alice", secret)
    if change == "enable_zk":
        assert after["wrapped_mk"] is None
        assert (await alice.disable_zk(key)).status == 200
    assert (await alice.key()).json == {"masterKey": key, "formatVersion": 3, "kekId": "env-v1"}


async def test_a_rotate_brings_one_over(accepting: Daemon, alice: Client) -> None:
    await alice.init()
    old = await write(accepting, "alice", secrets.token_bytes(32))
    fresh = (await alice.rotate()).json
    assert fresh["masterKey"] != old
    assert (await row(accepting))["seal"] is not None
    assert (await alice.key()).json == fresh


@pytest.mark.prove
async def test_zero_knowledge_mode_goes_on_and_ends(accepting: Daemon, alice: Client) -> None:
    key = (await alice.init()).json["masterKey"]
    await alice.set_recovery(WRAPPED, IV)
    await alice.enable_zk()
    async with past_triggers(accepting.database) as superuser:
        await superuser.execute("UPDATE auth.encryption_vaults SET seal = NULL, key_check = NULL")
    blob = (await alice.key()).json
    assert (blob["recoveryWrappedMk"], blob["recoveryIv"]) == (WRAPPED, IV)
    assert (await row(accepting))["seal"] is None
    assert (await alice.set_recovery(WRAPPED, IV)).status == 200
    assert (await row(accepting))["seal"] is not None
    assert (await row(accepting))["key_check"] is None
    assert (await alice.disable_zk(key)).status == 200
    assert ("zk_disable", "unverified-master-key", 200) in await accepting.database.audit("alice")
    assert (await alice.key()).json["masterKey"] == key


@pytest.mark.prove
@pytest.mark.parametrize(
    ("broken", "code", "context"),
    [
        ("kek_id = 'env-v2'", "KEK_UNAVAILABLE", "kek-not-configured"),
        ("wrapped_mk = reverse(wrapped_mk)", "UNWRAP_FAILED", "unwrap-failed"),
    ],
)
async def test_no_change_is_built_on_one_that_does_not_open(
    accepting: Daemon, alice: Client, broken: str, code: str, context: str
) -> None:
    """Nor does zero-knowledge mode start from it: the last chance to make its key check value."""
    await alice.init()
    await alice.set_recovery(WRAPPED, IV)
    await write(accepting, "alice", secrets.token_bytes(32), check=False)
    async with past_triggers(accepting.database) as superuser:
        await superuser.execute(BREAK + broken)
    before = await row(accepting)
    for action, ask in {
        "zk_enable": alice.enable_zk(),
        "recovery_set": alice.set_recovery(WRAPPED, IV),
        "recovery_clear": alice.clear_recovery(),
    }.items():
        assert (await ask).code == code
        assert (await accepting.database.audit("alice"))[-1][:2] == (action, context)
    assert await row(accepting) == before


@pytest.mark.prove
@pytest.mark.parametrize("moment", ["'infinity'", "'-infinity'", "'200000-01-01'"])
async def test_a_time_that_is_none(accepting: Daemon, alice: Client, moment: str) -> None:
    await alice.init()
    await alice.set_recovery(WRAPPED, IV)
    async with past_triggers(accepting.database) as superuser:
        await superuser.execute(f"{BREAK} seal = NULL, recovery_set_at = {moment}")
    assert_problem(await alice.status(), 500, "ROW_TAMPERED")
    assert_problem(await alice.key(), 500, "ROW_TAMPERED")


async def test_a_sealed_row_is_none_of_them(accepting: Daemon, alice: Client) -> None:
    """A seal that does not hold is not believed for that, and no old format gets into the row."""
    await alice.init()
    old = wrapped(accepting, secrets.token_bytes(32))
    async with past_triggers(accepting.database) as superuser:
        await superuser.execute(
            "UPDATE auth.encryption_vaults SET wrapped_mk = $1, wrap_iv = $2, format_version = 1",
            *old,
        )
    assert_problem(await alice.key(), 500, "ROW_TAMPERED")
    assert (await accepting.database.audit("alice"))[-1] == ("failed_fetch", "row-tampered", 500)


@pytest.mark.prove
@pytest.mark.parametrize("role", ["custody_app", "custody_rewrap"])
async def test_the_runtime_roles_can_plant_none(
    accepting: Daemon, alice: Client, role: str
) -> None:
    """With an old wrap of alice's, say from a backup, in whatever row."""
    await alice.init()
    key = await write(accepting, "alice", secrets.token_bytes(32))
    before = await row(accepting)
    iv, sealed = before["wrap_iv"], before["wrapped_mk"]
    refusal = asyncpg.RestrictViolationError, asyncpg.InsufficientPrivilegeError
    async with accepting.database.connect(role) as thief:
        await thief.execute("SELECT set_config('app.current_user_id', 'alice', false)")
        for planted in (
            "wrapped_mk = $1, wrap_iv = $2, kek_id = 'env-v2'",
            "wrapped_mk = reverse($1), wrap_iv = $2",
            "wrapped_mk = $1, wrap_iv = $2, format_version = 2, kek_id = 'env-v2'",
        ):
            with pytest.raises(refusal):
                await thief.execute(f"{BREAK} {planted} WHERE user_id = 'alice'", sealed, iv)
    assert await row(accepting) == before
    assert (await alice.key()).json["masterKey"] == key
