"""Migrations: once, in order, one at a time, all or nothing, and by psql alone."""

import asyncio
import json
from pathlib import Path

import pytest

from custody.db import migrate as module
from custody.db.engine import Dsn
from custody.db.migrate import MigrationError, migrate, migrations
from custody.db.owner import OwnerRefused
from custody.development.postgres import EmbeddedPostgres
from tests.client import Client, client_session
from tests.db.command import custody
from tests.db.connecting import owner
from tests.db.posture import login, migrate_by_psql, migrations_until
from tests.ports import free_port
from tests.servers import Database, daemon_here
from tests.tokens import Issuer

NAMES = [migration.name for migration in migrations()]
HISTORY = "SELECT array_agg(name ORDER BY name) FROM auth.custody_migrations"


def test_names_are_ordered() -> None:
    assert [name.split("_")[0] for name in NAMES] == [f"{n + 1:04}" for n in range(len(NAMES))]


async def test_fresh_database_then_nothing_left_to_do(empty: Database) -> None:
    assert list(await migrate(owner(empty))) == NAMES
    assert await empty.value(HISTORY) == NAMES
    assert await migrate(owner(empty)) == ()


async def test_two_at_once_share_the_work(empty: Database) -> None:
    both = await asyncio.gather(*(migrate(owner(empty)) for _ in range(2)))
    assert sorted(both[0] + both[1]) == NAMES  # each file by one of them
    assert await empty.value(HISTORY) == NAMES


@pytest.mark.prove
async def test_waits_for_another_and_says_so_in_the_end(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_TIMEOUT_SECONDS", 1)
    async with empty.connect("custody_owner") as other:
        await other.execute("SELECT pg_advisory_lock($1)", module._LOCK)
        with pytest.raises(MigrationError, match="another migration has been running for 1 s"):
            await migrate(owner(empty))
    assert await empty.value("SELECT to_regnamespace('auth')") is None


@pytest.mark.prove
async def test_lock_of_a_table_in_use_times_out(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(owner(empty))
    await empty.execute("DELETE FROM auth.custody_migrations WHERE name LIKE '0003%'")
    monkeypatch.setattr(module, "_LOCK_TIMEOUT_SECONDS", 1)
    async with empty.connect() as other, other.transaction():
        await other.execute("LOCK TABLE auth.encryption_vaults IN SHARE MODE")
        with pytest.raises(MigrationError, match="stop what uses the tables"):
            await migrate(owner(empty))
    assert await migrate(owner(empty)) == ("0003_create_vaults",)


async def test_lock_ends_with_the_migration(empty: Database) -> None:
    await migrate(owner(empty))
    assert await empty.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def test_changed_file_is_refused(empty: Database, tmp_path: Path) -> None:
    source = migrations_until(NAMES[-1], tmp_path)
    await migrate(owner(empty), source)
    changed = source / "0002_create_users.sql"
    changed.write_text(changed.read_text() + "-- a comment\n")
    (source / "0099_add_thing.sql").write_text("CREATE TABLE auth.thing ();")
    with pytest.raises(MigrationError, match="0002_create_users was changed after"):
        await migrate(owner(empty), source)
    assert await empty.value("SELECT to_regclass('auth.thing')") is None


async def test_failing_file_leaves_the_earlier_ones(empty: Database, tmp_path: Path) -> None:
    source = migrations_until(NAMES[-1], tmp_path)
    bad = source / "0003_create_vaults.sql"
    good_text = bad.read_text()
    bad.write_text("CREATE TABLE auth.half (); SELECT 1 / 0;")
    with pytest.raises(MigrationError, match="0003_create_vaults: division by zero"):
        await migrate(owner(empty), source)
    assert await empty.value(HISTORY) == NAMES[:2]
    assert await empty.value("SELECT to_regclass('auth.half')") is None
    bad.write_text(good_text)
    assert list(await migrate(owner(empty), source)) == NAMES[2:]


async def test_message_of_a_failure_shows_no_row(empty: Database, tmp_path: Path) -> None:
    source = tmp_path / "migrations"
    source.mkdir()
    (source / "0001_a.sql").write_text(
        "CREATE TABLE auth.t (wrap TEXT CHECK (length(wrap) < 3));"
        "INSERT INTO auth.t VALUES ('a wrapped key');"
    )
    with pytest.raises(MigrationError) as caught:
        await migrate(owner(empty), source)
    assert "violates check constraint" in str(caught.value)
    assert "a wrapped key" not in str(caught.value)


@pytest.mark.prove
async def test_files_run_by_psql_alone_and_again(
    empty: Database, issuer: Issuer, tmp_path: Path
) -> None:
    for _ in range(2):
        migrate_by_psql(empty, "-1")
    async with daemon_here(empty, issuer, tmp_path) as daemon, client_session() as session:
        first = await Client(daemon, session, "alice").init()
        assert first.status == 200
    migrate_by_psql(empty)
    assert list(await migrate(owner(empty))) == NAMES
    async with daemon_here(empty, issuer, tmp_path) as daemon, client_session() as session:
        assert (await Client(daemon, session, "alice").key()).json == first.json


@pytest.mark.prove
async def test_same_schema_by_psql_and_by_migrate(empty: Database, database: Database) -> None:
    migrate_by_psql(empty)
    assert shape(empty) == shape(database)


def shape(database: Database) -> list[str]:
    """Return what is in the schema, but for the record of migrations."""
    schema = ("-s", "-n", "auth", "-T", "auth.custody_migrations*")
    done = database.tool("pg_dump", "postgres", *schema)
    assert done.returncode == 0, done.stderr
    # Without psql's own commands, which hold a random word.
    return [line for line in done.stdout.splitlines() if not line.startswith("\\")]


async def test_without_the_right_to_make_roles(empty: Database, tmp_path: Path) -> None:
    """On a server of its own kind: roles belong to the whole cluster, so they get other names."""
    source = migrations_until(NAMES[-1], tmp_path)
    file = source / "0001_create_roles.sql"
    file.write_text(
        file.read_text()
        .replace("'custody_app', 'custody_rewrap'", "'absent_app', 'absent_rewrap'")
        .replace("TO custody_app, custody_rewrap", "TO absent_app, absent_rewrap")
    )
    async with login(empty) as (role, url):
        await empty.execute(f"ALTER DATABASE {empty.name} OWNER TO {role}")
        with pytest.raises(OwnerRefused) as caught:
            await migrate(Dsn(url), source)
        said = str(caught.value)
        assert f"the role absent_app is missing and {role} may not make it" in said
        assert "CREATE ROLE custody_app NOLOGIN; CREATE ROLE custody_rewrap NOLOGIN;" in said
        assert "\n" not in said
        # With the roles there, an owner without CREATEROLE can do all of it.
        assert list(await migrate(Dsn(url))) == NAMES
        await empty.execute(f"ALTER DATABASE {empty.name} OWNER TO postgres")


@pytest.mark.prove
def test_command_without_roles_nor_the_right_to_make_them(folder: Path) -> None:
    """On a server where nobody has made the runtime roles."""
    with EmbeddedPostgres(folder / "pg", durable=False) as server:
        database = Database(server, "custody")
        done = database.psql("postgres", "-c", "ALTER ROLE custody_owner NOCREATEROLE")
        assert done.returncode == 0, done.stderr
        environ = {"CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner")}
        refused = custody(environ, "migrate")
        assert refused.code == 78
        assert "As an administrator run: CREATE ROLE custody_app NOLOGIN;" in refused.complaint
        sql = refused.complaint.partition("run: ")[2]
        assert database.psql("postgres", "-c", sql).returncode == 0
        assert custody(environ, "migrate").code == 0


@pytest.mark.prove
def test_command(empty: Database) -> None:
    environ = {"CUSTODY_OWNER_DATABASE_URL": empty.url("custody_owner")}
    first = custody(environ, "migrate", "--json")
    assert first.code == 0
    assert json.loads(first.out) == {"applied": NAMES, "problems": [], "advice": []}
    again = custody(environ, "migrate")
    assert (again.code, again.out, again.err) == (0, "the database is up to date\n", "")


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        (
            "ALTER TABLE auth.encryption_vaults NO FORCE ROW LEVEL SECURITY",
            "row-level security is not enabled and forced on auth.encryption_vaults",
        ),
        ("ALTER TABLE auth.encryption_vault_audit DISABLE TRIGGER USER", "trigger"),
        ("GRANT DELETE ON auth.encryption_vault_audit TO custody_app", "custody_app may DELETE"),
        ("REVOKE SELECT ON auth.encryption_keks FROM custody_rewrap", "may not SELECT"),
    ],
    ids=["no force", "trigger", "right too many", "right missing"],
)
async def test_command_never_says_done_of_what_the_daemon_refuses(
    database: Database, sql: str, problem: str
) -> None:
    await database.execute(sql)
    environ = {"CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner")}
    done = custody(environ, "migrate")
    assert (done.code, done.out) == (78, "")
    lines = done.err.splitlines()
    assert all(line.startswith("custody: the daemon would refuse this") for line in lines)
    assert any(problem in line for line in lines), lines
    shown = json.loads(custody(environ, "migrate", "--json").out)
    assert shown["applied"] == []
    assert [
        f"custody: the daemon would refuse this database: {one['message']}"
        for one in shown["problems"]
    ] == lines


@pytest.mark.parametrize(
    ("change", "code", "phrase"),
    [
        (("custody_owner:", "custody_owner:wrong"), 78, "password authentication failed"),
        (("custody_owner:", "nobody_here:"), 78, "password authentication failed"),
        (("/test_", "/absent_"), 78, "does not exist"),
        (("PORT", "CLOSED"), 69, "no connection to the database"),
        (("PORT", ":port"), 78, "CUSTODY_OWNER_DATABASE_URL"),
    ],
    ids=["wrong password", "wrong role", "no such database", "down", "unreadable"],
)
def test_command_that_cannot_connect(
    database: Database, change: tuple[str, str], code: int, phrase: str
) -> None:
    old, new = (
        part.replace("PORT", f":{database.server.port}").replace("CLOSED", f":{free_port()}")
        for part in change
    )
    url = database.url("custody_owner").replace(old, new, 1)
    done = custody({"CUSTODY_OWNER_DATABASE_URL": url}, "migrate")
    assert done.code == code
    assert phrase in done.complaint
    assert url.split(":")[2].split("@")[0] not in done.err


def test_command_without_a_url() -> None:
    done = custody({}, "migrate")
    assert (done.code, done.out) == (78, "")
    assert "CUSTODY_OWNER_DATABASE_URL must be set" in done.complaint
