"""The sealer: every row of the audit comes under a checkpoint, whoever writes, and in any order."""

import asyncio
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from custody.audit import sealer as module
from custody.audit import settled
from custody.audit.checkpoint import Checkpoint
from custody.audit.ended_key import word_of_end
from custody.audit.head import Head, head_of
from custody.audit.keys import Keys, Word
from custody.audit.merkle import Tree
from custody.audit.note import Signer, sign
from custody.audit.sealer import AuditSealer
from custody.datakeys.data_key import DataKey
from tests.audit_log import KEEP_WORD
from tests.client import Client, client_session
from tests.datakeys import KEY, KEY_ID, FixedRing
from tests.db.connecting import engine_of
from tests.eventually import eventually
from tests.servers import Database, daemon_here
from tests.tokens import Issuer

ANOTHER_ID = "dk-01932e00000070008000000000000002"


class Rings:
    """Remembers for what it was rung."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def audit_tampered(self, reason: str) -> None:
        self.reasons.append(reason)


class Log:
    """The audit of a database, with a sealer that is always due.

    Args:
        database: which.
        engine: connections of custody_app.
    """

    def __init__(self, database: Database, engine: AsyncEngine) -> None:
        self.database = database
        self.ring = FixedRing.of()
        self.rings = Rings()
        self.sealer = AuditSealer(engine, self.ring, 0, self.rings)

    async def heads(self) -> list[Head]:
        rows = await self.database.fetch(
            "SELECT * FROM auth.encryption_audit_checkpoints ORDER BY number"
        )
        found = [head_of(row, Keys(self.ring.open_keys)) for row in rows]
        assert None not in found
        return [one for one in found if one is not None]

    async def add(self, number: int = 1, user: str = "alice") -> None:
        await self.database.execute(
            "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status)"
            " SELECT gen_random_uuid()::text, $2, 'fetch', 200 FROM generate_series(1, $1)",
            number,
            user,
        )


@pytest.fixture
def audit(database: Database, engine: AsyncEngine) -> Log:
    return Log(database, engine)


async def test_all_rows_are_under_a_checkpoint_that_a_data_key_has_signed(audit: Log) -> None:
    assert await audit.sealer.seal() == 0
    assert await audit.heads() == []
    await audit.add(5)
    assert await audit.sealer.seal() == 5
    await audit.add(2)
    assert await audit.sealer.seal() == 2
    assert await audit.sealer.seal() == 0
    first, second = await audit.heads()
    assert [one.word for one in (first, second)] == [Word.OURS] * 2
    assert [(one.tree.size, one.checkpoint.last_row) for one in (first, second)] == [(5, 5), (7, 7)]
    assert first.checkpoint.origin == second.checkpoint.origin
    leaves = await audit.database.fetch("SELECT leaves FROM auth.custody_audit_leaves(5, 7, 10)")
    assert first.tree.extended(leaves[0]["leaves"]) == second.tree
    assert audit.rings.reasons == []


async def test_many_pages(audit: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 10)
    await audit.add(25)
    # Numbers without rows, as a transaction that was rolled back leaves them.
    await audit.database.execute("SELECT setval('auth.encryption_vault_audit_number_seq', 100)")
    await audit.add(1)
    assert await audit.sealer.seal() == 26
    heads = await audit.heads()
    assert [one.tree.size for one in heads] == [10, 20, 25, 26]
    assert heads[-1].checkpoint.last_row == 101


async def test_pages_follow_one_another_at_once(
    audit: Log, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That there is a checkpoint of just now holds up none but the first page."""
    monkeypatch.setattr(module, "_PAGE", 10)
    await audit.add(25)
    assert await AuditSealer(engine, audit.ring, 3600, audit.rings).seal() == 25


async def test_how_far_it_is_is_shown(audit: Log, engine: AsyncEngine) -> None:
    metrics = Mock()
    sealer = AuditSealer(engine, audit.ring, 0, audit.rings, metrics)
    await audit.add(3)
    begun = time.time()
    assert await sealer.seal() == 3
    (until,) = metrics.sealed_until.call_args.args
    assert begun <= until <= time.time()
    assert metrics.mock_calls == [call.sealed(3), call.waiting(0), call.sealed_until(until)]


async def test_who_has_not_looked_to_the_end_shows_nothing(audit: Log, engine: AsyncEngine) -> None:
    metrics = Mock()
    sealer = AuditSealer(engine, audit.ring, 30, audit.rings, metrics)
    await audit.add(1)
    await audit.sealer.seal()
    await audit.add(1)
    assert await sealer.seal() == 0
    assert metrics.mock_calls == []
    sealer._behind = 2
    sealer._show(1, 0.0)
    assert metrics.mock_calls == [call.sealed(1), call.waiting(2)]


async def test_a_row_that_is_written_late_is_waited_for(audit: Log) -> None:
    """Whoever draws a number first may commit last: no row comes below a checkpoint."""
    async with audit.database.connect("custody_owner") as slow:
        writing = slow.transaction()
        await writing.start()
        await slow.execute("SELECT set_config('app.current_user_id', 'bob', true)")
        await slow.execute(
            "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status)"
            " VALUES ('late', 'bob', 'fetch', 200)"
        )
        await audit.add(3)
        sealing = asyncio.create_task(audit.sealer.seal())
        await asyncio.sleep(3 * settled.LOOK_SECONDS)
        assert not sealing.done()
        assert await audit.heads() == []
        await writing.commit()
    assert await sealing == 4
    assert [one.tree.size for one in await audit.heads()] == [4]


async def test_one_that_writes_for_ever_is_not_waited_for(
    audit: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settled, "WRITER_SECONDS", 0.2)
    async with audit.database.connect("custody_owner") as slow, slow.transaction():
        await slow.execute("LOCK TABLE auth.encryption_vault_audit IN ROW EXCLUSIVE MODE")
        await audit.add(1)
        assert await audit.sealer.seal() is None
    assert await audit.sealer.seal() == 1


async def test_what_it_waits_for_is_said_once_until_it_works_again(
    audit: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = [None, None, 0, None]

    async def seal() -> int | None:
        if not rounds:
            await asyncio.Event().wait()
        return rounds.pop(0)

    monkeypatch.setattr(audit.sealer, "seal", seal)
    with capture_logs() as logs:
        async with audit.sealer.sealing():
            await eventually(lambda: not rounds)
    reason = "a transaction that has written to the audit does not end"
    assert [(one["event"], one["reason"]) for one in logs] == [("audit_seal_waits", reason)] * 2


async def test_clock_that_is_set_back_leaves_no_hole(audit: Log) -> None:
    await audit.add(1)
    assert await audit.sealer.seal() == 1
    await audit.database.execute(
        "INSERT INTO auth.encryption_vault_audit (id, user_id, action, status, created_at)"
        " VALUES ('earlier', 'bob', 'fetch', 200, now() - interval '1 hour')"
    )
    await audit.database.execute(
        "UPDATE auth.encryption_audit_checkpoints SET made_at = now() + interval '1 hour'"
    )
    assert await audit.sealer.seal() == 1


async def test_many_sealers_make_one_chain(audit: Log) -> None:
    async def keep_adding() -> None:
        for _ in range(20):
            await audit.add(3)

    async def keep_sealing() -> int:
        async with engine_of(audit.database.url("custody_app"), 2) as engine:
            sealer = AuditSealer(engine, audit.ring, 0, audit.rings)
            return sum([await sealer.seal() or 0 for _ in range(10)])

    *sealed, _ = await asyncio.gather(*(keep_sealing() for _ in range(3)), keep_adding())
    rest = await audit.sealer.seal()
    assert sum(one for one in sealed if one) + (rest or 0) == 60
    sizes = [one.tree.size for one in await audit.heads()]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 60
    assert audit.rings.reasons == []


async def test_a_checkpoint_of_just_now_is_enough(audit: Log, engine: AsyncEngine) -> None:
    await audit.add(1)
    await audit.sealer.seal()
    await audit.add(1)
    assert await AuditSealer(engine, audit.ring, 30, audit.rings).seal() == 0


async def test_a_new_data_key_signs_soon_rows_or_not(audit: Log) -> None:
    await audit.add(3)
    await audit.sealer.seal()
    audit.ring.add(DataKey.of(ANOTHER_ID, bytes(32)))
    assert await audit.sealer.seal() == 0
    assert await audit.sealer.seal() == 0
    before, after = await audit.heads()
    assert before.tree == after.tree
    # The first key is no more: what it has signed is under what the second one says.
    audit.ring.forget(KEY_ID)
    assert [one.word for one in await audit.heads()] == [Word.UNKNOWN, Word.OURS]
    await audit.add(1)
    assert await audit.sealer.seal() == 1
    assert audit.rings.reasons == []


async def test_without_a_data_key_nothing_is_sealed(audit: Log) -> None:
    await audit.add(1)
    audit.ring.close()
    assert await audit.sealer.seal() == 0
    assert await audit.heads() == []


@pytest.mark.parametrize(
    "tamper",
    [
        "note = replace(note, E'\\n2\\n', E'\\n3\\n')",
        "note = 'nothing'",
        "note = ''",
        "size = 7",
        "hashes = sha256('')",
        "hashes = ''",
    ],
)
async def test_a_checkpoint_that_is_not_what_was_signed_is_not_gone_on_from(
    audit: Log, tamper: str
) -> None:
    await audit.add(1)
    await audit.sealer.seal()
    await audit.add(1)
    await audit.sealer.seal()
    await audit.database.execute(
        f"UPDATE auth.encryption_audit_checkpoints SET {tamper} WHERE number = 2"  # noqa: S608
    )
    await audit.add(1)
    fresh = AuditSealer(audit.sealer._engine, audit.ring, 0, audit.rings)
    assert await fresh.seal() == 2
    assert audit.rings.reasons == ["checkpoint"]
    last = await audit.database.fetch(
        "SELECT * FROM auth.encryption_audit_checkpoints WHERE number = 3"
    )
    head = head_of(last[0], Keys(audit.ring.open_keys))
    assert head is not None
    assert head.tree.size == 3
    assert await fresh.seal() == 0
    assert audit.rings.reasons == ["checkpoint"]


async def test_where_no_checkpoint_is_left_to_go_on_from_it_waits_for_people(audit: Log) -> None:
    await audit.add(1)
    await audit.sealer.seal()
    await audit.database.execute("UPDATE auth.encryption_audit_checkpoints SET note = 'x'")
    await audit.add(1)
    fresh = AuditSealer(audit.sealer._engine, audit.ring, 0, audit.rings)
    assert await fresh.seal() == 0
    assert audit.rings.reasons == ["checkpoint"]


async def test_a_log_that_has_become_shorter_rings(audit: Log) -> None:
    for _ in range(2):
        await audit.add(1)
        await audit.sealer.seal()
    await audit.database.execute(
        "DELETE FROM auth.encryption_audit_checkpoints WHERE number = 2;"
        "DELETE FROM auth.encryption_vault_audit WHERE number = 2"
    )
    await audit.add(1)
    assert await audit.sealer.seal() == 1
    assert audit.rings.reasons == ["shorter"]


async def test_the_daemon_seals(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    async with (
        daemon_here(database, issuer, tmp_path, AUDIT_SEAL_INTERVAL="1") as daemon,
        client_session() as session,
    ):
        alice = Client(daemon, session, "alice")
        assert (await alice.init()).status == 200
        assert (await alice.key()).status == 200
        assert (await Client(daemon, session, "bob").key()).status == 404

        async def sealed() -> bool:
            size = "SELECT max(size) FROM auth.encryption_audit_checkpoints"
            return bool(await database.value(size) == 3)

        await eventually(sealed)


ADD = "SELECT auth.custody_add_audit_checkpoint($1, $2, $3, $4, $5)"
REPLAY = """
INSERT INTO auth.encryption_audit_checkpoints (number, size, last_row, hashes, note)
SELECT number + 1, size, last_row + $1, hashes, note FROM auth.encryption_audit_checkpoints
ORDER BY number DESC LIMIT 1
"""


@pytest.mark.parametrize("further", [2**62, 1, -1])
async def test_nobody_else_says_which_rows_a_checkpoint_is_over(audit: Log, further: int) -> None:
    """Rows that seemed to be sealed would never be, and could be deleted unseen."""
    await audit.add(3)
    await audit.sealer.seal()
    await audit.database.execute(REPLAY, further)
    await audit.add(2)
    assert await audit.sealer.seal() == 2
    assert audit.rings.reasons == ["checkpoint"]


async def test_a_stranger_cannot_push_our_checkpoints_out_of_sight(audit: Log) -> None:
    """Whoever has the password of custody_app adds checkpoints of his own, as many as he likes."""
    await audit.add(3)
    await audit.sealer.seal()
    (ours,) = await audit.heads()
    his = Ed25519PrivateKey.generate()
    origin, tree = ours.checkpoint.origin, Tree().extended(bytes(32) * 3)
    said = Checkpoint(origin, tree.size, tree.root, 3)
    for behind in range(1, 2 * module._LOOK_BACK):
        columns = behind, tree.size, 3, tree.hashes, sign(said.text, Signer(origin, his))
        async with audit.database.connect("custody_app") as thief:
            assert await thief.fetchval(ADD, *columns)
    await audit.add(1)
    assert await audit.sealer.seal() == 1
    last = (await audit.heads())[-1]
    leaves = await audit.database.fetch("SELECT leaves FROM auth.custody_audit_leaves(3, 4, 10)")
    assert last.tree == ours.tree.extended(leaves[0]["leaves"])


async def test_history_that_was_written_anew_rings_where_it_was_seen(audit: Log) -> None:
    """As long as before, and each checkpoint signed: by a key of his own."""
    await audit.add(3)
    await audit.sealer.seal()
    (ours,) = await audit.heads()
    his = Ed25519PrivateKey.generate()
    origin, tree = ours.checkpoint.origin, Tree().extended(bytes(32) * 3)
    said = Checkpoint(origin, tree.size, tree.root, 3)
    await audit.database.execute(
        "UPDATE auth.encryption_audit_checkpoints SET hashes = $1, note = $2",
        *(tree.hashes, sign(said.text, Signer(origin, his))),
    )
    await audit.add(1)
    await audit.sealer.seal()
    assert audit.rings.reasons == ["shorter"]


async def test_a_leap_of_the_numbers_is_one_step(audit: Log) -> None:
    await audit.add(1)
    await audit.database.execute(
        "SELECT setval('auth.encryption_vault_audit_number_seq', 1::bigint << 62)"
    )
    await audit.add(1)
    assert await asyncio.wait_for(audit.sealer.seal(), 10) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"note": "junk"},
        {"note": ""},
        {"size": 4},
        {"last_row": 4},
        {"hashes": b""},
        {"hashes": bytes(96)},
        {"note": f"his\n3\n{'A' * 43}=\nlast-row 3\n\n{'long' * 500}"},
    ],
    ids=["junk", "empty", "size", "last row", "no hashes", "more hashes", "long"],
)
async def test_the_database_takes_nothing_that_can_be_no_checkpoint(
    audit: Log, change: dict[str, Any]
) -> None:
    """Whoever has the password of custody_app may add checkpoints: small ones alone."""
    tree = Tree().extended(bytes(32) * 3)
    said = Checkpoint("his", tree.size, tree.root, 3)
    note = sign(said.text, Signer("his", Ed25519PrivateKey.generate()))
    columns = {"behind": 0, "size": 3, "last_row": 3, "hashes": tree.hashes, "note": note} | change
    async with audit.database.connect("custody_app") as thief:
        with pytest.raises(asyncpg.InvalidParameterValueError, match="this is no checkpoint"):
            await thief.fetchval(ADD, *columns.values())


async def test_nobody_has_the_whole_audit_hashed_at_once(audit: Log) -> None:
    await audit.add(1)
    await audit.database.execute(
        "SELECT setval('auth.encryption_vault_audit_number_seq', 100000, false)"
    )
    await audit.add(3)
    async with audit.database.connect("custody_app") as thief:
        for most, last_row, count in ((2**31 - 1, 100_000, 2), (-1, 1, 1)):
            (page,) = await thief.fetch(
                "SELECT * FROM auth.custody_audit_leaves(0, 200000, $1)", most
            )
            assert (page["last_row"], page["count"]) == (last_row, count)


async def test_it_goes_on_from_what_an_ended_data_key_signed_and_from_no_strangers(
    audit: Log,
) -> None:
    await audit.add(3)
    await audit.sealer.seal()
    (ours,) = await audit.heads()
    new = DataKey.of(ANOTHER_ID, bytes(32))
    word = word_of_end(DataKey.of(KEY_ID, KEY), 3, new)
    await audit.database.execute(KEEP_WORD, new.id, new.own_seal, word)
    audit.ring.add(new)
    audit.ring.forget(KEY_ID)
    his, tree = Ed25519PrivateKey.generate(), Tree().extended(bytes(32) * 3)
    said = Checkpoint(ours.checkpoint.origin, tree.size, tree.root, 3)
    columns = 1, tree.size, 3, tree.hashes, sign(said.text, Signer(said.origin, his))
    async with audit.database.connect("custody_app") as thief:
        assert await thief.fetchval(ADD, *columns)
    assert await audit.sealer.seal() == 0
    assert (await audit.heads())[-1].tree == ours.tree


async def test_a_log_begins_once_and_says_so(audit: Log) -> None:
    """A second time means that its checkpoints are gone, which nothing in the database shows."""
    with capture_logs() as logs:
        for _ in range(2):
            await audit.add(1)
            await audit.sealer.seal()
    (begun,) = [one for one in logs if one["event"] == "audit_log_begun"]
    (first, _) = await audit.heads()
    assert begun["origin"] == first.checkpoint.origin
