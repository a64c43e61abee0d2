"""What holds rows to their seals, tried as each role, with an owner that is one or superuser."""
# ruff: noqa: S608 - the SQL is of this file

from typing import Any

import asyncpg
import pytest

from custody.db.engine import Dsn
from custody.db.migrate import migrate
from custody.db.queries import query
from tests.db.data_keys import add_sealed_row
from tests.servers import Database

UPDATE = "UPDATE auth.encryption_vaults SET"
INSERT = "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, seal)"
SERIAL = "SELECT seal_serial FROM auth.encryption_vaults WHERE user_id = $1"
ROW = "SELECT * FROM auth.encryption_vaults WHERE user_id = $1"
# A daemon of before, as its transactions begin.
DEADLINE = "SELECT set_config('app.deadline', '99999999999', true)"


@pytest.fixture(params=["custody_owner", pytest.param("postgres", marks=pytest.mark.prove)])
async def owned(request: pytest.FixtureRequest, empty: Database) -> Database:
    """A database that an ordinary role has migrated, or superuser; old, sealed, and ZK rows."""
    await migrate(Dsn(empty.url(request.param)))
    for user in ("sealed", "other"):
        await add_sealed_row(empty, user, f"s-{user}")
    await empty.execute(
        "INSERT INTO auth.users (id) VALUES ('old'), ('zoe'), ('new');"
        "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version,"
        " key_check) VALUES ('old', 'w', 'iv', 2, 'check');"
        "INSERT INTO auth.encryption_vaults (user_id, recovery_wrapped_mk, recovery_iv,"
        " zero_knowledge) VALUES ('zoe', 'r', 'i', true)"
    )
    return empty


async def as_app(database: Database, user: str, sql: str, *parameters: Any, begin: str = "") -> str:
    """Run one statement as custody_app, in a user's scope."""
    async with database.connect("custody_app") as app, app.transaction():
        await app.execute("SELECT set_config('app.current_user_id', $1, true)", user)
        if begin:
            await app.execute(begin)
        return str(await app.execute(sql, *parameters))


async def as_rewrap(database: Database, sql: str) -> str:
    async with database.connect("custody_rewrap") as rewrap:
        return str(await rewrap.execute(sql))


FALLS = ("format_version = 2", "format_version = 1", "format_version = 0", "format_version = -1")
TAKEN = ("key_check = NULL", "seal = NULL")


@pytest.mark.prove
@pytest.mark.parametrize("change", [*FALLS, *TAKEN])
async def test_what_nobody_may_take(owned: Database, change: str) -> None:
    refusals = asyncpg.RestrictViolationError, asyncpg.InsufficientPrivilegeError
    before = await owned.fetch(ROW, "sealed")
    with pytest.raises(asyncpg.RestrictViolationError):
        await owned.execute(f"{UPDATE} {change}, quarantine_reason = 'x' WHERE user_id = 'sealed'")
    with pytest.raises(refusals):
        await as_app(owned, "sealed", f"{UPDATE} {change}")
    with pytest.raises(refusals):
        await as_rewrap(owned, f"{UPDATE} {change}")
    assert await owned.fetch(ROW, "sealed") == before


@pytest.mark.prove
@pytest.mark.parametrize("change", ["format_version = 1", "key_check = NULL"])
async def test_an_old_row_keeps_what_it_has_too(owned: Database, change: str) -> None:
    with pytest.raises(asyncpg.RestrictViolationError):
        await owned.execute(f"{UPDATE} {change} WHERE user_id = 'old'")


@pytest.mark.parametrize(
    "change",
    [
        "wrapped_mk = 'planted', wrap_iv = 'x'",
        "kek_id = 'other'",
        "format_version = 3",
        "key_check = 'mine'",
        "recovery_wrapped_mk = 'r', recovery_iv = 'i'",
        "zero_knowledge = false",
        "quarantined_at = now()",
        "generation = generation",
    ],
)
async def test_an_old_row_is_frozen_for_the_daemons_role(owned: Database, change: str) -> None:
    refusals = asyncpg.RestrictViolationError, asyncpg.InsufficientPrivilegeError
    for user in ("old", "zoe"):
        before = await owned.fetch(ROW, user)
        with pytest.raises(refusals):
            await as_app(owned, user, f"{UPDATE} {change}")
        assert await owned.fetch(ROW, user) == before


async def test_an_old_row_may_become_a_sealed_one(owned: Database) -> None:
    bring = f"{UPDATE} wrapped_mk = 'n', wrap_iv = 'i', format_version = 3, seal = 's'"
    assert await as_app(owned, "old", bring, begin=DEADLINE) == "UPDATE 1"
    assert await owned.value(SERIAL, "old") == 1
    with pytest.raises(asyncpg.RestrictViolationError, match="old format"):
        await as_app(
            owned, "zoe", f"{UPDATE} wrapped_mk = 'w', wrap_iv = '', zero_knowledge = false"
        )


async def test_an_old_wrap_is_not_sealed_as_it_is(owned: Database) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="encryption_vaults_app_updates"):
        await as_app(owned, "old", f"{UPDATE} seal = 's'", begin=DEADLINE)


async def test_the_worker_writes_no_old_wrap(owned: Database) -> None:
    with pytest.raises(asyncpg.RestrictViolationError, match="old format"):
        await as_rewrap(owned, f"{UPDATE} wrapped_mk = 'planted' WHERE user_id = 'old'")
    for change in ("quarantined_at = now()", "quarantined_at = NULL"):
        assert await as_rewrap(owned, f"{UPDATE} {change} WHERE user_id = 'old'") == "UPDATE 1"
    assert await owned.value(SERIAL, "old") == 0
    assert (
        await as_rewrap(owned, f"{UPDATE} wrapped_mk = 'n' WHERE user_id = 'sealed'") == "UPDATE 1"
    )
    assert await owned.value(SERIAL, "sealed") == 0


@pytest.mark.parametrize(
    ("wrap", "form", "seal"), [("w", 3, None), ("w", 2, "s"), ("w", 1, None), ("w", -1, "s")]
)
async def test_the_daemons_role_inserts_sealed_rows_alone(
    owned: Database, wrap: str, form: int, seal: str | None
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await as_app(owned, "new", f"{INSERT} VALUES ('new', $1, '', $2, $3)", wrap, form, seal)
    assert await owned.fetch(ROW, "new") == []
    assert await as_app(owned, "new", f"{INSERT} VALUES ('new', 'w', '', 3, 's')") == "INSERT 0 1"
    assert await owned.value(SERIAL, "new") == 0


@pytest.mark.prove
async def test_the_serial_counts_every_change_and_never_goes_back(owned: Database) -> None:
    steps = (
        ("generation = 7, seal = 's7'", 1),
        ("generation = 1, seal = 's-sealed'", 2),  # all as it was, but for the serial
        ("seal = 's-sealed'", 2),
        ("wrapped_mk = 'w2', wrap_iv = 'i2', kek_id = 'k2'", 2),
        ("quarantined_at = NULL", 2),
        ("key_check = 'c2'", 3),
        ("recovery_wrapped_mk = 'r', recovery_iv = 'i'", 4),
        ("recovery_set_at = now()", 5),
        ("recovery_format_version = 2", 6),
        ("wrapped_mk = NULL, wrap_iv = NULL", 7),
        ("zero_knowledge = true", 8),
    )
    for change, serial in steps:
        await as_app(owned, "sealed", f"{UPDATE} {change}")
        assert await owned.value(SERIAL, "sealed") == serial, change
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_app(owned, "sealed", f"{UPDATE} seal_serial = 0")
    # Nor may whoever is above row-level security be stopped: that remains.
    await owned.execute(f"{UPDATE} seal_serial = 0 WHERE user_id = 'sealed'")
    assert await owned.value(SERIAL, "sealed") == 0


@pytest.mark.prove
async def test_a_daemon_of_before_changes_no_sealed_row(owned: Database) -> None:
    """Its statements, as they were: refused, not stored under a seal that does not fit."""
    rotate = (
        f"{UPDATE} wrapped_mk = 'n', wrap_iv = 'i', format_version = 2, key_check = 'c',"
        " generation = generation + 1, rotated_at = now(), recovery_wrapped_mk = NULL"
    )
    changes = (
        rotate,
        rotate.replace("format_version = 2", "format_version = 3"),
        f"{UPDATE} recovery_wrapped_mk = 'r', recovery_iv = 'i', recovery_set_at = now()",
        (
            f"{UPDATE} zero_knowledge = true, wrapped_mk = NULL, wrap_iv = NULL,"
            " recovery_wrapped_mk = 'r', recovery_iv = 'i'"
        ),
    )
    before = await owned.fetch(ROW, "sealed")
    for change in changes:
        with pytest.raises(asyncpg.RestrictViolationError):
            await as_app(owned, "sealed", change, begin=DEADLINE)
    init = "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version)"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await as_app(owned, "new", f"{init} VALUES ('new', 'w', '', 2)", begin=DEADLINE)
    assert await owned.fetch(ROW, "sealed") == before


@pytest.mark.prove
async def test_a_planted_format_locks_nobody_out(owned: Database) -> None:
    await as_app(owned, "sealed", f"{UPDATE} format_version = 32767")
    heal = (
        f"{UPDATE} format_version = 3, wrapped_mk = 'n', seal = 's2', generation = generation + 1"
    )
    assert await as_app(owned, "sealed", heal, begin=DEADLINE) == "UPDATE 1"


@pytest.mark.prove
async def test_what_the_daemon_writes(owned: Database) -> None:
    """The two statements of this release."""
    insert, change = query("add_vault"), query("change_vault")
    made = "new", 5, "w", "", 3, "k", "check", "s0"
    assert await as_app(owned, "new", insert, *made, begin=DEADLINE) == "INSERT 0 1"
    state = (6, False, "w2", "i2", 3, "k2", "check2", None, None, 1, None, None, None, None)
    await owned.execute(f"{UPDATE} quarantined_at = now() WHERE user_id = 'new'")
    for version, expected in ((1, "UPDATE 0"), (2, "UPDATE 1")):
        done = await as_app(owned, "new", change, "new", version, *state, "s1", begin=DEADLINE)
        assert done == expected
    row = dict((await owned.fetch(ROW, "new"))[0])
    assert (row["generation"], row["seal"], row["seal_serial"], row["wrapped_mk"]) == (
        6,
        "s1",
        1,
        "w2",
    )
    assert row["rotated_at"] is not None
    assert row["quarantined_at"] is None
    rotated = row["rotated_at"]
    # A recovery wrap: neither a rotate, nor another server wrap.
    await owned.execute(f"{UPDATE} quarantined_at = now() WHERE user_id = 'new'")
    state_2 = (*state[:7], "r", "ri", 1, *state[10:])
    done = await as_app(owned, "new", change, "new", 4, *state_2, "s2", begin=DEADLINE)
    assert done == "UPDATE 1"
    row = dict((await owned.fetch(ROW, "new"))[0])
    assert (row["rotated_at"], row["seal_serial"]) == (rotated, 2)
    assert row["quarantined_at"] is not None


@pytest.mark.prove
async def test_a_row_is_restored_by_the_owner_as_the_guide_says(owned: Database) -> None:
    """DELETE and INSERT, serial and all: an UPDATE of its own would count."""
    before = await owned.fetch(ROW, "sealed")
    await owned.execute(f"{UPDATE} seal_serial = 5 WHERE user_id = 'sealed'")
    role = await owned.value(
        "SELECT tableowner FROM pg_tables WHERE tablename = 'encryption_vaults'"
    )
    names = ", ".join(before[0].keys())
    places = ", ".join(f"${n}" for n in range(1, len(before[0]) + 1))
    async with owned.connect(role) as owner, owner.transaction():
        await owner.execute("SELECT set_config('app.current_user_id', 'sealed', true)")
        await owner.execute("DELETE FROM auth.encryption_vaults WHERE user_id = 'sealed'")
        await owner.execute(
            f"INSERT INTO auth.encryption_vaults ({names}) VALUES ({places})", *before[0].values()
        )
    assert await owned.fetch(ROW, "sealed") == before


@pytest.mark.prove
async def test_the_functions_that_bring_over_pass(owned: Database) -> None:
    async with owned.connect("custody_rewrap") as rewrap:
        (old,) = await rewrap.fetch(query("read_unsealed"), "env-v1", 2, "", None, 9)
        (zoe,) = await rewrap.fetch(query("read_unsealed"), "", 0, "", None, 9)
        columns = (
            ["old", "zoe"],
            [old["row_version"], zoe["row_version"]],
            ["n", None],
            ["i", None],
            ["now", None],
            ["c", None],
            ["s-old", "s-zoe"],
        )
        began = await rewrap.fetchval("SELECT now()")
        assert await rewrap.fetchval(query("seal_rows"), *columns, began) == 2
    for user in ("old", "zoe"):
        assert await owned.value(SERIAL, user) == 1


PENDING = (
    f"{UPDATE} previous_wrapped_mk = 'p', previous_wrap_iv = 'i', previous_generation ="
    " generation - 1, seal = 's-pending' WHERE user_id = 'sealed'"
)


@pytest.mark.prove
@pytest.mark.parametrize(
    "change",
    [
        "generation = generation + 1",
        "previous_wrapped_mk = 'q'",
        "previous_wrap_iv = 'j'",
        "previous_generation = generation - 2",
    ],
)
async def test_neither_key_of_a_pending_rotation_is_replaced(owned: Database, change: str) -> None:
    assert await as_app(owned, "sealed", PENDING) == "UPDATE 1"
    replaced = f"{UPDATE} {change}, seal = 's-next' WHERE user_id = 'sealed'"
    with pytest.raises(asyncpg.RestrictViolationError, match="neither of its keys is replaced"):
        await as_app(owned, "sealed", replaced)
    gone = "previous_wrapped_mk = NULL, previous_wrap_iv = NULL, previous_generation = NULL"
    ended = f"{UPDATE} {gone}, seal = 's-next' WHERE user_id = 'sealed'"
    assert await as_app(owned, "sealed", ended) == "UPDATE 1"
