"""What ``custody audit verify`` finds, and what it does not take for damage."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from custody.audit.checkpoint import Checkpoint
from custody.audit.events import Action
from custody.audit.findings import Kind, Report
from custody.audit.history import Known
from custody.audit.note import Signer, parse, sign
from tests.audit_log import ORIGIN, AuditLog
from tests.proofs import some
from tests.servers import Database

NOT_OURS = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))


@pytest.fixture
async def log(database: Database) -> AuditLog:
    """An audit of 5 checkpoints over 8 rows each: numbers 1 to 40."""
    made = AuditLog(database)
    await made.grow()
    return made


def known(note: str) -> Known:
    said = Checkpoint.parse(parse(note).text)
    return Known(said.size, said.root)


def ranges(report: Report, kind: Kind) -> list[tuple[int, int] | None]:
    return [one.rows for one in report.findings if one.kind is kind]


# ── honest ────────────────────────────────────────────────────────────────────


async def test_all_is_well(log: AuditLog) -> None:
    report = await log.verify([known(note) for note in log.notes])
    assert report.is_good, report.findings
    assert (report.rows, report.checkpoints, report.size) == (40, 5, 40)


async def test_nothing_is_well_too(database: Database) -> None:
    assert (await AuditLog(database).verify()).is_good


async def test_new_rows_are_not_late(log: AuditLog) -> None:
    await log.write(log.event())
    report = await log.verify()
    assert report.is_good
    assert report.notices == ["1 rows are not under a checkpoint yet: they are new"]


async def test_gaps_in_numbers_are_no_missing_rows(log: AuditLog) -> None:
    await log.database.execute("SELECT setval('auth.encryption_vault_audit_number_seq', 1000)")
    await log.grow(1)
    assert (await log.verify()).is_good


async def test_rows_that_may_lack_a_seal(database: Database) -> None:
    log = AuditLog(database)
    await log.write(log.event(), log.event(), sealed=False)
    await log.grow(2)
    await log.write(
        log.event(status=503),
        log.event(context="unverified-seal"),
        log.event(action=Action.ERASE, state="erased", user_id="gone"),
        sealed=False,
    )
    await log.seal()
    report = await log.verify()
    assert report.is_good, report.findings
    assert report.notices[0].startswith("5 rows have no seal")


async def test_clients_that_were_taken_out(log: AuditLog) -> None:
    await log.database.execute(
        "UPDATE auth.encryption_vault_audit SET ip_address = NULL, user_agent = NULL"
    )
    assert (await log.verify()).is_good


async def test_a_clock_that_was_set_back_or_forward(log: AuditLog) -> None:
    for age in (3600.0, -3600.0):
        await log.write(log.event(), age=age)
        await log.seal()
    assert (await log.verify()).is_good


# ── rows ──────────────────────────────────────────────────────────────────────

EDITS = {
    "id": "'another'",
    "user_id": "'mallory'",
    "action": "'zk_enable'",
    "ip_address": "'198.51.100.1'",
    "user_agent": "'another'",
    "context": "'another'",
    "status": "201",
    "state": "repeat('0', 64)",
}


@pytest.mark.parametrize("column", list(EDITS))
async def test_a_column_that_was_edited(log: AuditLog, column: str) -> None:
    await log.database.execute(
        f"UPDATE auth.encryption_vault_audit SET {column} = {EDITS[column]} WHERE number = 20"  # noqa: S608
    )
    report = await log.verify()
    assert ranges(report, Kind.ROW) == [(20, 20)]
    # The client is in the leaf by the keyed hash of the seal.
    whole = [] if column in {"ip_address", "user_agent"} else [(17, 24)]
    assert ranges(report, Kind.CHANGED) == whole


@pytest.mark.parametrize(("at", "kind"), [(0, Kind.UNKNOWN_KEY), (4, Kind.ROW), (20, Kind.ROW)])
async def test_a_seal_that_was_edited(log: AuditLog, at: int, kind: Kind) -> None:
    edit = f"SET seal = set_byte(seal, {at}, 255 - get_byte(seal, {at}))"
    await log.database.execute(f"UPDATE auth.encryption_vault_audit {edit} WHERE number = 20")
    report = await log.verify()
    # Where the client was kept, its keyed hash is computed anew: what the seal says is then wrong.
    assert ranges(report, kind) == [(20, 20)]
    assert ranges(report, Kind.CHANGED) == [(17, 24)]


async def test_a_seal_that_was_taken_away(log: AuditLog) -> None:
    await log.database.execute(
        "UPDATE auth.encryption_vault_audit SET seal = NULL WHERE number = 20"
    )
    report = await log.verify()
    assert ranges(report, Kind.NO_SEAL) == [(20, 20)]
    assert ranges(report, Kind.CHANGED) == [(17, 24)]


async def test_a_time_that_was_edited(log: AuditLog) -> None:
    await log.database.execute(
        "UPDATE auth.encryption_vault_audit SET created_at = created_at - interval '1 day'"
        " WHERE number = 20"
    )
    report = await log.verify()
    assert (report.counts, ranges(report, Kind.CHANGED)) == ({Kind.CHANGED: 1}, [(17, 24)])


async def test_a_row_that_was_deleted(log: AuditLog) -> None:
    await log.database.execute("DELETE FROM auth.encryption_vault_audit WHERE number = 20")
    report = await log.verify()
    assert (report.counts, ranges(report, Kind.MISSING)) == ({Kind.MISSING: 1}, [(17, 24)])


async def test_the_trail_of_a_user_that_was_deleted(log: AuditLog) -> None:
    rows = await log.database.fetch(
        "DELETE FROM auth.encryption_vault_audit WHERE user_id = 'user-3' RETURNING number"
    )
    batches = sorted({(row["number"] - 1) // 8 for row in rows})
    report = await log.verify()
    assert ranges(report, Kind.MISSING) == [(batch * 8 + 1, batch * 8 + 8) for batch in batches]


async def test_all_rows_are_gone(log: AuditLog) -> None:
    await log.database.execute("TRUNCATE auth.encryption_vault_audit")
    report = await log.verify()
    assert report.counts == {Kind.MISSING: 5}


async def test_rows_that_were_put_in(log: AuditLog) -> None:
    """Where the sequence left room: one that nobody sealed, and one with the seal of another."""
    await log.database.execute("DELETE FROM auth.encryption_vault_audit WHERE number IN (21, 22)")
    await log.database.execute(
        "INSERT INTO auth.encryption_vault_audit (number, id, user_id, action, status, seal)"
        " OVERRIDING SYSTEM VALUE SELECT new, 'new' || new, user_id, action, status,"
        " CASE new WHEN 22 THEN seal END"
        " FROM auth.encryption_vault_audit, generate_series(21, 22) AS new WHERE number = 1"
    )
    report = await log.verify()
    assert ranges(report, Kind.NO_SEAL) == [(21, 21)]
    assert ranges(report, Kind.ROW) == [(22, 22)]
    assert ranges(report, Kind.CHANGED) == [(17, 24)]


async def test_a_row_more_than_there_was(log: AuditLog) -> None:
    await log.database.execute(
        "INSERT INTO auth.encryption_vault_audit (number, id, user_id, action, status)"
        " OVERRIDING SYSTEM VALUE VALUES (0, 'zero', 'a', 'fetch', 500), (-1, 'one', 'a', 'b', 500)"
    )
    report = await log.verify()
    assert ranges(report, Kind.ADDED) == [(1, 8)]


SWAP = """
CREATE TEMP TABLE moved AS SELECT * FROM auth.encryption_vault_audit WHERE number IN ($1, $2);
DELETE FROM auth.encryption_vault_audit WHERE number IN ($1, $2);
UPDATE moved SET number = $1 + $2 - number;
INSERT INTO auth.encryption_vault_audit OVERRIDING SYSTEM VALUE SELECT * FROM moved;
DROP TABLE moved
"""


async def swap(log: AuditLog, one: int, other: int) -> None:
    """Let two rows change places."""
    await log.database.execute(SWAP.replace("$1", str(one)).replace("$2", str(other)))


@pytest.mark.parametrize(("other", "where"), [(21, [(17, 24)]), (40, [(17, 24), (33, 40)])])
async def test_rows_that_changed_places(
    log: AuditLog, other: int, where: list[tuple[int, int]]
) -> None:
    await swap(log, 20, other)
    report = await log.verify()
    assert (set(report.counts), ranges(report, Kind.CHANGED)) == ({Kind.CHANGED}, where)


async def test_a_row_that_was_moved(log: AuditLog) -> None:
    await swap(log, 20, 41)
    report = await log.verify()
    assert ranges(report, Kind.MISSING) == [(17, 24)]


# ── checkpoints ───────────────────────────────────────────────────────────────

Tampering: TypeAlias = Callable[[AuditLog], Awaitable[None]]


async def update(log: AuditLog, number: int, column: str, value: object) -> None:
    await log.database.execute(
        f"UPDATE auth.encryption_audit_checkpoints SET {column} = $2 WHERE number = $1",  # noqa: S608
        number,
        value,
    )


def resigned(log: AuditLog, number: int, signer: Signer) -> str:
    said = Checkpoint.parse(parse(log.notes[number - 1]).text)
    return sign(said._replace(origin=signer.name).text, signer)


@pytest.mark.parametrize("number", some([1, 3, 5], 3))
@pytest.mark.parametrize(
    ("column", "value", "kinds"),
    [
        ("note", "junk", {Kind.CHECKPOINT}),
        ("hashes", b"", {Kind.CHECKPOINT}),
        ("hashes", bytes(32), {Kind.CHECKPOINT}),
        ("size", 7, {Kind.CHECKPOINT}),
    ],
)
async def test_a_checkpoint_that_was_edited(
    log: AuditLog, number: int, column: str, value: object, kinds: set[Kind]
) -> None:
    await update(log, number, column, value)
    report = await log.verify()
    assert set(report.counts) == kinds
    assert [one.checkpoint for one in report.findings] == [number]


async def test_a_last_row_that_was_edited(log: AuditLog) -> None:
    await update(log, 3, "last_row", 20)
    report = await log.verify()
    assert ranges(report, Kind.MISSING) == [(17, 20)]


async def test_a_checkpoint_of_somebody_else(log: AuditLog) -> None:
    """He has no data key: neither an own key helps him, nor a signature of ours over other text."""
    await update(log, 3, "note", resigned(log, 3, NOT_OURS))
    report = await log.verify()
    assert [(one.kind, one.checkpoint) for one in report.findings] == [(Kind.CHECKPOINT, 3)]
    await update(log, 3, "note", log.notes[2].replace("custody.example", "custody.example.org"))
    assert Kind.CHECKPOINT in (await log.verify()).counts


@pytest.mark.parametrize("older", [1, 3])
async def test_an_older_checkpoint_in_place_of_another(log: AuditLog, older: int) -> None:
    await log.database.execute(
        "UPDATE auth.encryption_audit_checkpoints AS new"
        " SET (size, last_row, hashes, note) = (old.size, old.last_row, old.hashes, old.note)"
        " FROM auth.encryption_audit_checkpoints AS old WHERE new.number = 4 AND old.number = $1",
        older,
    )
    report = await log.verify()
    assert [(one.kind, one.checkpoint) for one in report.findings] == [(Kind.BACK, 4)]


async def test_a_checkpoint_that_is_missing(log: AuditLog) -> None:
    await log.database.execute("DELETE FROM auth.encryption_audit_checkpoints WHERE number = 3")
    report = await log.verify()
    assert [(one.kind, one.checkpoint) for one in report.findings] == [(Kind.GAP, 4)]


async def test_another_origin(log: AuditLog) -> None:
    current = log.ring.current
    assert current is not None
    other = Signer("other.example/audit", current.audit_signer)
    await update(log, 3, "note", resigned(log, 3, other))
    report = await log.verify()
    assert [(one.kind, one.checkpoint) for one in report.findings] == [(Kind.ORIGIN, 3)]


async def test_damage_is_found_behind_damage(log: AuditLog) -> None:
    await log.database.execute("DELETE FROM auth.encryption_vault_audit WHERE number IN (2, 38)")
    report = await log.verify()
    assert ranges(report, Kind.MISSING) == [(1, 8), (33, 40)]


@pytest.mark.parametrize("ages", [(200,), (-200,), (0, 200)])
async def test_rows_that_wait_too_long(log: AuditLog, ages: tuple[float, ...]) -> None:
    """Nor does it help to give them, or the first of them, a time of the future."""
    for age in ages:
        await log.write(log.event(), age=age)
    report = await log.verify()
    assert ranges(report, Kind.TAIL) == [(41, 40 + len(ages))]


async def test_a_vault_that_went_with_its_account(log: AuditLog) -> None:
    """Whoever keeps the accounts deletes one: the foreign key takes the vault, unaudited."""
    await log.write(log.event(user_id="carol", state="0" * 64))
    await log.seal()
    assert (await log.verify()).counts == {Kind.VAULT: 1}
    await log.database.execute("UPDATE auth.custody_marks SET ours = false")
    assert (await log.verify()).counts == {Kind.VAULT: 1}  # accounts may be hidden from us
    await log.database.execute("ALTER TABLE auth.users DISABLE ROW LEVEL SECURITY")
    report = await log.verify()
    assert (report.counts, report.gone) == ({}, 1)
    await log.database.execute("INSERT INTO auth.users (id) VALUES ('carol')")
    assert (await log.verify()).counts == {Kind.VAULT: 1}


# ── what was kept elsewhere ───────────────────────────────────────────────────


async def test_a_tail_that_was_cut_off(log: AuditLog) -> None:
    kept = known(log.notes[-1])
    await log.database.execute("DELETE FROM auth.encryption_vault_audit WHERE number > 32")
    await log.database.execute("DELETE FROM auth.encryption_audit_checkpoints WHERE number = 5")
    assert (await log.verify()).is_good  # nothing that is here shows it
    report = await log.verify([kept])
    assert report.counts == {Kind.HISTORY: 1}
    # And a daemon goes on from there.
    log.tree, log.number, log.last_row = log.tree.of(32, await hashes(log, 4)), 4, 32
    await log.grow(3)
    assert (await log.verify([known(log.notes[3])])).is_good
    assert (await log.verify([kept])).counts == {Kind.HISTORY: 1}


async def hashes(log: AuditLog, number: int) -> bytes:
    found: bytes = await log.database.value(
        "SELECT hashes FROM auth.encryption_audit_checkpoints WHERE number = $1", number
    )
    return found


async def test_a_kept_checkpoint_that_is_not_in_the_table(log: AuditLog) -> None:
    """As when checkpoints were lost with a failover, and rows were not."""
    await log.database.execute("DELETE FROM auth.encryption_audit_checkpoints WHERE number = 5")
    assert (await log.verify([known(note) for note in log.notes])).is_good


async def test_since_a_checkpoint(log: AuditLog) -> None:
    await log.database.execute("DELETE FROM auth.encryption_vault_audit WHERE number IN (2, 38)")
    report = await log.verify(since=2)
    assert (report.rows, ranges(report, Kind.MISSING)) == (23, [(33, 40)])
