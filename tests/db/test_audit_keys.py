"""``custody audit verify`` over the life of data keys: of those that are no more, too."""

import asyncio

import pytest

from custody.audit import verify
from custody.audit.checkpoint import Checkpoint
from custody.audit.ended_key import word_of_end
from custody.audit.findings import Kind
from custody.audit.history import Known
from custody.audit.note import Signer, parse, sign
from custody.audit.verify import NoSuchCheckpoint
from custody.datakeys.data_key import DataKey
from tests.audit_log import AuditLog
from tests.datakeys import KEY, KEY_ID, FixedRing
from tests.servers import Database

NEW_ID = "dk-01932e00000070008000000000000002"
NEW_KEY = bytes(reversed(KEY))
OLD, NEW = DataKey.of(KEY_ID, KEY), DataKey.of(NEW_ID, NEW_KEY)


@pytest.fixture
async def log(database: Database) -> AuditLog:
    """A log that began under a data key that was ended since: 24 rows of it, and 16 of the new."""
    made = AuditLog(database)
    await made.grow(3)
    await made.write(made.event())  # one that comes under the next one's checkpoint
    made.ring = FixedRing.of(NEW_KEY, NEW_ID)
    await made.end(OLD)
    await made.grow(2)
    return made


async def test_a_data_key_that_was_ended(log: AuditLog) -> None:
    report = await log.verify()
    assert report.is_good, report.findings
    assert len(report.notices) == 1
    assert report.notices[0].startswith("25 rows have a seal by a data key that was ended")


async def test_while_both_are_open(log: AuditLog) -> None:
    log.ring.add(OLD)
    report = await log.verify()
    assert (report.is_good, report.notices) == (True, [])


async def test_both_seal_for_a_while(database: Database) -> None:
    """Processes see a rotation at different moments: the old key signs once more behind the new."""
    log = AuditLog(database)
    old, new = log.ring, FixedRing.of(NEW_KEY, NEW_ID)
    for ring in (old, new, old, new, new):
        log.ring = ring
        await log.grow(1)
    await log.end(OLD)
    assert (await log.verify()).is_good


async def test_a_new_data_key_signs_without_new_rows(database: Database) -> None:
    log = AuditLog(database)
    await log.grow(2)
    log.ring = FixedRing.of(NEW_KEY, NEW_ID)
    await log.end(OLD)
    await log.seal()
    report = await log.verify()
    assert report.is_good, report.findings
    assert report.size == 16


@pytest.mark.parametrize("number", [3, 20, 25])
async def test_rows_of_an_ended_data_key_are_held_by_the_tree(log: AuditLog, number: int) -> None:
    await log.database.execute(
        "UPDATE auth.encryption_vault_audit SET status = 201 WHERE number = $1", number
    )
    assert Kind.CHANGED in (await log.verify()).counts


async def test_an_ended_data_key_seals_nothing_new(log: AuditLog) -> None:
    new = log.ring
    log.ring = FixedRing.of()
    await log.write(log.event())
    log.ring = new
    await log.seal()
    report = await log.verify()
    assert [(one.kind, one.rows) for one in report.findings] == [(Kind.UNKNOWN_KEY, (42, 42))]


async def test_what_an_ended_data_key_signed_last_needs_nobody_else(database: Database) -> None:
    log = AuditLog(database)
    await log.grow(2)
    log.ring = FixedRing.of(NEW_KEY, NEW_ID)
    await log.end(OLD)
    report = await log.verify()
    assert (report.is_good, report.size) == (True, 16)
    assert (await log.verify(since=2)).is_good


async def test_no_data_key_is_open(log: AuditLog) -> None:
    log.ring.close()
    report = await log.verify()
    assert not report.is_good
    assert report.counts == {}
    assert report.unseen


async def test_rows_that_look_old_are_waited_for(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was set an hour forward: a row of this moment is an hour old."""
    monkeypatch.setattr(verify, "_LOOK_SECONDS", 0.01)
    await log.write(log.event(), age=3600)
    verifying = asyncio.create_task(log.verify(patience=60))
    await asyncio.sleep(0.1)
    assert not verifying.done()
    await log.seal()
    report = await verifying
    assert report.is_good, report.findings
    assert report.checkpoints == 6


async def test_a_beginning_that_was_cut_off(log: AuditLog) -> None:
    await log.database.execute("DELETE FROM auth.encryption_vault_audit WHERE number <= 33")
    await log.database.execute("DELETE FROM auth.encryption_audit_checkpoints WHERE number < 4")
    assert Kind.GAP in (await log.verify()).counts


async def test_checkpoints_that_were_kept_from_before_the_first_that_is_read(log: AuditLog) -> None:
    kept = [Checkpoint.parse(parse(note).text) for note in log.notes]
    known = [Known(one.size, one.root) for one in kept]
    assert (await log.verify(known[3:], since=4)).is_good
    report = await log.verify(known, since=4)
    assert report.counts == {}
    assert len(report.unseen) == 3


# ── somebody who writes every table, and has no data key of ours ──────────────

HIS = DataKey.of("dk-01932e00000070008000000000000009", bytes(32))
REPLACE = "UPDATE auth.encryption_audit_checkpoints SET hashes = $2, note = $3 WHERE number = $1"
WORDS = "UPDATE auth.encryption_data_keys SET ended_words = $1"
DELETE_WORDS = "UPDATE auth.encryption_data_keys SET ended_words = '{}'"


async def put_in(log: AuditLog, seal: DataKey | None = None) -> None:
    """Write a row with the seal of a key of his own, before its checkpoint; or with another's."""
    ours, log.ring = log.ring, FixedRing.of(bytes(32), (seal or HIS).id)
    await log.write(log.event(user_id="mallory"))
    log.ring = ours


async def sign_again(log: AuditLog, *numbers: int) -> None:
    for number in numbers:
        text = parse(log.notes[number - 1]).text
        said = Checkpoint.parse(text)
        hashes = await log.database.value(
            "SELECT hashes FROM auth.encryption_audit_checkpoints WHERE number = $1", number
        )
        note = sign(text, Signer(said.origin, HIS.audit_signer))
        await log.database.execute(REPLACE, number, hashes, note)


async def test_nobody_pretends_that_there_was_a_data_key(database: Database) -> None:
    """His row, before its checkpoint; that one and the first of all signed by a key of his own."""
    log = AuditLog(database)
    await log.grow(2)
    await put_in(log)
    await log.grow(3)
    await sign_again(log, 1, 3)
    report = await log.verify()
    assert {(one.kind, one.rows, one.checkpoint) for one in report.findings} == {
        (Kind.UNKNOWN_KEY, (17, 17), None),
        (Kind.CHECKPOINT, None, 1),
        (Kind.CHECKPOINT, None, 3),
    }


async def test_nobody_pretends_it_where_data_keys_were_ended(log: AuditLog) -> None:
    """Neither by one of his own, nor in the name of one of ours, nor by his word for either."""
    await put_in(log)
    await put_in(log, OLD)
    await log.grow(1)
    words = await log.database.value("SELECT ended_words FROM auth.encryption_data_keys")
    # The last one as by whoever knows the one that was ended, which is why it was.
    his = [word_of_end(HIS, 100, HIS), word_of_end(OLD, 100, HIS), word_of_end(HIS, 100, OLD)]
    for said in (words, [*words, *his], [*his, *words]):
        await log.database.execute(WORDS, said)
        report = await log.verify()
        assert [(one.kind, one.rows) for one in report.findings] == [
            (Kind.UNKNOWN_KEY, (42, 42)),
            (Kind.UNKNOWN_KEY, (43, 43)),
        ]


async def test_nobody_takes_the_place_of_one_that_was_ended(log: AuditLog) -> None:
    await sign_again(log, 2)
    report = await log.verify()
    assert [(one.kind, one.checkpoint) for one in report.findings] == [(Kind.CHECKPOINT, 2)]


async def test_a_word_that_is_taken_away_is_missed(log: AuditLog) -> None:
    await log.database.execute(DELETE_WORDS)
    report = await log.verify()
    assert report.counts == {Kind.CHECKPOINT: 3, Kind.UNKNOWN_KEY: 25}


async def test_begins_behind_no_checkpoint_of_somebody_else(log: AuditLog) -> None:
    await sign_again(log, 2)
    with pytest.raises(NoSuchCheckpoint):
        await log.verify(since=2)


async def test_a_chain_of_ended_data_keys(log: AuditLog) -> None:
    for last in range(3, 6):
        before = log.ring.current
        assert before is not None
        log.ring = FixedRing.of(bytes([last]) * 32, f"{NEW_ID[:-1]}{last}")
        log.ring.add(before)
        await log.grow(1)
        await log.end(before)
        await log.grow(1)
    report = await log.verify()
    assert report.is_good, report.findings
    assert (report.checkpoints, report.size) == (11, 89)


async def test_a_data_key_that_is_new_since_the_look_began(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verification takes minutes: meanwhile a data key is announced, promoted, and signs."""
    newer = DataKey.of("dk-01932e00000070008000000000000003", bytes([3]) * 32)
    ring, log.ring = log.ring, FixedRing.of(bytes([3]) * 32, newer.id)
    await log.grow(1)
    log.ring = ring
    loads = 0

    async def load(*, anew: bool = False) -> None:
        nonlocal loads
        loads += 1
        if loads == 2:  # of the first page of checkpoints
            ring.add(newer)

    monkeypatch.setattr(ring, "load", load)
    assert (await log.verify()).is_good
