"""A row that changes between a route's decision and its UPDATE is judged again, step by step.

A superuser holds the row until the route waits for it, changes it, and lets go: the interleaving
that a storm meets by chance.
"""

import asyncio
import base64
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from custody.vault.key_check import key_check_value
from kek_backends.binding import Binding
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring
from tests.client import Answer, Client, tag_of
from tests.e2e.browser import encode
from tests.e2e.held import held, one_waits
from tests.leaks import remember
from tests.sealed_rows import data_key_of, reseal_by
from tests.servers import Daemon
from tests.states import act, bring

METHODS = {
    "set": "set_recovery",
    "clear": "clear_recovery",
    "enable": "enable_zk",
    "disable": "disable_zk",
    "rotate": "rotate",
}

ROTATED = (
    "UPDATE auth.encryption_vaults SET wrapped_mk = $1, wrap_iv = $2, format_version = $3,"
    " kek_id = $4, key_check = $5, generation = generation + 1, zero_knowledge = false,"
    " recovery_wrapped_mk = NULL, recovery_iv = NULL, recovery_set_at = NULL"
)
ZERO_KNOWLEDGE = (
    "UPDATE auth.encryption_vaults SET zero_knowledge = true, wrapped_mk = NULL, wrap_iv = NULL"
)


async def start(client: Client, *, zk: bool) -> tuple[str, str]:
    """Make a vault with a recovery wrap; return its key and its tag."""
    key = await bring(client, "zero_knowledge" if zk else "with_recovery")
    assert key is not None
    return key, tag_of(await client.key())


def keyring_of(daemon: Daemon) -> Keyring:
    return load_keyring("env:MANA_AUTH_KEK", (), environ=daemon.settings, development=False)


async def race(
    daemon: Daemon, client: Client, route: str, known: tuple[str, str], *change: Any
) -> Answer:
    """Call a route, and change the row under its hands."""
    name, _, if_match = route.partition("-")
    key, tag = known
    data_key = await data_key_of(daemon.database, keyring_of(daemon).active)
    async with held(daemon.database) as superuser:
        request = asyncio.create_task(act(client, METHODS[name], key, tag if if_match else None))
        await one_waits(daemon.database)
        await superuser.execute(*change)
        await reseal_by(superuser, data_key, "alice")
    return await request


@pytest.mark.parametrize(
    ("route", "zk", "status", "code"),
    [
        ("set", False, 200, None),
        ("set-if-match", False, 412, "STALE_GENERATION"),
        ("set-if-match", True, 412, "STALE_GENERATION"),
        ("clear-if-match", False, 412, "STALE_GENERATION"),
        ("enable", False, 400, "RECOVERY_WRAP_MISSING"),
        ("enable-if-match", False, 412, "STALE_GENERATION"),
        ("disable", True, 200, None),
        ("rotate", False, 200, None),
        ("rotate-if-match", False, 412, "STALE_GENERATION"),
    ],
)
async def test_another_device_rotates_meanwhile(
    daemon: Daemon,
    device: Callable[[str], Client],
    route: str,
    *,
    zk: bool,
    status: int,
    code: str | None,
) -> None:
    alice = device("alice")
    old = await start(alice, zk=zk)
    fresh = secrets.token_bytes(32)
    remember(encode(fresh))
    keyring = keyring_of(daemon)
    row = await daemon.database.vault("alice")
    wrap = await keyring.wrap(Binding("alice", row["generation"] + 1), fresh)
    answer = await race(
        daemon,
        alice,
        route,
        old,
        ROTATED,
        *(wrap.wrapped_mk, wrap.wrap_iv, wrap.format_version, wrap.kek_id),
        key_check_value("alice", fresh),
    )
    assert (answer.status, answer.code) == (status, code)
    assert (await daemon.database.audit("alice"))[-1][2] == status
    now = await alice.key()
    if route == "rotate":
        assert now.json == answer.json
        assert base64.b64decode(now.json["masterKey"]) != fresh
    else:
        assert base64.b64decode(now.json["masterKey"]) == fresh
    assert (await alice.status()).json["hasRecoveryWrap"] == (route == "set")


@pytest.mark.parametrize(
    ("route", "status", "code"),
    [
        ("set", 200, None),
        ("clear", 409, "ZK_ACTIVE"),
        ("enable", 200, None),
        ("rotate", 409, "ZK_ROTATE_FORBIDDEN"),
    ],
)
async def test_another_device_turns_zero_knowledge_on_meanwhile(
    daemon: Daemon, device: Callable[[str], Client], route: str, status: int, code: str | None
) -> None:
    alice = device("alice")
    key, tag = await start(alice, zk=False)
    answer = await race(daemon, alice, route, (key, tag), ZERO_KNOWLEDGE)
    assert (answer.status, answer.code) == (status, code)
    assert (await daemon.database.audit("alice"))[-1][2] == status
    assert (await alice.key()).json["requiresRecoveryCode"] is True
    assert (await alice.disable_zk(key)).status == 200
    assert (await alice.key()).json["masterKey"] == key
