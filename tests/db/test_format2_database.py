"""A database of format 2 migrates in place, and every key still opens."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.client import Client
from tests.db.format2_database import KEK, USERS, move
from tests.e2e.browser import encode, open_recovery
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer


@pytest.fixture
async def daemon(empty: Database, issuer: Issuer, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon on that database, migrated."""
    await move(empty)
    settings = {"raw_MANA_AUTH_KEK": KEK, "LEGACY_ROWS": "accept"}
    async with daemon_here(empty, issuer, tmp_path, **settings) as running:
        yield running


def test_vectors_are_what_the_tests_think() -> None:
    states = ("standard", "recovery", "zero-knowledge")
    assert [(one["state"], one["key_check"]) for one in USERS] == [
        (state, checked) for state in states for checked in (True, True, False, False)
    ]


async def test_every_key_opens(daemon: Daemon, device: Callable[[str], Client]) -> None:
    for user in USERS:
        answer = await device(user["user_id"]).key()
        assert answer.headers["ETag"] == f'"{user["generation"]}"'
        if user["state"] == "zero-knowledge":
            code = bytes.fromhex(user["recovery_code"])
            assert encode(open_recovery(code, answer.json)) == user["master_key"]
        else:
            assert answer.json["masterKey"] == user["master_key"]
