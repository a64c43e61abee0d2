"""Settings that a role, a database or a URL brings change nothing, or are named with a cure."""

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from custody.db.checkout import acquire
from custody.db.errors import DatabaseError
from custody.db.posture import Duty, find_problems
from custody.db.scope import transaction
from custody.settings import ConfigurationError
from tests.client import Client, client_session
from tests.db.connecting import engine_of
from tests.db.posture import login, problems_of
from tests.proofs import some
from tests.servers import Database, daemon_here
from tests.tokens import Issuer

HARMLESS = (
    "search_path = public, auth",
    "search_path = ''",
    "quote_all_identifiers = on",
    "standard_conforming_strings = off",
    "default_transaction_isolation = serializable",
    "default_transaction_deferrable = on",
    "synchronous_commit = off",
    "lock_timeout = 1",
    "statement_timeout = 500",
    "transform_null_equals = on",
    "array_nulls = off",
    "bytea_output = escape",
    "DateStyle = German",
    "IntervalStyle = sql_standard",
    "TimeZone = 'Asia/Kathmandu'",
    "extra_float_digits = -15",
    "client_encoding = latin1",
    "jit_above_cost = 0",
    "plan_cache_mode = force_generic_plan",
    "plpgsql.variable_conflict = use_variable",
    "plpgsql.extra_errors = 'all'",
    "app.deadline = '0'",
)
_QUICK = HARMLESS[:1] + HARMLESS[-4:]
# setting, what is said between the role and the cure
NAMED = {
    "session_replication_role = replica": (
        "it switches off triggers and foreign keys: deadlines are not held, and retired KEKs are "
        "written"
    ),
    "row_security = off": "every statement that row-level security would narrow fails",
    "default_transaction_read_only = on": "nothing can be written",
    "statement_timeout = 90": "it ends what a request needs",
    "idle_in_transaction_session_timeout = 90": "it ends what a request needs",
    "idle_session_timeout = 99": "it ends what a request needs",
}
# how it is set → how it is taken back
PLACES = {
    "ALTER ROLE {role} IN DATABASE {database} ": "ALTER ROLE {role} IN DATABASE {database} RESET ",
    "ALTER ROLE {role} ": "ALTER ROLE {role} RESET ",
    "ALTER DATABASE {database} ": "ALTER DATABASE {database} RESET ",
}
DUTIES: tuple[Duty, ...] = ("custody_app", "custody_rewrap")


@pytest.mark.parametrize("setting", some(HARMLESS, *_QUICK))
async def test_settings_that_change_nothing(
    database: Database, issuer: Issuer, tmp_path: Path, setting: str
) -> None:
    await database.execute(f"ALTER DATABASE {database.name} SET {setting}")
    assert await problems_of(database.url("custody_rewrap"), "custody_rewrap") == ()
    async with daemon_here(database, issuer, tmp_path) as daemon, client_session() as session:

        async def live(user: str) -> list[int]:
            device = Client(daemon, session, user)
            calls = (device.init, device.key, device.rotate, device.status, device.key)
            return [(await call()).status for call in calls]

        seen = await asyncio.gather(*(live(f"user-{number}") for number in range(3)))
    assert seen == [[200] * 5] * 3


@pytest.mark.parametrize("place", some([*PLACES], *[*PLACES][:1]))
@pytest.mark.parametrize("setting", NAMED)
async def test_settings_that_are_named(database: Database, setting: str, place: str) -> None:
    name, value = setting.split(" = ")
    for duty in DUTIES:
        async with login(database, duty) as (role, url):
            names = {"role": role, "database": database.name}
            await database.execute(f"{place.format(**names)} SET {setting}")
            (found,) = await problems_of(url, duty)
            cure = f"{PLACES[place].format(**names)}{name}"
            if name == "default_transaction_read_only":  # which the administrator has as well
                cure = f"BEGIN READ WRITE; {cure}; COMMIT"
            unit = "ms" if name.endswith("timeout") else ""
            assert found.part == "roles"
            assert found.message == (
                f"{name} is {value}{unit} for the role {role}: {NAMED[setting]}; run: {cure}"
            )
            await database.execute(cure)
            assert await problems_of(url, duty) == ()


@pytest.mark.prove
async def test_nearest_place_is_named_first(database: Database) -> None:
    async with login(database, "custody_app") as (role, url):
        places = (
            f"ALTER DATABASE {database.name}",
            f"ALTER ROLE {role}",
            f"ALTER ROLE {role} IN DATABASE {database.name}",
        )
        for place in places:
            await database.execute(f"{place} SET row_security = off")
        for place in reversed(places):
            (found,) = await problems_of(url)
            assert found.message.endswith(f"run: {place} RESET row_security")
            await database.execute(found.message.rpartition("run: ")[2])
        assert await problems_of(url) == ()


async def test_setting_of_the_url(database: Database) -> None:
    (found,) = await problems_of(f"{database.url('custody_app')}?options=-c%20row_security%3Doff")
    assert found.message.endswith("take it out of the URL or the server's own configuration")
    search_path = f"{database.url('custody_app')}?options=-c%20search_path%3Dpublic,auth"
    assert await problems_of(search_path) == ()


async def test_daemon_does_not_start_with_triggers_switched_off(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    await database.execute(f"ALTER DATABASE {database.name} SET session_replication_role = replica")
    with pytest.raises(ConfigurationError, match="session_replication_role is replica"):
        async with daemon_here(database, issuer, tmp_path):
            pass


async def test_what_is_stored_is_on_disk_whatever_the_role_says(database: Database) -> None:
    await database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = off")
    async with engine_of(database.url("custody_rewrap")) as engine, transaction(engine) as held:
        assert await held.fetchval("SHOW synchronous_commit") == "on"


# A millisecond may be too little for what a session begins with: make chaos has that.
@pytest.mark.prove
@pytest.mark.parametrize("setting", ["statement_timeout = 90", "row_security = off"])
async def test_what_is_taken_back_does_not_live_on_in_a_pool(
    database: Database, setting: str
) -> None:
    """A session keeps what its role had when it began: those that are no good are let go."""
    async with login(database, "custody_app") as (role, url), engine_of(url, 4) as engine:
        await database.execute(f"ALTER ROLE {role} SET {setting}")
        async with AsyncExitStack() as borrowed:
            for _ in range(4):
                await borrowed.enter_async_context(acquire(engine))
        await database.execute(f"ALTER ROLE {role} RESET ALL")
        for _ in range(4):  # each may be the end of one
            with suppress(DatabaseError):
                await find_problems(engine, "custody_app")
        async with AsyncExitStack() as borrowed:
            for _ in range(4):
                connection = await borrowed.enter_async_context(acquire(engine))
                name, _, value = setting.partition(" = ")
                assert await connection.fetchval(f"SHOW {name}") not in {value, f"{value}ms"}
