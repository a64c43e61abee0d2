"""Seals of audit rows: nobody writes a row but a daemon, and none is changed unseen."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.events import Action, Event, event_id
from custody.audit.row_seal import RowSeals
from custody.audit.writer import write, write_together
from custody.datakeys.data_key import DataKey
from custody.datakeys.ring import Ring
from custody.db.checkout import acquire
from custody.db.scope import transaction
from custody.vault.sealed_state import SealedState, state_digest
from tests.client import Client, client_session
from tests.datakeys import KEY_ID, FixedRing
from tests.servers import Daemon, Database

ROWS = "SELECT * FROM auth.encryption_vault_audit ORDER BY number"
STATE = "0" * 64


def events() -> list[Event]:
    return [
        Event(event_id(), "alice", "203.0.113.7", "Browser/1", Action.FETCH, None, 200),
        Event(event_id(), "älice ⚷", None, None, Action.FAILED_FETCH, "not-initialised", 404),
        Event(event_id(), "bob", "2001:db8::1", None, Action.ROTATE, None, 200, STATE),
        Event(event_id(), "bob", None, "-", Action.ROTATE, "", 200, STATE),
    ]


async def judged(database: Database, ring: Ring) -> list[bool | None]:
    seals = RowSeals(ring)
    return [seals.judge(dict(row)) for row in await database.fetch(ROWS)]


@pytest.fixture
async def ring(database: Database, engine: AsyncEngine) -> FixedRing:
    """A ring, and rows that were written with it: together, and one by one."""
    ring = FixedRing.of()
    async with acquire(engine, None) as connection:
        await write_together(connection, events(), 2e9, RowSeals(ring))
    for event in events():
        async with transaction(engine) as connection:
            await connection.execute(
                "SELECT set_config('app.current_user_id', $1, true)", event.user_id
            )
            await write(connection, event, RowSeals(ring))
    return ring


async def test_rows_are_as_they_were_written(database: Database, ring: FixedRing) -> None:
    assert await judged(database, ring) == [True] * 8


@pytest.mark.parametrize(
    "change",
    [
        "id = id || 'x'",
        "user_id = 'mallory'",
        "action = 'init'",
        "ip_address = '203.0.113.8'",
        "user_agent = 'Browser/2'",
        "context = 'created'",
        "status = 201",
        "state = repeat('1', 64)",
        "seal = seal || '\\x00'",
        "seal = substr(seal, 1, 20)",
        "seal = set_byte(seal, 4, get_byte(seal, 4) # 1)",
        "seal = set_byte(seal, 35, get_byte(seal, 35) # 1)",
    ],
)
async def test_a_row_that_was_changed_is_seen(
    database: Database, ring: FixedRing, change: str
) -> None:
    await database.execute(f"UPDATE auth.encryption_vault_audit SET {change}")  # noqa: S608
    assert not any(await judged(database, ring))


async def test_a_seal_is_of_its_own_row_alone(database: Database, ring: FixedRing) -> None:
    await database.execute(
        "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status, seal)"
        " SELECT 'another', user_id, action, status, seal FROM auth.encryption_vault_audit"
        " WHERE number = 1"
    )
    assert await judged(database, ring) == [True] * 8 + [False]


async def test_without_address_and_user_agent_the_seal_still_holds(
    database: Database, ring: FixedRing
) -> None:
    await database.execute(
        "UPDATE auth.encryption_vault_audit SET ip_address = NULL, user_agent = NULL"
    )
    assert await judged(database, ring) == [True] * 8


async def test_the_hash_of_a_client_is_another_one_in_each_row(
    database: Database, ring: FixedRing
) -> None:
    hashes = await database.fetch(
        "SELECT DISTINCT substr(seal, 5, 16) FROM auth.encryption_vault_audit"
    )
    assert len(hashes) == 8


async def test_another_data_key_judges_nothing(database: Database, ring: FixedRing) -> None:
    other = FixedRing.of(bytes(32), "dk-01932e00000070008000000000000002")
    assert await judged(database, other) == [None] * 8
    # It has the same name, and is another key.
    assert await judged(database, FixedRing.of(bytes(32), KEY_ID)) == [False] * 8
    other.add(DataKey.of(KEY_ID, bytes(range(32))))
    assert await judged(database, other) == [True] * 8


def test_no_data_key_no_seal(ring: FixedRing) -> None:
    ring.close()
    assert RowSeals(ring).of(events()[0]) is None


# ── what a daemon writes ─────────────────────────────────────────────────────


def test_a_state_is_that_of_one_user_and_does_not_count_reseals() -> None:
    state = SealedState(7, 3, False, "check", None, 1, None, True)
    digest = state_digest("alice", state)
    assert digest == state_digest("alice", state._replace(serial=4))
    others: list[dict[str, Any]] = [
        {"generation": 8},
        {"zero_knowledge": True},
        {"key_check": None},
        {"recovery_digest": "d"},
        {"recovery_format_version": 2},
        {"recovery_set_at": "1.000000"},
        {"has_wrap": False},
    ]
    digests = {state_digest("alice", state._replace(**other)) for other in others}
    assert len(digests | {digest, state_digest("bob", state)}) == len(others) + 2


async def test_each_row_of_a_daemon_has_a_seal_and_each_change_a_state(daemon: Daemon) -> None:
    database = daemon.database
    async with client_session() as session:
        alice = Client(daemon, session, "alice")
        for answer in (await alice.init(), await alice.key(), await alice.rotate()):
            assert answer.status == 200
        assert (await alice.enable_zk()).status == 400
    rows = await database.fetch(ROWS)
    assert [(row["action"], row["state"] is not None) for row in rows] == [
        ("init", True),
        ("fetch", False),
        ("rotate", True),
        ("zk_enable", False),
    ]
    assert None not in [row["seal"] for row in rows]
    assert len({row["state"] for row in rows}) == 3
