"""An owner that can't do its work is told so before anything is done, with SQL that cures it."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from custody.db.engine import Dsn
from custody.db.migrate import MigrationError, migrate, migrations
from custody.db.owner import OwnerError, OwnerRefused
from custody.development.postgres import EmbeddedPostgres
from tests.db.posture import login, problems_of
from tests.majors import MAJOR
from tests.proofs import some
from tests.servers import Database

NAMES = [migration.name for migration in migrations()]
APP_READS = "SELECT has_column_privilege('custody_app', 'auth.users', 'id', 'SELECT')"


@dataclass(frozen=True)
class Owner:
    """A plain role that may make things in a database, and no roles."""

    database: Database
    role: str
    dsn: Dsn

    async def refusal(self) -> str:
        """Return why it may not migrate."""
        with pytest.raises(OwnerRefused) as caught:
            await migrate(self.dsn)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    async def cure(self, refusal: str) -> None:
        """Do what the message says."""
        await self.database.execute(refusal.rpartition("run: ")[2])


@pytest.fixture
async def owner(empty: Database) -> AsyncIterator[Owner]:
    async with login(empty) as (role, url):
        await empty.execute(f"GRANT CREATE ON DATABASE {empty.name} TO {role}")
        yield Owner(empty, role, Dsn(url))


@pytest.mark.prove
@pytest.mark.parametrize("rights", ["USAGE, CREATE", "USAGE"])
async def test_schema_of_another_role(owner: Owner, rights: str) -> None:
    """PostgreSQL only warns of a GRANT that does nothing."""
    await owner.database.execute(
        f"CREATE SCHEMA auth AUTHORIZATION postgres; GRANT {rights} ON SCHEMA auth TO {owner.role}"
    )
    refusal = await owner.refusal()
    assert refusal == (
        f"the schema auth belongs to postgres, and {owner.role} may not make things in it and let "
        f"the runtime roles use it; as postgres run: GRANT USAGE, CREATE ON SCHEMA auth TO "
        f"{owner.role} WITH GRANT OPTION"
    )
    assert await owner.database.value("SELECT to_regclass('auth.custody_migrations')") is None
    await owner.cure(refusal)
    assert list(await migrate(owner.dsn)) == NAMES
    assert await problems_of(owner.database.url("custody_app")) == ()


async def test_schema_of_another_role_who_has_let_the_runtime_roles_in(owner: Owner) -> None:
    await owner.database.execute(
        f"CREATE SCHEMA auth AUTHORIZATION postgres; GRANT CREATE, USAGE ON SCHEMA auth"
        f" TO {owner.role}; GRANT USAGE ON SCHEMA auth TO custody_app, custody_rewrap"
    )
    assert list(await migrate(owner.dsn)) == NAMES
    assert await problems_of(owner.database.url("custody_app")) == ()


@pytest.mark.parametrize("rights", ["SELECT, REFERENCES", "SELECT"])
async def test_users_of_another_role(owner: Owner, rights: str) -> None:
    await owner.database.execute(
        f"CREATE SCHEMA auth AUTHORIZATION {owner.role};"
        "CREATE TABLE auth.users (id TEXT PRIMARY KEY, email TEXT);"
        f"GRANT {rights} ON auth.users TO {owner.role}"
    )
    refusal = await owner.refusal()
    assert refusal == (
        f"auth.users belongs to postgres, and {owner.role} may not refer to its id and let "
        "custody_app read that; as postgres run: GRANT SELECT (id) ON auth.users TO "
        f"{owner.role} WITH GRANT OPTION; GRANT REFERENCES (id) ON auth.users TO {owner.role}"
    )
    await owner.cure(refusal)
    assert list(await migrate(owner.dsn)) == NAMES
    assert await owner.database.value(APP_READS)
    assert await problems_of(owner.database.url("custody_app")) == ()


@pytest.mark.parametrize("kind", ["uuid", "bigint", "integer", "character(36)", "name"])
async def test_ids_that_are_no_text(owner: Owner, kind: str) -> None:
    await owner.database.execute(
        f"CREATE SCHEMA auth AUTHORIZATION {owner.role};"
        f"CREATE TABLE auth.users (id {kind} PRIMARY KEY);"
        f"ALTER TABLE auth.users OWNER TO {owner.role}"
    )
    refusal = await owner.refusal()
    assert refusal.startswith(f"auth.users has the id as {kind}, and a user is named by text here")
    await owner.cure(refusal)
    assert list(await migrate(owner.dsn)) == NAMES


async def test_ids_that_are_not_there(owner: Owner) -> None:
    await owner.database.execute(
        f"CREATE SCHEMA auth AUTHORIZATION {owner.role}; CREATE TABLE auth.users (name TEXT);"
        f"ALTER TABLE auth.users OWNER TO {owner.role}"
    )
    assert (await owner.refusal()).startswith("auth.users has no column id, and a user is named")


@pytest.mark.prove
async def test_ids_of_limited_length_are_text(owner: Owner) -> None:
    await owner.database.execute(
        f"CREATE SCHEMA auth AUTHORIZATION {owner.role};"
        "CREATE TABLE auth.users (id VARCHAR(64) PRIMARY KEY);"
        f"ALTER TABLE auth.users OWNER TO {owner.role}"
    )
    assert list(await migrate(owner.dsn)) == NAMES
    assert await problems_of(owner.database.url("custody_app")) == ()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
async def test_encoding(postgres: EmbeddedPostgres, encoding: str) -> None:
    name = f"test_{secrets.token_hex(6)}"
    database = Database(postgres, name)
    async with Database(postgres, "postgres").connect() as admin:
        provider = "LOCALE_PROVIDER libc" if MAJOR > 14 else ""
        how = f"ENCODING '{encoding}' TEMPLATE template0 {provider} LOCALE 'C'"
        await admin.execute(f"CREATE DATABASE {name} {how} OWNER custody_owner")
        try:
            message = f"the encoding of the database is {encoding}, and user ids and user agents"
            with pytest.raises(OwnerRefused, match=message):
                await migrate(Dsn(database.url("custody_owner")))
            found = await problems_of(database.url("custody_app"))
            assert any(problem.message.startswith(message) for problem in found)
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


SETTINGS = (
    "search_path = public, auth",
    "search_path = ''",
    "row_security = off",
    "default_transaction_isolation = serializable",
    "session_replication_role = replica",
    "statement_timeout = 50",
    "lock_timeout = 1",
    "idle_in_transaction_session_timeout = 20",
    "transaction_timeout = 100",
    "quote_all_identifiers = on",
    "standard_conforming_strings = off",
    "check_function_bodies = off",
    "transform_null_equals = on",
    "client_min_messages = error",
    "plpgsql.variable_conflict = use_variable",
)


@pytest.mark.parametrize("setting", some(SETTINGS, *SETTINGS[1:6]))
async def test_settings_that_change_nothing(owner: Owner, setting: str) -> None:
    if setting.startswith("transaction_timeout") and MAJOR < 17:
        pytest.skip("PostgreSQL 17: there is a transaction_timeout")
    await owner.database.execute(f"ALTER ROLE {owner.role} SET {setting}")
    assert list(await migrate(owner.dsn)) == NAMES
    assert await problems_of(owner.database.url("custody_app")) == ()


async def test_read_only_role(owner: Owner) -> None:
    await owner.database.execute(f"ALTER ROLE {owner.role} SET default_transaction_read_only = on")
    with pytest.raises(OwnerError) as caught:
        await migrate(owner.dsn)
    assert isinstance(caught.value, OwnerRefused)
    assert not isinstance(caught.value, MigrationError)
    assert "RESET default_transaction_read_only" in str(caught.value)
