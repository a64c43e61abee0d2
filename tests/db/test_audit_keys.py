"""``custody audit verify`` over the life of data keys: of those that are no more, too."""

import asyncio

import pytest

from custody.audit import verify
from custody.audit.checkpoint import Checkpoint
from custody.audit.findings import Kind
from custody.audit.history import Known
from custody.audit.note import parse
from custody.datakeys.data_key import DataKey
from tests.audit_log import AuditLog
from tests.datakeys import KEY, KEY_ID, FixedRing
from tests.servers import Database

NEW_ID = "dk-01932e00000070008000000000000002"
NEW_KEY = bytes(reversed(KEY))


@pytest.fixture
async def log(database: Database) -> AuditLog:
    """A log that began under a data key that was ended since: 24 rows of it, and 16 of the new."""
    made = AuditLog(database)
    await made.grow(3)
    await made.write(made.event())  # one that comes under the next one's checkpoint
    made.ring = FixedRing.of(NEW_KEY, NEW_ID)
    await made.grow(2)
    return made


async def test_a_data_key_that_was_ended(log: AuditLog) -> None:
    report = await log.verify()
    assert report.is_good, report.findings
    assert len(report.notices) == 1
    assert report.notices[0].startswith("25 rows have a seal by a data key that is no more")


async def test_while_both_are_open(log: AuditLog) -> None:
    log.ring.add(DataKey.of(KEY_ID, KEY))
    report = await log.verify()
    assert (report.is_good, report.notices) == (True, [])


async def test_both_seal_for_a_while(database: Database) -> None:
    """Processes see a rotation at different moments: the old key signs once more behind the new."""
    log = AuditLog(database)
    old, new = log.ring, FixedRing.of(NEW_KEY, NEW_ID)
    for ring in (old, new, old, new, new):
        log.ring = ring
        await log.grow(1)
    assert (await log.verify()).is_good


async def test_a_new_data_key_signs_without_new_rows(database: Database) -> None:
    log = AuditLog(database)
    await log.grow(2)
    log.ring = FixedRing.of(NEW_KEY, NEW_ID)
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


async def test_nobody_covers_what_an_ended_data_key_signed(database: Database) -> None:
    log = AuditLog(database)
    await log.grow(2)
    log.ring = FixedRing.of(NEW_KEY, NEW_ID)
    report = await log.verify()
    assert [one.kind for one in report.findings] == [Kind.UNSIGNED]


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
