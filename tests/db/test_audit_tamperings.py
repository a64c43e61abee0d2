"""A thousand random tamperings: each is found, and where it is is said."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from custody.audit.checkpoint import Checkpoint
from custody.audit.findings import Kind, Report
from custody.audit.history import Known
from custody.audit.note import parse
from tests.audit_log import AuditLog
from tests.proofs import FULL
from tests.pruning import prune, without_accounts
from tests.servers import Database

ROWS, CHECKPOINTS, BATCH = 240, 20, 12

KEEP = """
CREATE SCHEMA kept;
CREATE TABLE kept.audit AS TABLE auth.encryption_vault_audit;
CREATE TABLE kept.points AS TABLE auth.encryption_audit_checkpoints;
CREATE TABLE kept.prunes AS TABLE auth.encryption_audit_prunes
"""
PUT_BACK = """
TRUNCATE auth.encryption_vault_audit, auth.encryption_audit_checkpoints,
    auth.encryption_audit_prunes;
INSERT INTO auth.encryption_vault_audit OVERRIDING SYSTEM VALUE SELECT * FROM kept.audit;
INSERT INTO auth.encryption_audit_checkpoints SELECT * FROM kept.points;
INSERT INTO auth.encryption_audit_prunes SELECT * FROM kept.prunes
"""
EDITS = {
    "id": "'edited'",
    "user_id": "user_id || 'x'",
    "action": "action || 'x'",
    "context": "coalesce(context, '') || 'x'",
    "status": "status + 1",
    "state": "coalesce(state, '') || 'x'",
    "ip_address": "ip_address || '1'",
    "user_agent": "coalesce(user_agent, '') || 'x'",
    "seal": "set_byte(seal, 5, 255 - get_byte(seal, 5))",
    "created_at": "created_at - INTERVAL '1 microsecond'",
}
SWAP = """
CREATE TEMP TABLE moved AS SELECT * FROM auth.encryption_vault_audit WHERE number IN ($1, $2);
DELETE FROM auth.encryption_vault_audit WHERE number IN ($1, $2);
UPDATE moved SET number = $1 + $2 - number;
INSERT INTO auth.encryption_vault_audit OVERRIDING SYSTEM VALUE SELECT * FROM moved;
DROP TABLE moved
"""
INSERT = """
INSERT INTO auth.encryption_vault_audit
    OVERRIDING SYSTEM VALUE
SELECT 'put-in', user_id, action, ip_address, user_agent, context, status, created_at,
       $1 * 10 + 5, state, CASE $2 % 2 WHEN 0 THEN seal END
FROM auth.encryption_vault_audit WHERE number = $2 * 10
"""
REPLAY = """
UPDATE auth.encryption_audit_checkpoints AS new
SET (size, last_row, hashes, note) = (old.size, old.last_row, old.hashes, old.note)
FROM auth.encryption_audit_checkpoints AS old WHERE new.number = $1 AND old.number = $2
"""

PUT_BACK_PRUNE = """
DELETE FROM auth.encryption_audit_prunes;
INSERT INTO auth.encryption_audit_prunes SELECT * FROM kept.older_prunes
"""


class Tamperer:
    """Somebody who writes every table as he likes, and has no data key.

    Args:
        log: the audit; its rows have the numbers 10, 20 and so on.
        dice: what he rolls.
        rows: the numbers of those that are there.
        points: the numbers of the checkpoints that are there.
    """

    def __init__(self, log: AuditLog, dice: Random, rows: list[int], points: list[int]) -> None:
        self.log, self.dice, self.rows, self.points = log, dice, rows, points
        self.run = log.database.execute

    def row(self) -> int:
        return self.dice.choice(self.rows)

    async def edit(self) -> set[int]:
        row, column = self.row(), self.dice.choice(sorted(EDITS))
        sql = f"UPDATE auth.encryption_vault_audit SET {column} = {EDITS[column]}"  # noqa: S608
        await self.run(f"{sql} WHERE number = $1", row)
        return {row}

    async def delete(self) -> set[int]:
        first, count = self.row(), self.dice.choice((1, 1, 2, 30))
        await self.run(
            "DELETE FROM auth.encryption_vault_audit WHERE number BETWEEN $1 AND $2",
            *(first, first + 10 * (count - 1)),
        )
        return {first}

    async def insert(self) -> set[int]:
        place, like = self.dice.randint(1, ROWS - 1), self.row()
        await self.run(INSERT.replace("$1", str(place)).replace("$2", str(like // 10)))
        return {place * 10 + 5}

    async def swap(self) -> set[int]:
        one = self.row()
        while (other := self.row()) == one:
            pass
        await self.run(SWAP.replace("$1", str(one)).replace("$2", str(other)))
        return {one, other}

    async def truncate(self) -> set[int]:
        await self.run("TRUNCATE auth.encryption_vault_audit")
        return {self.rows[0], self.rows[-1]}

    async def delete_a_trail(self) -> set[int]:
        user = f"user-{self.dice.randrange(10)}"
        rows = await self.log.database.fetch(
            "DELETE FROM auth.encryption_vault_audit WHERE user_id = $1 RETURNING number", user
        )
        return {row["number"] for row in rows}

    async def back_date(self) -> set[int]:
        row = self.row()
        await self.run(
            "UPDATE auth.encryption_vault_audit SET created_at = '2020-01-01' WHERE number = $1",
            row,
        )
        return {row}

    async def old_table(self) -> set[int]:
        row = self.dice.choice(self.rows[:-1])
        await self.run("DELETE FROM auth.encryption_vault_audit WHERE number > $1", row)
        return {self.rows[-1]}

    async def old_database(self) -> set[int]:
        """Rows and checkpoints, as they were together: what was kept elsewhere shows it."""
        number = self.dice.choice(self.points[:-1])
        await self.run("DELETE FROM auth.encryption_audit_checkpoints WHERE number > $1", number)
        await self.run(
            "DELETE FROM auth.encryption_vault_audit WHERE number > $1", 10 * BATCH * number
        )
        return set()

    async def replace_a_checkpoint(self) -> set[int]:
        # Behind the last one there is no row that could come under it.
        number = self.dice.choice(self.points[:-1])
        column, value = self.dice.choice(
            (
                ("note", "'junk'"),
                ("note", "replace(note, E'\\n', E'\\n\\n')"),
                ("note", "translate(note, 'ABCDEFabcdef', 'BCDEFAbcdefa')"),
                ("hashes", "set_byte(hashes, 0, 255 - get_byte(hashes, 0))"),
                ("size", "size + 1"),
                ("last_row", "last_row + 10"),
                ("last_row", "last_row - 10"),
            )
        )
        sql = f"UPDATE auth.encryption_audit_checkpoints SET {column} = {value}"  # noqa: S608
        await self.run(f"{sql} WHERE number = $1", number)
        return set()

    async def replay(self) -> set[int]:
        older, number = sorted(self.dice.sample(self.points, 2))
        await self.run(REPLAY, number, older)
        return set()

    async def delete_a_checkpoint(self) -> set[int]:
        await self.run(
            "DELETE FROM auth.encryption_audit_checkpoints WHERE number = $1",
            self.dice.choice(self.points[:-1]),
        )
        return set()

    async def fake_a_prune(self) -> set[int]:
        """He edits what the last one has left, puts an older one back, or makes one up."""
        fakes = (
            "UPDATE auth.encryption_audit_prunes SET note = 'junk'",
            "UPDATE auth.encryption_audit_prunes SET note = replace(note, '0', '1')",
            "UPDATE auth.encryption_audit_prunes SET checkpoint = checkpoint + 1",
            "UPDATE auth.encryption_audit_prunes SET hashes = sha256('')",
            "DELETE FROM auth.encryption_audit_prunes",
            PUT_BACK_PRUNE,
        )
        made_up = (
            "INSERT INTO auth.encryption_audit_prunes (checkpoint, hashes, note)"
            " SELECT number, '', note FROM auth.encryption_audit_checkpoints WHERE number = 3;"
            "DELETE FROM auth.encryption_vault_audit WHERE number <= 360"
        )
        await self.run(self.dice.choice(fakes) if self.points[0] > 1 else made_up)
        return set()


def is_named(report: Report, row: int) -> bool:
    return any(one.rows and one.rows[0] <= row <= one.rows[1] for one in report.findings)


async def grown(database: Database, tmp_path: Path, prunes: Sequence[int]) -> AuditLog:
    """Return an audit that was pruned to some checkpoints."""
    log = AuditLog(database)
    await database.execute(
        "ALTER TABLE auth.encryption_vault_audit ALTER COLUMN number"
        " SET INCREMENT BY 10 RESTART WITH 10"
    )
    await without_accounts(database)
    await log.grow(CHECKPOINTS, BATCH, state="0" * 64)
    await database.execute(KEEP)
    await database.execute("CREATE TABLE kept.older_prunes AS TABLE auth.encryption_audit_prunes")
    for number in prunes:
        await database.execute(
            "INSERT INTO kept.older_prunes SELECT * FROM auth.encryption_audit_prunes"
        )
        behind = 10 * BATCH * number + 10
        before = await database.value(
            "SELECT created_at FROM auth.encryption_vault_audit WHERE number = $1", behind
        )
        await prune(log, tmp_path / "audit", before)
    if prunes:
        await log.seal()
    await database.execute("DROP TABLE kept.audit, kept.points, kept.prunes")
    await database.execute(KEEP.partition(";")[2])
    return log


async def numbers(database: Database, table: str) -> list[int]:
    sql = f"SELECT number FROM auth.{table} ORDER BY number"  # noqa: S608
    return [row["number"] for row in await database.fetch(sql)]


# A thousand in all, in parts that go beside each other, and as many behind two prunes.
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("times", "seed", "prunes"),
    [
        (13, 0, ()),
        (13, 0, (4, 8)),
        pytest.param(60, 5, (4, 8), marks=pytest.mark.prove),
        *(
            pytest.param(250, seed, prunes, marks=FULL)
            for prunes in ((), (4, 8))
            for seed in range(1, 5)
        ),
    ],
)
async def test_each_is_found_and_named(
    database: Database, tmp_path: Path, times: int, seed: int, prunes: Sequence[int]
) -> None:
    log = await grown(database, tmp_path, prunes)
    kept = Checkpoint.parse(parse(log.notes[-1]).text)
    dice = Random(seed)  # noqa: S311 - can be repeated
    rows, points = [
        await numbers(database, table)
        for table in ("encryption_vault_audit", "encryption_audit_checkpoints")
    ]
    assert points[0] == max(prunes, default=1)
    assert (await log.verify([Known(kept.size, kept.root)])).is_good
    for number in range(times):
        he = Tamperer(log, dice, rows, points)
        kinds = [
            *(he.edit, he.delete, he.insert, he.swap, he.truncate, he.delete_a_trail),
            *(he.back_date, he.old_table, he.old_database, he.replace_a_checkpoint, he.replay),
            *(he.delete_a_checkpoint, he.fake_a_prune),
        ]
        kind = kinds[number % len(kinds)]
        damaged = await kind()
        report = await log.verify([Known(kept.size, kept.root)])
        said = (number, kind.__name__, damaged, report.findings)
        assert report.counts, said
        assert all(is_named(report, row) for row in damaged), said
        if kind == he.old_database:
            assert Kind.HISTORY in report.counts, said
        await database.execute(PUT_BACK)
    assert (await log.verify([Known(kept.size, kept.root)])).is_good
