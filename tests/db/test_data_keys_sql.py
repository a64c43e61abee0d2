"""Data keys in the database: one is made by whoever is first, and moved without being lost."""
# ruff: noqa: S608 - the SQL is of this file

import asyncio
from typing import Any

import asyncpg
import pytest

from custody.db.queries import query
from custody.keks.records import list_data_keys
from tests.db.connecting import engine_of
from tests.db.data_keys import ADD, DROP, FORGET, PUT, RETIRE, add, add_sealed_row, ask, new_id
from tests.db.kek_registry import REGISTER, register, retire, states
from tests.db.psql import psql
from tests.eventually import eventually
from tests.servers import Database

IDS = "SELECT id FROM auth.encryption_data_keys ORDER BY id"
# How many sessions wait for a row that another one holds.
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND wait_event = 'transactionid'"
)
WRAPS = "SELECT kek_id, wrapped_key FROM auth.encryption_data_key_wraps ORDER BY kek_id"


async def ids(database: Database) -> list[str]:
    return [row["id"] for row in await database.fetch(IDS)]


async def wraps(database: Database) -> dict[str, str]:
    return dict(await database.fetch(WRAPS))


# ── made once ─────────────────────────────────────────────────────────────────


async def test_many_first_boots_make_one(database: Database) -> None:
    made = await asyncio.gather(*(add(database) for _ in range(20)))
    assert len(set(made)) == 1
    assert await ids(database) == [made[0]]
    assert await wraps(database) == {"env-v1": "wrapped"}


async def test_in_an_older_snapshot_none_is_made(database: Database) -> None:
    async with database.connect("custody_app") as app:
        with pytest.raises(asyncpg.InvalidTransactionStateError, match="READ COMMITTED"):
            async with app.transaction(isolation="repeatable_read"):
                await app.fetchval(ADD, new_id(), "env-v1", [])
    assert await ids(database) == []


async def test_a_record_that_is_none_of_ours_is_in_nobodys_way(database: Database) -> None:
    first = await add(database)
    second = await add(database, bad=(first,))
    assert await ids(database) == sorted([first, second])
    assert await add(database) == min(first, second)


async def test_none_is_made_beside_rows_that_it_could_not_judge(database: Database) -> None:
    first = await add(database)
    await add_sealed_row(database, "alice", f"1.{first}.00")
    assert await ask(database, "custody_app", ADD, new_id(), "env-v1", [first]) is None
    await database.execute("DELETE FROM auth.encryption_data_keys")
    assert await ask(database, "custody_rewrap", ADD, new_id(), "env-v1", []) is None
    assert await ids(database) == []
    # Nothing that it looked at stays open behind it.
    sql = ADD.replace("$1", f"'{new_id()}'").replace("$2", "'k'").replace("$3", "'{}'")
    left = psql(
        database, "custody_owner", f"BEGIN; {sql}; SELECT count(*) FROM auth.encryption_vaults"
    )
    assert left.split() == ["0"]


async def test_rows_under_a_lost_key_are_in_nobodys_way(database: Database) -> None:
    first = await add(database)
    await add_sealed_row(database, "alice", f"1.{first}.00")
    await database.execute("UPDATE auth.encryption_data_keys SET lost_at = now()")
    second = await add(database)
    assert second != first
    await add_sealed_row(database, "bob", f"1.{second}.00")
    assert await ask(database, "custody_app", ADD, new_id(), "env-v1", [second]) is None


@pytest.mark.prove
async def test_16_records_at_most(database: Database) -> None:
    made: list[str] = []
    for _ in range(16):
        made.append(await add(database, bad=tuple(made)))
    assert len(set(made)) == 16
    with pytest.raises(asyncpg.RestrictViolationError, match="16 records"):
        await add(database, bad=tuple(made))
    assert await add(database, bad=tuple(made[1:])) == made[0]


@pytest.mark.parametrize("text", ["dk-1", "dk-" + "A" * 32, "dk-" + "0" * 33, "", "0" * 35])
async def test_what_is_no_id(database: Database, text: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await ask(database, "custody_app", ADD, text, "env-v1", [])


# ── moved ─────────────────────────────────────────────────────────────────────


async def test_a_wrap_is_put_and_replaced_by_compare_and_set(database: Database) -> None:
    key = await add(database)

    async def put(wrapped: str, instead_of: str | None) -> bool:
        return bool(await ask(database, "custody_rewrap", PUT, key, "k2", wrapped, instead_of))

    assert await put("junk", None) is True
    assert await put("good", None) is False
    assert await put("good", "other") is False
    assert await put("good", "junk") is True
    assert await wraps(database) == {"env-v1": "wrapped", "k2": "good"}
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await ask(database, "custody_rewrap", PUT, new_id(), "k2", "w", None)


async def test_the_last_wrap_is_never_dropped(database: Database) -> None:
    key = await add(database)

    async def drop(kek_id: str, keeps: str) -> bool:
        return bool(await ask(database, "custody_rewrap", DROP, key, kek_id, keeps))

    assert await drop("env-v1", "k2") is False
    assert await drop("env-v1", "env-v1") is False
    await ask(database, "custody_rewrap", PUT, key, "k2", "good", None)
    assert await drop("k3", "k2") is False
    assert await drop("env-v1", "k2") is True
    assert await drop("k2", "env-v1") is False
    assert await wraps(database) == {"k2": "good"}


@pytest.mark.prove
async def test_two_that_drop_each_others_leave_one(database: Database) -> None:
    for _ in range(5):
        await database.execute("DELETE FROM auth.encryption_data_keys")
        key = await add(database)
        await ask(database, "custody_rewrap", PUT, key, "k2", "good", None)
        done = await asyncio.gather(
            ask(database, "custody_rewrap", DROP, key, "env-v1", "k2"),
            ask(database, "custody_rewrap", DROP, key, "k2", "env-v1"),
            return_exceptions=True,  # one of two may be the victim of a deadlock
        )
        assert sum(one is True for one in done) <= 1
        assert len(await wraps(database)) >= 1


# ── retired KEKs ──────────────────────────────────────────────────────────────


async def test_no_data_key_is_wrapped_under_a_retired_kek(database: Database) -> None:
    await register(database, "old")
    assert await retire(database, "old") == "retired"
    with pytest.raises(asyncpg.PostgresError, match="the KEK old is retired") as caught:
        await ask(database, "custody_app", ADD, new_id(), "old", [])
    assert caught.value.sqlstate == "KEK01"
    key = await add(database)
    with pytest.raises(asyncpg.PostgresError, match="the KEK old is retired"):
        await ask(database, "custody_rewrap", PUT, key, "old", "w", None)
    with pytest.raises(asyncpg.PostgresError, match="the KEK old is retired"):
        await database.execute("UPDATE auth.encryption_data_key_wraps SET kek_id = 'old'")


async def test_a_kek_that_wraps_a_data_key_is_not_retired(database: Database) -> None:
    await register(database, "old")
    key = await add(database, "old")
    assert await retire(database, "old") == "data-keys"
    async with database.connect("custody_app") as app:
        rows = await app.fetch(query("list_keks_in_use"))
        assert [tuple(row) for row in rows] == [("old", False)]
    await add_sealed_row(database, "alice", "s", "old")
    assert await retire(database, "old") == "in-use"
    await database.execute("DELETE FROM auth.encryption_vaults")
    await ask(database, "custody_rewrap", PUT, key, "now", "w", None)
    await ask(database, "custody_rewrap", DROP, key, "old", "now")
    assert await retire(database, "old") == "retired"


async def test_no_wrap_is_put_by_an_older_snapshot(database: Database) -> None:
    """It could miss that the KEK was retired."""
    key = await add(database)
    async with database.connect("custody_rewrap") as worker:
        with pytest.raises(asyncpg.InvalidTransactionStateError, match="READ COMMITTED"):
            async with worker.transaction(isolation="repeatable_read"):
                await worker.fetchval(PUT, key, "k2", "w", None)
    assert await wraps(database) == {"env-v1": "wrapped"}


async def test_the_wrap_that_is_kept_can_not_go_at_the_same_moment(database: Database) -> None:
    key = await add(database)
    await ask(database, "custody_rewrap", PUT, key, "k2", "w", None)
    async with database.connect("custody_rewrap") as first:
        transaction = first.transaction()
        await transaction.start()
        assert await first.fetchval(DROP, key, "env-v1", "k2") is True
        second = asyncio.create_task(ask(database, "custody_rewrap", DROP, key, "k2", "env-v1"))
        await eventually(lambda: database.value(WAITING))
        await transaction.commit()
        assert await second is False
    assert await wraps(database) == {"k2": "w"}


@pytest.mark.prove
async def test_a_retirement_waits_for_whoever_wraps_a_data_key(database: Database) -> None:
    """Either it sees the wrap, or the writer sees that the KEK is retired."""
    await register(database, "old")
    key = await add(database)
    async with database.connect("custody_rewrap") as writer:
        transaction = writer.transaction()
        await transaction.start()
        await writer.fetchval(PUT, key, "old", "w", None)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await ask(database, "custody_rewrap", RETIRE, "old")
        await transaction.commit()
    assert await retire(database, "old") == "data-keys"


# ── who may do what ───────────────────────────────────────────────────────────

READS = (
    "SELECT count(*) FROM auth.encryption_data_keys",
    "SELECT count(*) FROM auth.encryption_data_key_wraps",
)
WRITES = (
    "INSERT INTO auth.encryption_data_keys (id, seal) VALUES ('dk-1', 's')",
    "UPDATE auth.encryption_data_keys SET lost_at = now()",
    "DELETE FROM auth.encryption_data_keys",
    "TRUNCATE auth.encryption_data_keys CASCADE",
    "INSERT INTO auth.encryption_data_key_wraps VALUES ('dk-1', 'k', 'w', '', 3)",
    "UPDATE auth.encryption_data_key_wraps SET wrapped_key = 'x'",
    "DELETE FROM auth.encryption_data_key_wraps",
    "SELECT auth.custody_forget_kek('k')",
)
OF_THE_WORKER = (
    "SELECT auth.custody_put_data_key_wrap('dk', 'k', 'w', '', NULL)",
    "SELECT auth.custody_drop_data_key_wrap('dk', 'k', 'k2')",
    "SELECT * FROM auth.custody_read_unsealed('k', 2::smallint, '', NULL, 1)",
    "SELECT auth.custody_seal_rows('{}', '{}', '{}', '{}', '{}', '{}', '{}', now())",
)


@pytest.mark.parametrize("role", ["custody_app", "custody_rewrap"])
async def test_rights(database: Database, role: str) -> None:
    for sql in READS:
        assert psql(database, role, sql) == "0"
    for sql in WRITES:
        assert "permission denied" in psql(database, role, sql), sql
    for sql in OF_THE_WORKER:
        assert ("permission denied" in psql(database, role, sql)) is (role == "custody_app"), sql


async def test_a_stranger_calls_nothing(database: Database) -> None:
    """What PUBLIC may do is what each role may that is made in this database."""
    await database.execute(
        "CREATE ROLE stranger LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA auth TO stranger"
    )
    try:
        rights = await database.fetch(
            "SELECT oid::regprocedure::text AS name FROM pg_proc"
            " WHERE pronamespace = 'auth'::regnamespace AND prorettype <> 'trigger'::regtype"
            " AND has_function_privilege('stranger', oid, 'EXECUTE')"
        )
        assert rights == []
    finally:
        await database.execute("DROP OWNED BY stranger; DROP ROLE stranger")


# ── forgotten by the owner ────────────────────────────────────────────────────


async def forget(database: Database, record: str) -> str:
    return str(await ask(database, "custody_owner", FORGET, record))


async def live_daemon(database: Database, writes: str) -> None:
    await ask(
        database,
        "custody_app",
        "INSERT INTO auth.custody_instances (id, host, process, writes_uri, writes_kek_id, reads)"
        " VALUES ('i', 'h', 1, 'u', $1, '{}')",
        writes,
    )


async def test_forgetting_a_data_key(database: Database) -> None:
    assert await forget(database, new_id()) == "unknown"
    first = await add(database)
    second = await add(database, bad=(first,))
    await add_sealed_row(database, "alice", f"1.{second}.00")
    await live_daemon(database, "env-v1")
    assert await forget(database, second) == "in-use"
    assert await forget(database, first) == "forgotten"
    assert await ids(database) == [second]
    assert await wraps(database) == {"env-v1": "wrapped"}
    await database.execute("DELETE FROM auth.encryption_vaults")
    # A live daemon may be about to seal with the only one there is.
    assert await forget(database, second) == "written"
    await database.execute(
        "UPDATE auth.custody_instances SET heartbeat_at = now() - interval '2 min'"
    )
    assert await forget(database, second) == "forgotten"
    assert await ids(database) == []


async def test_forgetting_a_kek(database: Database) -> None:
    assert await forget(database, "old") == "unknown"
    await register(database, "old", "f", seal="s", active=True)
    await add_sealed_row(database, "alice", "s", "old")
    assert await forget(database, "old") == "in-use"
    await database.execute("DELETE FROM auth.encryption_vaults")
    key = await add(database, "old")
    assert await forget(database, "old") == "data-keys"
    await database.execute("DELETE FROM auth.encryption_data_keys WHERE id = $1", key)
    await live_daemon(database, "old")
    assert await forget(database, "old") == "written"
    await database.execute("DELETE FROM auth.custody_instances")
    assert await forget(database, "old") == "forgotten"
    assert await states(database) == {}


async def test_a_retirement_is_forgotten_only_where_it_is_not_sealed(database: Database) -> None:
    """The next kek_id may be registered and retired by whoever has both passwords."""
    await register(database, "old", "f", seal="s")
    await register(database, "next", "f")
    for kek_id in ("old", "next"):
        assert await retire(database, kek_id) == "retired"
    assert await forget(database, "old") == "retired"
    assert await forget(database, "next") == "forgotten"
    # One with a seal that does not hold loses it, and nothing else.
    before = await database.fetch("SELECT to_jsonb(kek) - 'seal' FROM auth.encryption_keks AS kek")
    assert await ask(database, "custody_app", "SELECT auth.custody_doubt_kek('old', 'x')") is False
    assert await ask(database, "custody_app", "SELECT auth.custody_doubt_kek('old', 's')") is True
    assert (
        await database.fetch("SELECT to_jsonb(kek) - 'seal' FROM auth.encryption_keks AS kek")
        == before
    )
    assert await forget(database, "old") == "forgotten"


async def test_in_an_older_snapshot_nothing_is_forgotten(database: Database) -> None:
    """It could miss a row that carries the kek_id."""
    await register(database, "old")
    async with database.connect("custody_owner") as owner:
        with pytest.raises(asyncpg.InvalidTransactionStateError, match="READ COMMITTED"):
            async with owner.transaction(isolation="serializable"):
                await owner.fetchval(FORGET, "old")
    assert list(await states(database)) == ["old"]


@pytest.mark.parametrize("role", ["postgres", "custody_owner"])
async def test_a_record_goes_by_no_other_way(database: Database, role: str) -> None:
    await register(database, "old")
    assert "23001" in psql(database, role, "DELETE FROM auth.encryption_keks")
    left = f"BEGIN; {FORGET.replace('$1', repr('none'))}; DELETE FROM auth.encryption_keks"
    assert "23001" in psql(database, role, left)
    # One that is being forgotten opens the way for no other.
    other = "SELECT set_config('custody.forgets', 'other', true)"
    assert "23001" in psql(database, role, f"BEGIN; {other}; DELETE FROM auth.encryption_keks")


async def test_without_a_seal_nobody_changes_what_is_sealed(database: Database) -> None:
    """With the fingerprint, which is no secret."""
    await register(database, "old", "f", seal="s")
    sealed = "SELECT kek_id, backend, fingerprint, seal FROM auth.encryption_keks"
    before = await database.fetch(sealed)
    async with database.connect("custody_app") as thief:
        await thief.fetch(REGISTER, "old", "aws-kms", "aws-kms:alias/x", "f", None, False)
    assert await database.fetch(sealed) == before


@pytest.mark.parametrize("role", ["postgres", "custody_owner"])
async def test_what_a_sealed_record_stands_for_stays(database: Database, role: str) -> None:
    await register(database, "old", "f", seal="s")
    before = await states(database)
    update = "UPDATE auth.encryption_keks SET"
    for change in ("fingerprint = 'g'", "fingerprint = NULL", "kek_id = 'new'"):
        assert "23001" in psql(database, role, f"{update} {change}")
    # A retired one takes no other seal, either: it could be forgotten, or not, by it.
    await retire(database, "old")
    for change in ("seal = 'x'", "state = 'active'", "fingerprint = 'g'"):
        assert "23001" in psql(database, role, f"{update} {change}")
    assert await states(database) == before | {"old": "retired"}
    assert psql(database, role, f"{update} seal = NULL") == ""
    assert "23001" in psql(database, role, f"{update} seal = 's'")


async def test_every_data_key_is_listed_with_its_wraps(database: Database) -> None:
    first = await add(database)
    await ask(database, "custody_rewrap", PUT, first, "k2", "w2", None)
    second = await add(database, bad=(first,))
    await database.execute(
        "DELETE FROM auth.encryption_data_key_wraps WHERE data_key_id = $1", second
    )
    async with database.connect("custody_app") as app:
        rows: list[Any] = await app.fetch(query("read_data_keys"))
    found = sorted((row["id"], row["kek_id"] or "", row["wrapped_key"]) for row in rows)
    assert found == sorted([(first, "env-v1", "wrapped"), (first, "k2", "w2"), (second, "", None)])
    async with engine_of(database.url("custody_rewrap")) as engine:
        listed = {key.id: key.kek_ids for key in await list_data_keys(engine)}
    assert listed == {first: ("env-v1", "k2"), second: ()}


# ── data keys that wrap ───────────────────────────────────────────────────────


async def test_no_row_is_written_under_a_data_key_that_is_not_on_record(database: Database) -> None:
    gone, there, lost = new_id(), await add(database), new_id()
    await database.execute(
        "INSERT INTO auth.encryption_data_keys (id, seal, lost_at) VALUES ($1, 's', now())", lost
    )
    bare = new_id()
    await database.execute("INSERT INTO auth.encryption_data_keys VALUES ($1, 's')", bare)
    await database.execute(
        "INSERT INTO auth.encryption_data_key_wraps VALUES ($1, 'env-v1', 'w', '', 3)", lost
    )
    for key_id in (gone, lost, bare):
        with pytest.raises(asyncpg.PostgresError, match="has a wrap: none may") as refused:
            await add_sealed_row(database, f"user of {key_id}", "s", key_id)
        assert refused.value.sqlstate == "KEK02"
    await add_sealed_row(database, "alice", "s", there)


async def test_a_data_key_that_wraps_is_neither_forgotten_nor_retired(database: Database) -> None:
    key = await add(database)
    await add_sealed_row(database, "alice", "s", key)
    assert await ask(database, "custody_owner", FORGET, key) == "in-use"
    assert await retire(database, key) == "data-key"
    await database.execute("DELETE FROM auth.encryption_vaults")
    assert await retire(database, key) == "data-key"
    assert await ask(database, "custody_owner", FORGET, key) == "forgotten"
    assert await ids(database) == []


@pytest.mark.parametrize("column", ["writes_kek_id", "seals_with"])
async def test_a_data_key_that_a_daemon_uses_is_not_forgotten(
    database: Database, column: str
) -> None:
    """Before any row carries it, and beside another record, which may be anybody's."""
    key = await add(database)
    await add(database, bad=(key,))
    await database.execute(
        "INSERT INTO auth.custody_instances (id, host, process, writes_uri, reads)"
        " VALUES ('i1', 'far', 7, 'u', '{}')"
    )
    await database.execute(f"UPDATE auth.custody_instances SET {column} = $1", key)
    assert await ask(database, "custody_owner", FORGET, key) == "written"
    await database.execute("DELETE FROM auth.custody_instances")
    assert await ask(database, "custody_owner", FORGET, key) == "forgotten"


@pytest.mark.prove
async def test_who_forgets_a_data_key_waits_for_who_writes_under_it(database: Database) -> None:
    key = await add(database)
    async with database.connect("custody_owner") as owner:
        async with database.connect() as writer, writer.transaction():
            await writer.execute("INSERT INTO auth.users (id) VALUES ('alice')")
            await writer.execute(
                "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version,"
                " kek_id, key_check, seal) VALUES ('alice', 'w', 'iv', 3, $1, 'check', 's')",
                key,
            )
            with pytest.raises(asyncpg.LockNotAvailableError):
                await owner.fetchval(FORGET, key)
        assert await owner.fetchval(FORGET, key) == "in-use"


async def test_a_kek_that_a_daemon_wraps_data_keys_under_is_not_retired(database: Database) -> None:
    await register(database, "old")
    await database.execute(
        "INSERT INTO auth.custody_instances (id, host, process, writes_uri, writes_kek_id,"
        " active_kek_id, reads) VALUES ('i1', 'far', 7, 'u', $1, 'old', '{}')",
        new_id(),
    )
    assert await retire(database, "old") == "written"
    await database.execute("DELETE FROM auth.custody_instances")
    assert await retire(database, "old") == "retired"
