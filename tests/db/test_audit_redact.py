"""Clients are taken out of audit rows; and who may do that, or prune."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from custody.audit import redact as redacting
from custody.audit.redact import count_without_seal, redact
from tests.audit_log import AuditLog
from tests.db.connecting import engine_of
from tests.pruning import changing_log
from tests.servers import Database


@pytest.fixture
async def log(database: Database) -> AuditLog:
    return await changing_log(database)


CLIENTS = (
    "SELECT count(*) FROM auth.encryption_vault_audit"
    " WHERE ip_address IS NOT NULL OR user_agent IS NOT NULL"
)


async def test_clients_are_taken_out(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redacting, "_PAGE", 7)
    await log.write(log.event(status=503), sealed=False)
    await log.write(log.event(), age=-3600)
    await log.seal()
    before = datetime.now(UTC) + timedelta(minutes=1)
    async with engine_of(log.database.url("custody_owner")) as engine:
        assert await redact(engine, before) == 40
        assert await redact(engine, before) == 0
        assert await count_without_seal(engine, before) == 1
    assert await log.database.value(CLIENTS) == 2
    assert (await log.verify()).is_good


@pytest.mark.parametrize("role", ["custody_app", "custody_rewrap"])
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM auth.encryption_vault_audit",
        "UPDATE auth.encryption_vault_audit SET ip_address = NULL",
        "DELETE FROM auth.encryption_audit_checkpoints",
        "DELETE FROM auth.encryption_audit_prunes",
        "INSERT INTO auth.encryption_audit_prunes (checkpoint, hashes, note) VALUES (1, '', '')",
        "UPDATE auth.encryption_audit_prunes SET note = ''",
        "TRUNCATE auth.encryption_audit_prunes",
    ],
)
async def test_no_runtime_role_can(module_database: Database, role: str, statement: str) -> None:
    async with module_database.connect(role) as connection:
        await connection.execute("SELECT set_config('custody.prunes_audit', 'on', false)")
        await connection.execute("SELECT set_config('custody.redacts_audit', 'on', false)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_the_owner_only_takes_clients_out(log: AuditLog) -> None:
    """Under row-level security as well: nothing, but while it says that it prunes or redacts."""
    async with log.database.connect("custody_owner") as owner:
        await owner.execute("SELECT set_config('custody.reads_audit', 'on', false)")
        assert await owner.execute("DELETE FROM auth.encryption_vault_audit") == "DELETE 0"
        edit = "UPDATE auth.encryption_vault_audit SET ip_address = '198.51.100.1'"
        assert await owner.execute(edit) == "UPDATE 0"
        await owner.execute("SELECT set_config('custody.redacts_audit', 'on', false)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute(edit)
