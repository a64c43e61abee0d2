"""Vaults in partitions: docs/scale.md says how, and that nothing else changes."""

from pathlib import Path

import pytest

from custody.db.posture import Duty
from tests.client import Client, client_session
from tests.db.posture import migrate_by_psql, problems_of
from tests.majors import NEW_CLIENTS
from tests.partitions import partition_vaults
from tests.rewrap.kit import fill, keyring, opened, rewrap, stamps
from tests.servers import Daemon, Database, daemon_here

pytestmark = NEW_CLIENTS


@pytest.fixture
async def parts(database: Database) -> Database:
    """A migrated database whose vaults are in four partitions."""
    await partition_vaults(database, 4)
    return database


@pytest.mark.prove
async def test_life(daemon: Daemon, tmp_path: Path) -> None:
    database = daemon.database
    async with client_session() as session:
        first = await Client(daemon, session, "alice").init()
    await partition_vaults(database, 4)
    assert await problems_of(database.url("custody_app")) == ()
    assert await problems_of(database.url("custody_rewrap"), "custody_rewrap") == ()
    async with daemon_here(database, daemon.issuer, tmp_path) as again, client_session() as session:
        assert (await Client(again, session, "alice").key()).json == first.json
        for user in range(20):
            assert (await Client(again, session, f"user-{user}").init()).status == 200


async def test_run(parts: Database) -> None:
    """Its claims page through all partitions as through one table."""
    ledger = await fill(parts, 300)
    run = await rewrap(parts, keyring(), batch=40)
    assert run.done == 300
    assert await stamps(parts) == {("env-v2", 3): 300}
    assert await opened(parts, keyring()) == ledger


@pytest.mark.prove
async def test_migrations_again(parts: Database) -> None:
    """An upgrade runs over partitions as over one table."""
    migrate_by_psql(parts)
    assert await problems_of(parts.url("custody_app")) == ()


@pytest.mark.parametrize("duty", ["custody_app", "custody_rewrap"])
async def test_partition_that_a_role_reads_by_itself(parts: Database, duty: Duty) -> None:
    """The row-level security of the table does not hold there."""
    await parts.execute(f"GRANT SELECT (user_id) ON auth.encryption_vaults_2 TO {duty}")
    (problem,) = await problems_of(parts.url(duty), duty)
    assert problem.message.startswith(f"the role {duty} may read auth.encryption_vaults_2 past")
