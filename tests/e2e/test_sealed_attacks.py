"""Whoever has custody_app's password, and no KEK, tries to make the daemon give out a key.

Each attack is one transaction on the database of a running daemon, with an own account at most.
"""

import base64
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from custody.keks.registry import KekRegistry
from custody.vault.key_check import key_check_value
from kek_backends.env import EnvKek
from kek_backends.errors import Misconfigured
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from tests.client import Client
from tests.db.connecting import engine_of
from tests.e2e.browser import encode
from tests.http.wire import assert_problem
from tests.leaks import remember
from tests.servers import Daemon
from tests.states import IV, WRAPPED

Device = Callable[[str], Client]

SCOPE = "SELECT set_config('app.current_user_id', $1, true)"
READ = "SELECT wrapped_mk, wrap_iv, key_check FROM auth.encryption_vaults"
UNBOUND = (
    "UPDATE auth.encryption_vaults SET wrapped_mk = $1, wrap_iv = $2, format_version = 1,"
    " kek_id = 'env-v1', key_check = NULL"
)
PUT_BACK = "UPDATE auth.encryption_vaults SET wrapped_mk = $1, wrap_iv = $2, key_check = $3"
UNLOCK = "UPDATE auth.encryption_vaults SET zero_knowledge = false, wrapped_mk = $1, wrap_iv = $2"
VOUCH = "UPDATE auth.encryption_vaults SET key_check = $1"
SQUAT = (
    "SELECT * FROM auth.custody_register_kek('env-v2', 'env', 'env:NEW?id=env-v2', repeat('0', 64),"
    " NULL, false)"
)


async def as_app(daemon: Daemon, user: str, sql: str, *parameters: Any) -> list[Any]:
    """Run one statement as the thief of custody_app's password, in the scope of a user."""
    async with daemon.database.connect("custody_app") as thief, thief.transaction():
        await thief.execute(SCOPE, user)
        return list(await thief.fetch(sql, *parameters))


def unbound_wrap(daemon: Daemon, key: bytes) -> tuple[str, str]:
    """Wrap a key as it stands in a backup of the old service: AES-256-GCM, bound to nobody."""
    iv = secrets.token_bytes(12)
    kek = base64.b64decode(daemon.settings["MANA_AUTH_KEK"])
    return encode(AESGCM(kek).encrypt(iv, key, None)), encode(iv)


async def test_an_old_wrap_of_another_user_in_ones_own_row(daemon: Daemon, device: Device) -> None:
    alice, mallory = device("alice"), device("mallory")
    victims = (await alice.init()).json["masterKey"]
    await mallory.init()
    await as_app(daemon, "mallory", UNBOUND, *unbound_wrap(daemon, base64.b64decode(victims)))
    assert (await mallory.key()).json["masterKey"] == victims


async def test_the_wrap_of_before_a_rotate(daemon: Daemon, device: Device) -> None:
    alice = device("alice")
    old = (await alice.init()).json["masterKey"]
    (row,) = await as_app(daemon, "alice", READ)
    await alice.rotate()
    await as_app(daemon, "alice", PUT_BACK, *row)
    # Format 3: the wrap was made for another generation.
    answer = await alice.key()
    assert_problem(answer, 500, "UNWRAP_FAILED")
    assert old.encode() not in answer.body


async def test_the_wrap_of_before_zero_knowledge_mode(daemon: Daemon, device: Device) -> None:
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    (row,) = await as_app(daemon, "alice", READ)
    await alice.set_recovery(WRAPPED, IV)
    await alice.enable_zk()
    assert (await alice.key()).json["requiresRecoveryCode"] is True
    await as_app(daemon, "alice", UNLOCK, *row[:2])
    assert (await alice.key()).json["masterKey"] == key


async def test_the_key_check_value_of_a_key_of_ones_own(daemon: Daemon, device: Device) -> None:
    alice = device("alice")
    await alice.init()
    await alice.set_recovery(WRAPPED, IV)
    await alice.enable_zk()
    mine = secrets.token_bytes(32)
    await as_app(daemon, "alice", VOUCH, key_check_value("alice", mine))
    assert (await alice.disable_zk(remember(encode(mine)))).status == 200
    assert (await daemon.database.audit("alice"))[-1] == ("zk_disable", None, 200)
    assert (await alice.key()).json["masterKey"] == encode(mine)


async def test_a_kek_id_registered_before_its_kek_is_there(daemon: Daemon) -> None:
    await as_app(daemon, "", SQUAT)
    uri = KekUri.parse("env:NEW?id=env-v2")
    kek = EnvKek(uri=uri, kek_id="env-v2", key=b"k" * 32, development=False)
    async with engine_of(daemon.database.url("custody_app")) as engine:
        with pytest.raises(Misconfigured, match="stands for other key material"):
            await KekRegistry(engine, Keyring(kek)).check()
