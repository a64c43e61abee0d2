"""Who may verify, and what a thief of each role can read."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator

import pytest

from tests.client import Client, client_session
from tests.db.command import Done, custody
from tests.db.psql import DENIED, psql
from tests.db.test_verify import BOTH, verify
from tests.rewrap.kit import fill
from tests.servers import Daemon, Database

CHOOSE = "SELECT count(*) FROM auth.custody_choose_rows(1, 1)"
LIST = "SELECT count(*) FROM auth.custody_list_rows(0, 1)"
READ = "SELECT count(*) FROM auth.custody_load_rows(ARRAY['user-000000'])"
VAULTS = "SELECT count(*) FROM auth.encryption_vaults"


@pytest.fixture
async def logins(database: Database) -> AsyncIterator[dict[str, str]]:
    """Logins of the two roles that read: their URLs."""
    made = {role: f"login_{secrets.token_hex(4)}" for role in ("custody_audit", "custody_verify")}
    for role, login in made.items():
        await database.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'x' IN ROLE {role}")
    place = f"127.0.0.1:{database.server.port}/{database.name}"
    try:
        yield {role: f"postgresql://{login}:x@{place}" for role, login in made.items()}
    finally:
        for login in made.values():
            await database.execute(f"DROP ROLE {login}")


async def run(url: str, *words: str) -> Done:
    environ = {**BOTH, "CUSTODY_AUDIT_DATABASE_URL": url}
    return await asyncio.to_thread(custody, environ, *words)


@pytest.mark.prove
async def test_a_login_of_custody_verify(database: Database, logins: dict[str, str]) -> None:
    await fill(database, 10)
    done = await run(logins["custody_verify"], "verify", "--all", "--json")
    assert (done.code, json.loads(done.out)["open"]) == (0, 10)
    assert (await run(logins["custody_verify"], "audit", "verify")).code == 0


@pytest.mark.prove
async def test_who_reads_the_audit_reads_no_wrap(
    database: Database, logins: dict[str, str]
) -> None:
    await fill(database, 1)
    done = await run(logins["custody_audit"], "verify")
    assert (done.code, done.out) == (78, "")
    assert "this role may not read the wraps of all rows; it must be custody_verify" in (
        done.complaint
    )


@pytest.mark.parametrize("role", ["custody_app", "custody_rewrap", "custody_audit"])
@pytest.mark.parametrize("sql", [CHOOSE, LIST, READ])
async def test_no_other_role_runs_the_functions(database: Database, role: str, sql: str) -> None:
    await fill(database, 1)
    acting = f"SET ROLE {role}; {sql}" if role == "custody_audit" else sql
    said = psql(database, "postgres" if role == "custody_audit" else role, acting)
    assert DENIED in said


async def test_nothing_is_left_open(database: Database) -> None:
    """After the functions a session sees as little as before: the owner, too."""
    await fill(database, 3)
    for sql in (CHOOSE, LIST, READ):
        assert psql(database, "custody_owner", f"BEGIN; {sql}; {VAULTS}; COMMIT").split()[-1] == "0"


@pytest.mark.prove
async def test_custody_verify_sees_no_recovery_wrap_and_no_table(
    daemon: Daemon, logins: dict[str, str]
) -> None:
    async with client_session() as session:
        await Client(daemon, session, "alice").init()
    database = daemon.database
    for table in ("encryption_vaults", "users", "rewrap_runs"):
        assert DENIED in psql(database, "postgres", f"SET ROLE custody_verify; TABLE auth.{table}")
    columns = await database.value(
        "SELECT proargnames::text FROM pg_proc WHERE proname = 'custody_load_rows'"
    )
    assert "recovery_wrapped_mk" not in columns
    assert "recovery_iv" not in columns


async def test_a_database_of_before(empty: Database) -> None:
    await empty.execute("CREATE SCHEMA auth AUTHORIZATION custody_owner")
    done = await verify(empty)
    assert done.code == 78
    assert "custody migrate" in done.complaint
