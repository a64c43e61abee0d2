"""Rows with a rotation pending: moved, ended under, verified and erased as any other row."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.client import Client, client_session
from tests.db.command import custody
from tests.rewrap.kit import KEKS, NEW, OLD, environ_of, stamps
from tests.servers import Database, daemon_here
from tests.tokens import Issuer

USERS = ("alice", "bob", "carol")
NEW_STAMP, OLD_STAMP = ("env-v2", 3), ("env-v1", 3)


@pytest.mark.prove
async def test_a_key_before_goes_wherever_the_live_one_goes(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """Re-wrapped, the old KEK retired and gone, a data key ended: both keys are as they were."""
    keks = {f"raw_{name}": value for name, value in KEKS.items()}
    environ = {
        **environ_of(database),
        "CUSTODY_DATABASE_URL": database.url("custody_app"),
        "CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner"),
    }

    async def run(*words: str) -> str:
        done = await asyncio.to_thread(custody, environ, *words)
        assert done.code == 0, (words, done.out, done.err)
        return done.out

    async with client_session() as session:
        pairs = {}
        async with daemon_here(database, issuer, tmp_path, KEK=OLD, **keks) as daemon:
            for user in USERS:
                await Client(daemon, session, user).init()
                pairs[user] = (await Client(daemon, session, user).begin_rotation()).json
        assert await stamps(database) == {OLD_STAMP: 3}
        await run("rewrap", "run")
        assert await stamps(database) == {NEW_STAMP: 3}
        await run("kek", "retire", "env-v1")
        environ["CUSTODY_OLD_KEKS"] = ""
        await run("rewrap", "run", "--deep")
        said = json.loads(await run("audit", "verify", "--json"))
        assert said["good"]
        await run("verify", "--all")
        async with daemon_here(database, issuer, tmp_path, KEK=NEW, **keks) as daemon:
            for user in USERS:
                client = Client(daemon, session, user)
                answer = (await client.key()).json
                for name in ("masterKey", "previousMasterKey"):
                    assert answer[name] == pairs[user][name]
                assert (await client.end_rotation()).status == 200
        assert json.loads(await run("audit", "verify", "--json"))["good"]
