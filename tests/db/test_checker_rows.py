"""What the checker reads of the audit."""

from custody.audit.events import Action
from tests.audit_log import AuditLog
from tests.checker import read_rows
from tests.pruning import without_accounts
from tests.servers import Database


async def test_rows_come_as_they_were_written(database: Database) -> None:
    """Also where the table keeps them in another order: what was done last decides."""
    await without_accounts(database)
    log = AuditLog(database)
    acts = (Action.INIT, Action.ROTATE, Action.FETCH)
    for act in acts:
        await log.write(log.event(user_id="alice", action=act))
    async with database.connect() as superuser:
        await superuser.execute("SET session_replication_role = replica")
        await superuser.execute(
            "UPDATE auth.encryption_vault_audit SET status = 201 WHERE action = 'init'"
        )
        # The planner may read the table without an index at any time.
        for way in ("indexscan", "bitmapscan"):
            await superuser.execute(f"SET enable_{way} = off")
        found = await superuser.fetch("SELECT action FROM auth.encryption_vault_audit")
        assert [row["action"] for row in found] == ["rotate", "fetch", "init"]
        rows = await read_rows(superuser, ["alice"])
    assert [row.action for row in rows] == list(acts)
