"""``custody users erase``."""

import asyncio
import json

import pytest

from tests.client import Client, client_session
from tests.db.command import Done, custody
from tests.db.old_service import ROWS, move
from tests.ports import free_port
from tests.servers import Daemon, Database

VAULTS = "SELECT coalesce(array_agg(user_id ORDER BY user_id), '{}') FROM auth.encryption_vaults"
USERS = "SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM auth.users"


async def erase(database: Database, *arguments: str, role: str = "custody_owner") -> Done:
    environ = {"CUSTODY_OWNER_DATABASE_URL": database.url(role)}
    return await asyncio.to_thread(custody, environ, "users", "erase", *arguments)


@pytest.mark.prove
async def test_from_a_table_of_our_own(daemon: Daemon) -> None:
    database = daemon.database
    async with client_session() as session:
        for user in ("alice", "bob"):
            assert (await Client(daemon, session, user).init()).status == 200
        done = await erase(database, "alice")
        assert (done.code, done.out) == (2, "")
        assert "add --yes" in done.err
        assert await database.value(VAULTS) == ["alice", "bob"]

        done = await erase(database, "alice", "--yes")
        assert done.code == 0
        assert done.complaint == (
            "CUSTODY_ERASURE_RECORD is not set: the erasure is on record in this database alone, "
            "and a backup from before it brings the key back"
        )
        assert done.out == "the vault was removed; the user was removed\n"
        assert await database.value(VAULTS) == await database.value(USERS) == ["bob"]
        # Who was erased is on record, once.
        rows = [("init", "created", 200), ("erase", None, 200)]
        assert await database.audit("alice") == rows

        done = await erase(database, "alice", "--yes", "--json")
        assert (done.code, json.loads(done.out)) == (1, {"vault": False, "user": False})
        assert await database.audit("alice") == rows
        # Who comes back gets another key; nothing of the old one is left.
        assert (await Client(daemon, session, "alice").key()).code == "VAULT_NOT_INITIALISED"
        assert (await Client(daemon, session, "alice").init()).status == 200


@pytest.mark.prove
async def test_from_someone_elses_table(empty: Database) -> None:
    await move(empty)
    before = await empty.value(USERS)
    done = await erase(empty, "vec-003", "--yes", "--json")
    assert (done.code, json.loads(done.out)) == (0, {"vault": True, "user": False})
    assert len(await empty.value(VAULTS)) == len(ROWS) - 1
    assert await empty.value(USERS) == before
    assert len(await empty.audit("vec-003")) == 2
    done = await erase(empty, "vec-003", "--yes")
    assert (done.code, done.out) == (1, "there was no vault; auth.users was left as it is\n")


@pytest.mark.parametrize("user", ["' OR true --", "", "%", "nobody"])
async def test_unknown_user(daemon: Daemon, user: str) -> None:
    async with client_session() as session:
        assert (await Client(daemon, session, "alice").init()).status == 200
    done = await erase(daemon.database, user, "--yes")
    assert (done.code, await daemon.database.value(VAULTS)) == (1, ["alice"])


async def test_by_a_role_that_is_not_the_owner(daemon: Daemon) -> None:
    async with client_session() as session:
        assert (await Client(daemon, session, "alice").init()).status == 200
    done = await erase(daemon.database, "alice", "--yes", role="custody_app")
    assert done.code == 78
    assert "CUSTODY_OWNER_DATABASE_URL must be the owner of the schema" in done.complaint
    assert await daemon.database.value(VAULTS) == ["alice"]


def test_without_a_database() -> None:
    done = custody({}, "users", "erase", "alice", "--yes")
    assert done.code == 78
    assert "CUSTODY_OWNER_DATABASE_URL must be set" in done.complaint
    url = f"postgresql://x:secretsecret@127.0.0.1:{free_port()}/x"
    done = custody({"CUSTODY_OWNER_DATABASE_URL": url}, "users", "erase", "alice", "--yes")
    assert done.code == 69
    assert "secretsecret" not in done.err


async def test_database_that_was_never_migrated(empty: Database) -> None:
    done = await erase(empty, "alice", "--yes")
    assert done.code == 78
    assert done.complaint == (
        "nothing was removed: the database of CUSTODY_OWNER_DATABASE_URL is not migrated to this "
        "release; run: custody migrate, or correct the database's name in the URL"
    )
