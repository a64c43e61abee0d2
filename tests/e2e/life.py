"""The whole life of a user's vault, as the web client lives it, against any running daemon."""

import secrets
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import aiohttp
import pytest
from cryptography.exceptions import InvalidTag

from tests.client import Answer, client_session
from tests.e2e.browser import (
    Browser,
    NeedsRecoveryCode,
    encode,
    new_recovery_code,
)
from tests.http.wire import assert_problem
from tests.servers import Daemon

NOTE = b"what only alice may read"

# What the life leaves in the audit trail: action, context, status.
TRAIL: list[tuple[str, str | None, int]] = [
    # the first device
    ("failed_fetch", "not-initialised", 404),
    ("init", "created", 200),
    ("recovery_set", None, 200),
    ("zk_enable", None, 200),
    # a second one, without and with the code, then with a wrong one
    ("fetch", "zk-recovery-blob", 200),
    ("fetch", "zk-recovery-blob", 200),
    ("fetch", "zk-recovery-blob", 200),
    # a new code; what must not be done meanwhile
    ("recovery_set", None, 200),
    ("fetch", "zk-recovery-blob", 200),
    ("fetch", "zk-recovery-blob", 200),
    ("recovery_clear", "zk-active", 409),
    ("rotate", "zk-rotate-forbidden", 409),
    # zero-knowledge mode off
    ("zk_disable", "master-key-mismatch", 409),
    ("zk_disable", None, 200),
    ("fetch", None, 200),
    # a fresh key
    ("rotate", None, 200),
    # the stale device
    ("recovery_set", "stale-generation", 412),
    ("zk_enable", "stale-generation", 412),
    ("recovery_clear", "stale-generation", 412),
    ("rotate", "stale-generation", 412),
    ("fetch", None, 200),
]


async def live(daemon: Daemon, user: str, session: aiohttp.ClientSession | None = None) -> None:
    """Live it. The user must be new; the daemon may have any KEK.

    Args:
        daemon: where.
        user: who.
        session: by which they come; None: one of its own.
    """
    async with nullcontext(session) if session else client_session() as opened:
        await _live(partial(Browser, daemon, opened, user))
    assert await daemon.database.audit(user) == TRAIL


async def _live(device: Callable[[], Browser]) -> None:
    phone = device()
    database, user = phone.daemon.database, phone.user
    assert await _status(phone) == (False, False, False)
    await phone.sign_in()
    first, generation = phone.held, phone.generation
    note = phone.encrypt(NOTE)
    code = new_recovery_code()
    _ok(await phone.keep(code), {"ok": True})
    assert await _status(phone) == (True, True, False)
    _ok(await phone.enable_zk(), {"ok": True, "zeroKnowledge": True})
    assert await _status(phone) == (True, True, True)
    row = await database.vault(user)
    assert row["wrapped_mk"] is row["wrap_iv"] is None

    laptop = device()
    with pytest.raises(NeedsRecoveryCode):
        await laptop.sign_in()
    await laptop.sign_in(code)
    assert laptop.held == first
    assert laptop.generation == generation
    assert laptop.decrypt(note) == NOTE
    with pytest.raises(InvalidTag):
        await device().sign_in(new_recovery_code())

    new_code = new_recovery_code()
    _ok(await laptop.keep(new_code), {"ok": True})
    tablet = device()
    await tablet.sign_in(new_code)
    assert tablet.decrypt(note) == NOTE
    with pytest.raises(InvalidTag):
        await device().sign_in(code)
    assert_problem(await tablet.clear_recovery(), 409, "ZK_ACTIVE")
    assert_problem(await tablet.rotate(), 409, "ZK_ROTATE_FORBIDDEN")

    wrong = await laptop.disable_zk(encode(secrets.token_bytes(32)))
    assert_problem(wrong, 409, "MASTER_KEY_MISMATCH")
    assert await _status(laptop) == (True, True, True)
    _ok(await laptop.disable_zk(encode(laptop.held)), {"ok": True, "zeroKnowledge": False})
    assert await _status(laptop) == (True, True, False)
    await phone.sign_in()
    assert phone.held == first
    assert phone.generation == generation
    assert phone.decrypt(note) == NOTE

    assert (await laptop.rotate()).status == 200
    second = laptop.held
    assert second != first
    assert laptop.generation > phone.generation
    assert await _status(laptop) == (True, False, False)
    with pytest.raises(InvalidTag):
        laptop.decrypt(note)
    note = laptop.encrypt(NOTE)

    # The phone slept through it: nothing that it believes may harm the new key.
    before = await database.vault(user)
    assert_problem(await phone.keep(new_code), 412, "STALE_GENERATION")
    assert_problem(await phone.enable_zk(), 412, "STALE_GENERATION")
    assert_problem(await phone.clear_recovery(), 412, "STALE_GENERATION")
    assert_problem(await phone.rotate(), 412, "STALE_GENERATION")
    assert await database.vault(user) == before
    await phone.sign_in()
    assert phone.held == second
    assert phone.decrypt(note) == NOTE
    # No call was tried twice: the trail would show it.
    assert all(answer.status < 500 for answer in phone.answers + laptop.answers + tablet.answers)


async def _status(browser: Browser) -> tuple[bool, bool, bool]:
    answer = await browser.call("GET", "/status")
    assert answer.status == 200
    body = answer.json
    assert sorted(body) == ["hasRecoveryWrap", "recoverySetAt", "vaultExists", "zeroKnowledge"]
    assert (body["recoverySetAt"] is not None) == body["hasRecoveryWrap"]
    return body["vaultExists"], body["hasRecoveryWrap"], body["zeroKnowledge"]


def _ok(answer: Answer, body: dict[str, bool]) -> None:
    assert (answer.status, answer.json) == (200, body)
