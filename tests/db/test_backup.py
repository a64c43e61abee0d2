"""A backup by a role that may read everything and is no superuser, and what is restored of it."""

import os
import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.client import Client, client_session
from tests.db.test_posture import problems_of
from tests.servers import ROOT, Daemon, Database, daemon_here, new_database
from tests.tokens import Issuer

GUIDE = ROOT / "docs/self-hosting.md"


@asynccontextmanager
async def backup_role(database: Database) -> AsyncIterator[str]:
    """Make the role of the guide under a name of its own; yields that."""
    name = f"backup_{secrets.token_hex(4)}"
    (create,) = (line for line in GUIDE.read_text().splitlines() if "ROLE custody_backup" in line)
    (grant,) = (line for line in GUIDE.read_text().splitlines() if "TO custody_backup" in line)
    for sql in (create, grant):
        await database.execute(sql.replace("custody_backup", name))
    try:
        yield name
    finally:
        await database.execute(f"DROP ROLE {name}")


def tool(
    database: Database, program: str, role: str, *arguments: str, password: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a client program of PostgreSQL to its end."""
    secret = {"PGPASSFILE": str(database.server.folder / "pgpass")}
    return subprocess.run(
        [
            str(database.server.bin / program),
            *("-h", "127.0.0.1", "-p", str(database.server.port), "-U", role),
            *("-d", database.name, *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], **({"PGPASSWORD": password} if password else secret)},
    )


@pytest.mark.parametrize("restorer", ["postgres", "custody_owner"])
@pytest.mark.parametrize("options", [[], ["--no-comments"]], ids=["whole", "without comments"])
async def test_dump_and_restore(
    daemon: Daemon, issuer: Issuer, tmp_path: Path, options: list[str], restorer: str
) -> None:
    """The restored database is as good as the first: old keys, and new users."""
    postgres = daemon.database.server
    file = tmp_path / "custody.dump"
    async with client_session() as session:
        first = await Client(daemon, session, "alice").init()
    async with (
        backup_role(daemon.database) as role,
        new_database(postgres, "template0") as restored,
    ):
        dump = ("-Fc", "-f", str(file), *options)
        done = tool(daemon.database, "pg_dump", role, *dump, password="change-me-backup")
        assert done.returncode == 0, done.stderr
        done = tool(restored, "pg_restore", restorer, "--exit-on-error", str(file))
        assert done.returncode == 0, done.stderr
        assert await problems_of(restored.url("custody_app")) == ()
        async with daemon_here(restored, issuer, tmp_path) as again, client_session() as session:
            assert (await Client(again, session, "alice").key()).json == first.json
            assert (await Client(again, session, "bob").init()).status == 200


@pytest.mark.parametrize("lacking", ["BYPASSRLS", "pg_read_all_data"])
async def test_role_that_lacks_one_of_the_two(
    database: Database, tmp_path: Path, lacking: str
) -> None:
    async with backup_role(database) as role:
        take = {
            "BYPASSRLS": f"ALTER ROLE {role} NOBYPASSRLS",
            "pg_read_all_data": f"REVOKE pg_read_all_data FROM {role}",
        }
        await database.execute(take[lacking])
        file = ("-Fc", "-f", str(tmp_path / "custody.dump"))
        done = tool(database, "pg_dump", role, *file, password="change-me-backup")
    assert done.returncode == 1
    assert ("row-level security" if lacking == "BYPASSRLS" else "permission denied") in done.stderr
