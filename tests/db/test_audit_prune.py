"""Prunes of the audit: what goes, what stays, and that the log verifies behind each step."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit import holding, reading
from custody.audit.checkpoint import Checkpoint
from custody.audit.events import Action
from custody.audit.findings import Kind
from custody.audit.history import Known
from custody.audit.holding import NotHeld
from custody.audit.note import Signer, parse
from custody.audit.sealer import AuditSealer
from tests.audit_log import ORIGIN, AuditLog
from tests.pruning import changing_log, export, grow, points, prune, rows
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


async def test_all_but_the_last_changes_go(log: AuditLog, file: Path) -> None:
    plan = await prune(log, [file])
    assert plan is not None
    assert (plan.goes, plan.stays) == (38, 2)
    # The last change of each of the two.
    assert (await rows(log), await points(log)) == ([28, 36], [5])
    report = await log.verify([known(log.notes[-1])])
    assert report.is_good, report.findings
    said = "rows up to 40, checkpoint 5, were pruned: of those that there were 2 were kept"
    assert said in report.notices


async def test_the_log_goes_on_behind_it(log: AuditLog, file: Path) -> None:
    await prune(log, [file])
    await grow(log, "changer-0")
    report = await log.verify([known(log.notes[-1])])
    assert report.is_good, report.findings
    assert report.size == 49  # with the row of the prune
    assert (await log.verify(since=5)).is_good


async def test_only_what_is_old_goes(log: AuditLog, tmp_path: Path) -> None:
    """And never a part of what is under a checkpoint."""
    now = datetime.now(UTC)
    await log.write(log.event(), age=-3600)
    await log.write(log.event())
    await log.seal()
    file = await export(log, tmp_path / "audit.jsonl")
    await prune(log, [file], now + timedelta(minutes=1))
    assert await points(log) == [5, 6]
    assert await rows(log) == [28, 36, 41, 42]
    assert await prune(log, [file], now + timedelta(minutes=1)) is None


async def test_erasures_stay(log: AuditLog, tmp_path: Path) -> None:
    for _ in range(2):
        gone = log.event(user_id="gone", action=Action.ERASE, state="erased")
        await log.write(gone, sealed=False)
    await log.seal()
    await prune(log, [await export(log, tmp_path / "one")])
    assert await rows(log) == [28, 36, 41, 42]
    await grow(log, "gone")
    await prune(log, [await export(log, tmp_path / "two")])
    assert await rows(log) == [28, 36, 41, 42, 47]
    assert (await log.verify()).is_good


async def test_a_later_prune_drops_what_newer_rows_say(log: AuditLog, tmp_path: Path) -> None:
    await prune(log, [await export(log, tmp_path / "one")])
    await grow(log, "changer-1")
    # From the last prune on is enough.
    await prune(log, [await export(log, tmp_path / "two")])
    assert (await rows(log), await points(log)) == ([36, 45], [6])
    assert (await log.verify()).is_good


async def test_a_prune_that_was_broken_off(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each of its transactions the log verifies, and the next prune goes on from there."""
    monkeypatch.setattr(holding, "_STEP", 8)
    for user in ("changer-2", "changer-3"):
        await grow(log, user)
    await prune(log, [await export(log, tmp_path / "one")])
    # One row a page: more than one transaction for the rows that the prune before has kept.
    monkeypatch.setattr(reading, "PAGE", 1)
    for number in range(3):
        await grow(log, f"changer-{number}")
    file = await export(log, tmp_path / "two")
    for steps in (1, 2, 1, 1, 1):
        plan = await prune(log, [file], steps=steps)
        assert plan is not None
        assert (await log.verify([known(log.notes[-1])])).is_good, steps
    await prune(log, [file])
    assert (await log.verify([known(log.notes[-1])])).is_good
    assert await rows(log) == [52, 67, 75, 83]


async def test_steps_are_small(log: AuditLog, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_STEP", 16)
    plan = await prune(log, [file])
    assert plan is not None
    assert [head.number for head in plan.holding.steps] == [2, 4, 5]
    assert (await log.verify()).is_good


# ── exports that don't hold it ────────────────────────────────────────────────


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines(keepends=True)


def write(file: Path, *lines: str) -> None:
    file.write_text("".join(lines))


Damage = Callable[[list[str]], list[str]]


def without(number: int) -> Damage:
    return lambda lines: [line for line in lines if not line.startswith(f'{{"number": {number},')]


def altered(row: int, **changes: object) -> Damage:
    def alter(lines: list[str]) -> list[str]:
        said = [json.loads(line) for line in lines]
        return [json.dumps(one | changes if one.get("number") == row else one) for one in said]

    return alter


NOT_HELD: list[tuple[Damage, str]] = [
    (without(1), "no export has row 1;"),
    (without(20), "no export has row 20;"),
    (without(40), "no export has row 40;"),
    (lambda lines: lines[:10], "no export has row 10;"),
    (altered(20, status=201), "row 20 is another one in the export;"),
    (altered(20, at="2026-01-01T00:00:00.000000Z"), "row 20 is another one in the export;"),
    (altered(20, number=200), "no export has row 20;"),
    (altered(20, number=0), "no export has row 20;"),
    (lambda lines: [*lines[:8], "junk", *lines[8:]], "line 9: no row of an export"),
    (altered(20, status="x"), "line 22: no row of an export in JSON Lines"),
    (altered(20, at=None), "line 22: no row of an export in JSON Lines"),
]


async def test_an_export_that_does_not_hold_a_row(log: AuditLog, file: Path) -> None:
    lines = [line.strip() for line in lines_of(file)]
    for damage, message in NOT_HELD:
        write(file, *(f"{line}\n" for line in damage(lines)))
        with pytest.raises(NotHeld, match=message):
            await prune(log, [file])
    assert (len(await rows(log)), await points(log)) == (40, [1, 2, 3, 4, 5])


async def test_checkpoints_of_nobody(log: AuditLog, tmp_path: Path) -> None:
    """Whoever has the daemon's password adds some; one that is not ours is no place to go to."""
    signer = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    await log.write(log.event())
    await log.seal(signer)
    await log.database.execute(
        "INSERT INTO auth.encryption_audit_checkpoints SELECT number + 1, size, last_row, hashes,"
        " 'junk' FROM auth.encryption_audit_checkpoints WHERE number = 6"
    )
    plan = await prune(log, tmp_path / "one")
    assert plan is not None
    assert plan.target.number == 5
    log.number = 7
    await grow(log, "changer-0")
    await prune(log, tmp_path / "two")
    assert (await rows(log), await points(log)) == ([28, 46], [8])
    assert (await log.verify()).is_good


async def test_exports_that_overlap(
    log: AuditLog, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower sends a row again after a break, and an operator keeps files of his own."""
    lines = lines_of(file)
    parts = [lines[30:], [*lines[:12], *lines[8:15]], [*lines[14:31], "torn"]]
    files = [file.with_name(str(number)) for number in range(3)]
    for path, part in zip(files, parts, strict=True):
        write(path, *part)
    with pytest.raises(NotHeld, match="no export has row 15"):
        await prune(log, [*files[:2]])
    with files[1].open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        await prune(log, [files[0], Path("-"), files[2]])
    assert (await rows(log), (await log.verify()).is_good) == ([28, 36], True)


async def test_clients_that_were_taken_out_since(log: AuditLog, file: Path) -> None:
    await log.database.execute(
        "UPDATE auth.encryption_vault_audit SET ip_address = NULL, user_agent = NULL"
    )
    await prune(log, [file])
    assert (await log.verify()).is_good


# ── what was kept elsewhere, and who goes on ──────────────────────────────────


async def test_a_checkpoint_that_was_kept_before(log: AuditLog, file: Path) -> None:
    """The rows that would show that the log goes through it are gone: that is said."""
    await prune(log, [file])
    report = await log.verify([known(log.notes[2])])
    assert (report.counts, report.is_good) == ({}, False)
    assert report.unseen == [
        "the checkpoint that was kept at 24 rows is from before the first that is read"
    ]
    other = known(log.notes[4])
    other.root = bytes(32)
    assert (await log.verify([other])).counts == {Kind.HISTORY: 1}


async def test_a_tail_that_is_cut_off_behind_a_prune(log: AuditLog, file: Path) -> None:
    await prune(log, [file])
    await grow(log, "changer-1")
    kept = known(log.notes[-1])
    await log.database.execute("DELETE FROM auth.encryption_vault_audit WHERE number > 41")
    await log.database.execute("DELETE FROM auth.encryption_audit_checkpoints WHERE number = 6")
    assert (await log.verify([kept])).counts == {Kind.HISTORY: 1}


class Rings:
    """Remembers for what it was rung."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def audit_tampered(self, reason: str) -> None:
        self.reasons.append(reason)


async def test_the_sealer_goes_on(log: AuditLog, engine: AsyncEngine, file: Path) -> None:
    """Also in a process that has seen no checkpoint since long before."""
    rings = Rings()
    idle, busy = (AuditSealer(engine, log.ring, 0, rings) for _ in range(2))
    for sealer in (idle, busy):
        await log.write(log.event())
        assert await sealer.seal() == 1
    await prune(log, [await export(log, file.with_name("two"))])
    assert await points(log) == [7]
    await log.write(log.event())
    assert (await idle.seal(), await busy.seal(), rings.reasons) == (2, 0, [])
    assert (await log.verify()).is_good
    # The word of a prune is for what is before it alone.
    await log.database.execute("DELETE FROM auth.encryption_audit_checkpoints WHERE number = 8")
    await idle.seal()
    assert rings.reasons == ["shorter"]
