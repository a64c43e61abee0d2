"""Somebody writes every table, before a prune, during it and behind it: he wins nothing by it."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from custody.audit.checkpoint import Checkpoint
from custody.audit.events import Action
from custody.audit.findings import Kind
from custody.audit.head import head_of
from custody.audit.history import Known
from custody.audit.holding import NotHeld
from custody.audit.keys import Keys
from custody.audit.note import parse
from custody.audit.pruned import NONE, Pruned, digest_of, signed
from custody.audit.reading import Reader
from custody.audit.verify import PrunedMeanwhile
from custody.datakeys.data_key import DataKey
from custody.db.errors import Busy
from tests.audit_log import AuditLog
from tests.datakeys import FixedRing
from tests.db.test_audit_tamperings import KEEP, PUT_BACK
from tests.proofs import some
from tests.pruning import changing_log, export, grow, prune, rows
from tests.servers import Database


@pytest.fixture
async def log(database: Database) -> AuditLog:
    return await changing_log(database)


@pytest.fixture
async def file(log: AuditLog, tmp_path: Path) -> Path:
    return await export(log, tmp_path / "audit.jsonl")


def known(note: str) -> Known:
    said = Checkpoint.parse(parse(note).text)
    return Known(said.size, said.root)


async def test_a_damaged_log_is_not_pruned(log: AuditLog, file: Path) -> None:
    await log.database.execute("UPDATE auth.encryption_vault_audit SET status = 1 WHERE number = 2")
    with pytest.raises(NotHeld, match="rows 1 to 40 are not what was sealed"):
        await prune(log, [file])
    assert len(await rows(log)) == 40
    damaged = await export(log, file.with_name("damaged"))
    with pytest.raises(
        NotHeld, match="rows 1 to 8 are not what was sealed, in the export and here"
    ):
        await prune(log, [damaged])


EDIT = "UPDATE auth.encryption_vault_audit SET status = 299 WHERE number = {}"
DELETE = "DELETE FROM auth.encryption_vault_audit WHERE number = {}"
PUT_IN = (
    "INSERT INTO auth.encryption_vault_audit (number, id, user_id, action, status, state)"
    " OVERRIDING SYSTEM VALUE VALUES ({}, 'put-in', 'changer-1', 'rotate', 200, 'x')"
)
OLDER_CHECKPOINT = (
    "INSERT INTO auth.encryption_audit_checkpoints SELECT 4, size, last_row, hashes, note"
    " FROM auth.encryption_audit_checkpoints WHERE number = 5"
)


BEHIND = [
    (EDIT.format(28), Kind.CHANGED),
    (DELETE.format(28), Kind.MISSING),
    (DELETE.format(36), Kind.MISSING),
    (PUT_IN.format(30), Kind.ADDED),
    (PUT_IN.format(0), Kind.ADDED),
    (EDIT.format(44), Kind.CHANGED),
    (DELETE.format(44), Kind.MISSING),
    (PUT_IN.format(400), Kind.NO_SEAL),
    ("UPDATE auth.encryption_audit_prunes SET note = replace(note, '2', '3')", Kind.PRUNE),
    ("UPDATE auth.encryption_audit_prunes SET note = 'junk'", Kind.PRUNE),
    ("UPDATE auth.encryption_audit_prunes SET checkpoint = 6", Kind.PRUNE),
    ("UPDATE auth.encryption_audit_prunes SET hashes = sha256('')", Kind.PRUNE),
    ("DELETE FROM auth.encryption_audit_prunes", Kind.GAP),
    ("DELETE FROM auth.encryption_audit_checkpoints WHERE number = 5", Kind.PRUNE),
    ("UPDATE auth.encryption_audit_checkpoints SET size = 1 WHERE number = 5", Kind.PRUNE),
    ("DELETE FROM auth.encryption_audit_checkpoints WHERE number = 6", Kind.GAP),
    (OLDER_CHECKPOINT, Kind.PRUNE),
]


async def test_what_is_done_behind_a_prune(log: AuditLog, file: Path) -> None:
    await prune(log, [file])
    for _ in range(2):
        await grow(log, "changer-1")
    assert (await log.verify()).is_good
    await log.database.execute(KEEP)
    for tampering, kind in BEHIND:
        await log.database.execute(tampering)
        assert kind in (await log.verify()).counts, tampering
        await log.database.execute(PUT_BACK)
    assert (await log.verify()).is_good


async def test_a_made_up_prune(log: AuditLog, tmp_path: Path) -> None:
    """Nobody without a data key lets go of rows, nor by an older word of ours."""
    await prune(log, [await export(log, tmp_path / "one")])
    older = await log.database.fetch("SELECT * FROM auth.encryption_audit_prunes")
    for number in range(3):
        await grow(log, f"changer-{number}")
    await prune(log, [await export(log, tmp_path / "two")])
    assert (await log.verify()).is_good
    for changes in ({}, {"checkpoint": 8}):
        said = {**older[0], **changes}
        await log.database.execute(
            "UPDATE auth.encryption_audit_prunes SET checkpoint = $1, hashes = $2, note = $3",
            *(said["checkpoint"], said["hashes"], said["note"]),
        )
        assert Kind.PRUNE in (await log.verify()).counts


SWAP = """
UPDATE auth.encryption_audit_checkpoints AS base
SET (size, last_row, hashes, note) = (later.size, later.last_row, later.hashes, later.note)
FROM auth.encryption_audit_checkpoints AS later WHERE base.number = 5 AND later.number = 7;
DELETE FROM auth.encryption_audit_checkpoints WHERE number IN (6, 7);
UPDATE auth.encryption_audit_checkpoints SET number = 6 WHERE number = 8;
DELETE FROM auth.encryption_vault_audit WHERE number BETWEEN 41 AND 57
"""


async def test_a_later_checkpoint_in_place_of_the_first(log: AuditLog, file: Path) -> None:
    """As if the prune had come so far: the rows between them would be gone unseen."""
    await prune(log, [file])
    for _ in range(3):
        await grow(log, "changer-1")
    assert await log.database.value("SELECT max(number) FROM auth.encryption_vault_audit") == 65
    await log.database.execute(SWAP)
    assert Kind.PRUNE in (await log.verify()).counts


@pytest.mark.parametrize("tampering", [EDIT.format(28), DELETE.format(28), PUT_IN.format(30)])
async def test_rows_that_were_kept_are_held_before_a_prune(
    log: AuditLog, tmp_path: Path, tampering: str
) -> None:
    await prune(log, [await export(log, tmp_path / "one")])
    await grow(log, "changer-0")
    await log.database.execute(tampering)
    before = await rows(log)
    with pytest.raises(NotHeld, match="the last prune"):
        await prune(log, tmp_path / "two")
    assert await rows(log) == before


async def test_a_row_that_goes_was_deleted_a_moment_ago(log: AuditLog, tmp_path: Path) -> None:
    await prune(log, [await export(log, tmp_path / "one")])
    await grow(log, "changer-0")
    with pytest.raises(NotHeld, match="rows are gone that were there a moment ago"):
        await prune(log, tmp_path / "two", meanwhile=DELETE.format(36))


# ── during a prune ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "attack",
    some(
        [(how, number) for how in (EDIT, DELETE, PUT_IN) for number in (28, 45, 52)],
        *((EDIT, 28), (DELETE, 52), (PUT_IN, 45)),
    ),
)
async def test_what_is_done_during_a_prune(
    log: AuditLog, tmp_path: Path, attack: tuple[str, int]
) -> None:
    """Nobody has an edited row signed, or another row deleted."""
    meanwhile, number = attack
    await prune(log, [await export(log, tmp_path / "one")])
    for one in range(2):
        await grow(log, f"changer-{one * 2}")
    file = await export(log, tmp_path / "two")
    if meanwhile is PUT_IN:
        await log.database.execute("DELETE FROM auth.encryption_vault_audit WHERE number = 45")
        number = {28: 29, 45: 45, 52: 70}[number]
    with suppress(NotHeld):
        await prune(log, [file], meanwhile=meanwhile.format(number))
    assert (await log.verify()).counts, await rows(log)


async def test_two_prunes_at_once(log: AuditLog, file: Path) -> None:
    done = await asyncio.gather(*(prune(log, [file]) for _ in range(2)), return_exceptions=True)
    assert any(not isinstance(one, BaseException) for one in done)
    assert (await rows(log), (await log.verify()).is_good) == ([28, 36], True)


async def test_a_prune_while_it_is_verified(
    log: AuditLog, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found then may be of both: it is to be verified again."""
    tail = Reader.tail

    async def prune_and_tail(self: Reader, above: int) -> object:
        await prune(log, [file])
        return await tail(self, above)

    monkeypatch.setattr(Reader, "tail", prune_and_tail)
    with pytest.raises(PrunedMeanwhile):
        await log.verify()
    monkeypatch.undo()
    assert (await log.verify()).is_good


async def test_a_prune_by_somebody_else_meanwhile(log: AuditLog, tmp_path: Path) -> None:
    await prune(log, [await export(log, tmp_path / "one")])
    await grow(log, "changer-0")
    with pytest.raises(Busy):
        await prune(
            log,
            tmp_path / "two",
            meanwhile="UPDATE auth.encryption_audit_prunes SET note = 'another'",
        )


# ── data keys that were ended ─────────────────────────────────────────────────

NEW = DataKey.of("dk-01932e00000070008000000000000002", bytes(range(1, 33)))


async def test_the_data_key_of_a_prune_was_ended(log: AuditLog, file: Path) -> None:
    """The log shows that the prune was ours: it has a row of it."""
    (old,) = log.ring.open_keys
    await prune(log, [file])
    await log.seal()
    log.ring.add(NEW)
    await log.end(old)
    await grow(log, "changer-1")
    report = await log.verify([known(log.notes[-1])])
    assert report.is_good, report.findings
    await prune(log, file.with_name("two"))
    assert (await rows(log), (await log.verify()).is_good) == ([36, 45], True)


async def test_who_has_an_ended_data_key_makes_up_no_prune(log: AuditLog, file: Path) -> None:
    """He signs what is left as it was signed then, and adds a row of it now."""
    (old,) = log.ring.open_keys
    log.ring.add(NEW)
    await log.end(old)
    await grow(log, "changer-1")
    thief = AuditLog(log.database, FixedRing.with_keys(old))
    last = await log.database.fetch("SELECT * FROM auth.encryption_audit_checkpoints")
    head = head_of(last[4], Keys([old]))
    assert head is not None
    note = signed(Pruned.at(head.checkpoint, 5, NONE), old)
    await log.database.execute("DELETE FROM auth.encryption_vault_audit WHERE number <= 40")
    await log.database.execute("DELETE FROM auth.encryption_audit_checkpoints WHERE number < 5")
    await log.database.execute(
        "INSERT INTO auth.encryption_audit_prunes (checkpoint, hashes, note) VALUES (5, '', $1)",
        note,
    )
    assert (await log.verify()).counts == {Kind.PRUNE: 1}
    await grow(log, "changer-1")
    with pytest.raises(NotHeld, match="nothing shows that the last prune is ours"):
        await prune(log, file.with_name("two"))
    row = log.event(action=Action.PRUNE, user_id="", context=digest_of(note), status=503)
    await thief.write(row)
    await thief.write(row._replace(id="another"), sealed=False)
    await log.seal()
    assert (await log.verify()).counts == {Kind.UNKNOWN_KEY: 1, Kind.PRUNE: 1}
    with pytest.raises(NotHeld, match="nothing shows that the last prune is ours"):
        await prune(log, file.with_name("three"))
