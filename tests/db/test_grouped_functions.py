"""The two functions of the hot path, asked directly: the database judges each row for its user."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from tests.client import Client
from tests.db.breaking import GIVE_USERS_AWAY
from tests.db.psql import DENIED, POLICY, psql
from tests.servers import Database

USERS = ("alice", "bob", "carol")
READ = "SELECT place, known, user_id FROM auth.custody_load_vaults($1) ORDER BY place"
RECORD = "SELECT auth.custody_record_events($1, $2)"
TRAIL = "SELECT id, user_id FROM auth.encryption_vault_audit ORDER BY id"
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


@pytest.fixture
async def filled(database: Database, device: Callable[[str], Client]) -> Database:
    """Vaults of three users."""
    for user in USERS:
        assert (await device(user).init()).status == 200
    await database.execute("TRUNCATE auth.encryption_vault_audit")
    return database


async def record(connection: Any, deadline: float, *rows: tuple[str, str]) -> None:
    """Record a fetch for each id and user."""
    events = [{"id": key, "user_id": user, "action": "fetch", "status": 200} for key, user in rows]
    await connection.fetchval(RECORD, deadline, json.dumps(events))


async def trail(database: Database) -> list[tuple[str, str]]:
    return [tuple(row) for row in await database.fetch(TRAIL)]


@pytest.mark.prove
async def test_each_place_has_its_own_users_row(filled: Database) -> None:
    asked = ["bob", "nobody", "alice", "bob", "", "carol"]
    async with filled.connect("custody_app") as app:
        rows = await app.fetch(READ, asked)
        assert [row["place"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert [row["user_id"] for row in rows] == ["bob", None, "alice", "bob", None, "carol"]
        assert await app.fetch(READ, []) == []


@pytest.mark.prove
async def test_the_policy_judges_and_not_the_condition(filled: Database) -> None:
    """Without its WHERE the function reads the table: still each place sees its own user alone."""
    source = await filled.value("SELECT pg_get_functiondef('auth.custody_load_vaults'::regproc)")
    bare = source.replace(" WHERE own.user_id = scope.user_id", " WHERE scope.user_id IS NOT NULL")
    assert bare != source
    await filled.execute(bare)
    async with filled.connect("custody_app") as app:
        rows = await app.fetch(READ, ["bob", "nobody", "alice"])
        assert [(row["place"], row["user_id"]) for row in rows] == [
            (1, "bob"),
            (2, None),
            (3, "alice"),
        ]
    # And without the policies it would see them all: the test can fail.
    await filled.execute("ALTER TABLE auth.encryption_vaults DISABLE ROW LEVEL SECURITY")
    async with filled.connect("custody_app") as app:
        assert len(await app.fetch(READ, ["bob"])) == 3


@pytest.mark.prove
async def test_scope_ends_with_the_call(filled: Database) -> None:
    scope = "SELECT current_setting('app.current_user_id', true)"
    count = "SELECT count(*) FROM auth.encryption_vaults"
    async with filled.connect("custody_app") as app:
        await app.fetch(READ, ["alice"])
        assert await app.fetchval(scope) == ""
        async with app.transaction():
            await app.execute("SELECT set_config('app.current_user_id', 'bob', true)")
            await app.fetch(READ, ["alice"])
            assert await app.fetchval(scope) == ""
            assert await app.fetchval(count) == 0
            later = await app.fetchval(NOW) + 60
            await record(app, later, ("1", "alice"))
            assert await app.fetchval(scope) == ""


@pytest.mark.parametrize("function", ["custody_load_vaults", "custody_record_events"])
async def test_nobody_else_may_run_them(filled: Database, function: str) -> None:
    await filled.execute("CREATE ROLE bystander LOGIN PASSWORD 'x'")
    try:
        await filled.execute("GRANT USAGE ON SCHEMA auth TO bystander")
        for role, may in (("bystander", False), ("custody_rewrap", False), ("custody_app", True)):
            assert may == await filled.value(
                "SELECT has_function_privilege($1, $2::regproc::oid, 'EXECUTE')",
                role,
                f"auth.{function}",
            )
    finally:
        await filled.execute("DROP OWNED BY bystander; DROP ROLE bystander")


@pytest.mark.prove
async def test_rewrap_role_reads_and_writes_in_nobodys_name(filled: Database) -> None:
    read = "SELECT * FROM auth.custody_load_vaults(ARRAY['alice'])"
    assert DENIED in psql(filled, "custody_rewrap", read)
    await filled.execute(
        "GRANT EXECUTE ON FUNCTION auth.custody_record_events TO custody_rewrap;"
        "GRANT EXECUTE ON FUNCTION auth.custody_load_vaults TO custody_rewrap"
    )
    # Even then they lend it no rights: they run with those of the caller.
    assert DENIED in psql(filled, "custody_rewrap", read)
    async with filled.connect("custody_rewrap") as rewrap:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=POLICY):
            await record(rewrap, await rewrap.fetchval(NOW) + 60, ("1", "alice"))
    assert await trail(filled) == []


async def test_rows_are_committed_and_an_id_counts_once(filled: Database) -> None:
    async with filled.connect("custody_app") as app:
        later = await app.fetchval(NOW) + 60
        await record(app, later, ("1", "alice"), ("2", "bob"), ("3", "carol"))
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="of 2 audit rows 1"):
            await record(app, later, ("4", "alice"), ("2", "carol"))
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="of 2 audit rows 1"):
            await record(app, later, ("5", "alice"), ("5", "carol"))
        assert await app.fetchval("SELECT current_setting('app.current_user_id', true)") == ""
    assert await trail(filled) == [("1", "alice"), ("2", "bob"), ("3", "carol")]


async def test_a_row_that_something_takes_away_is_an_error(filled: Database) -> None:
    await filled.execute(
        "CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN IF NEW.user_id = ''bob'' THEN RETURN NULL; END IF; RETURN NEW; END';"
        "CREATE TRIGGER swallow BEFORE INSERT ON auth.encryption_vault_audit"
        " FOR EACH ROW EXECUTE FUNCTION public.swallow()"
    )
    async with filled.connect("custody_app") as app:
        later = await app.fetchval(NOW) + 60
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await record(app, later, ("1", "alice"), ("2", "bob"))
    assert await trail(filled) == []


async def test_policy_judges_each_row_in_the_scope_of_its_own_user(filled: Database) -> None:
    """With a scope that stays that of the first row's user, the second row is refused."""
    source = await filled.value("SELECT pg_get_functiondef('auth.custody_record_events'::regproc)")
    first = "events->0->>'user_id'"
    changed = source.replace(
        "set_config('app.current_user_id', user_id,", f"set_config('app.current_user_id', {first},"
    )
    assert changed != source
    await filled.execute(changed)
    async with filled.connect("custody_app") as app:
        later = await app.fetchval(NOW) + 60
        await record(app, later, ("1", "alice"), ("2", "alice"))
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=POLICY):
            await record(app, later, ("3", "alice"), ("4", "bob"))
    assert await trail(filled) == [("1", "alice"), ("2", "alice")]


async def test_after_the_deadline_nothing_is_committed(filled: Database) -> None:
    async with filled.connect("custody_app") as app:
        now = await app.fetchval(NOW)
        with pytest.raises(asyncpg.QueryCanceledError, match="deadline"):
            await record(app, now - 0.01, ("1", "alice"), ("2", "bob"))
        # The deadline of one call is not that of the next.
        await record(app, now + 60, ("3", "carol"))
    assert await trail(filled) == [("3", "carol")]


@pytest.mark.prove
async def test_deadline_that_passes_while_it_waits_for_a_lock(filled: Database) -> None:
    async with filled.connect("custody_app") as app, filled.connect() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("LOCK TABLE auth.encryption_vault_audit IN EXCLUSIVE MODE")
        call = asyncio.create_task(record(app, await app.fetchval(NOW) + 0.3, ("1", "alice")))
        await asyncio.sleep(0.6)
        await transaction.rollback()
        with pytest.raises(asyncpg.QueryCanceledError):
            await call
    assert await trail(filled) == []


@pytest.mark.prove
async def test_a_lock_is_not_waited_for_for_ever(filled: Database) -> None:
    async with filled.connect("custody_app") as app, filled.connect() as other, other.transaction():
        await other.execute("LOCK TABLE auth.encryption_vault_audit, auth.encryption_vaults")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await record(app, await app.fetchval(NOW) + 60, ("1", "alice"))
        with pytest.raises(asyncpg.LockNotAvailableError):
            await app.fetch(READ, ["alice"])


@pytest.mark.parametrize(("default", "used"), [("off", "on"), ("local", "local"), ("on", "on")])
async def test_committed_means_on_disk(filled: Database, default: str, used: str) -> None:
    async with filled.connect("custody_app") as app, app.transaction():
        await app.execute(f"SET synchronous_commit = {default}")
        await record(app, await app.fetchval(NOW) + 60, ("1", "alice"))
        assert await app.fetchval("SHOW synchronous_commit") == used


async def test_without_the_right_to_insert_nothing_is_recorded(filled: Database) -> None:
    await filled.execute("REVOKE INSERT ON auth.encryption_vault_audit FROM custody_app")
    async with filled.connect("custody_app") as app:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await record(app, await app.fetchval(NOW) + 60, ("1", "alice"))
    assert await trail(filled) == []


async def test_someone_elses_users_are_known_or_not(filled: Database) -> None:
    await filled.execute("INSERT INTO auth.users (id) VALUES ('dave')")
    await filled.execute(GIVE_USERS_AWAY)
    async with filled.connect("custody_app") as app:
        rows = await app.fetch(READ, ["dave", "mallory", "alice"])
    assert [row["known"] for row in rows] == [True, False, True]
