"""A backup by a role that may read everything and is no superuser, and what is restored of it."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.client import Client, client_session
from tests.db.posture import problems_of
from tests.majors import NEW_CLIENTS
from tests.servers import ROOT, Daemon, Database, daemon_here

GUIDE = ROOT / "docs/how-to/back-up-and-restore.md"


@asynccontextmanager
async def backup_role(database: Database) -> AsyncIterator[tuple[str, str]]:
    """Make the role of the guide under a name of its own; yields that and its URL."""
    name = f"backup_{secrets.token_hex(4)}"
    for phrase in ("ROLE custody_backup", "TO custody_backup"):
        (sql,) = (line for line in GUIDE.read_text().splitlines() if phrase in line)
        await database.execute(sql.replace("custody_backup", name))
    try:
        place = f"127.0.0.1:{database.server.port}/{database.name}"
        yield name, f"postgresql://{name}:change-me-backup@{place}"
    finally:
        await database.execute(f"DROP ROLE {name}")


@NEW_CLIENTS
@pytest.mark.parametrize("restorer", ["postgres", "custody_owner"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="whole"),
        pytest.param(["--no-comments"], id="without comments", marks=pytest.mark.prove),
    ],
)
async def test_dump_and_restore(
    daemon: Daemon, empty: Database, tmp_path: Path, options: list[str], restorer: str
) -> None:
    """The restored database is as good as the first: old keys, and new users."""
    file = str(tmp_path / "custody.dump")
    async with client_session() as session:
        first = await Client(daemon, session, "alice").init()
    async with backup_role(daemon.database) as (role, url):
        dump = ("-Fc", "-f", file, *options, "-d", url)
        done = daemon.database.tool("pg_dump", role, *dump)
        assert done.returncode == 0, done.stderr
        done = empty.tool("pg_restore", restorer, "--exit-on-error", file)
        assert done.returncode == 0, done.stderr
        assert await problems_of(empty.url("custody_app")) == ()
        async with (
            daemon_here(empty, daemon.issuer, tmp_path) as again,
            client_session() as session,
        ):
            assert (await Client(again, session, "alice").key()).json == first.json
            assert (await Client(again, session, "bob").init()).status == 200


@pytest.mark.parametrize("lacking", ["BYPASSRLS", "pg_read_all_data"])
async def test_role_that_lacks_one_of_the_two(
    database: Database, tmp_path: Path, lacking: str
) -> None:
    async with backup_role(database) as (role, url):
        take = {
            "BYPASSRLS": f"ALTER ROLE {role} NOBYPASSRLS",
            "pg_read_all_data": f"REVOKE pg_read_all_data FROM {role}",
        }
        await database.execute(take[lacking])
        dump = ("-Fc", "-f", str(tmp_path / "custody.dump"), "-d", url)
        done = database.tool("pg_dump", role, *dump)
    assert done.returncode == 1
    assert ("row-level security" if lacking == "BYPASSRLS" else "permission denied") in done.stderr
