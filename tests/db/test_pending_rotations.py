"""Rotations that stay pending: what an operator sees of them, and that nobody else does."""

import shlex
import time
from asyncio import to_thread
from pathlib import Path

import asyncpg
import pytest

from custody.ops.checks.routine import WHO_ROTATES
from tests.client import Client, client_session
from tests.db.command import custody
from tests.servers import Database, daemon_here
from tests.tokens import Issuer

AGE = "UPDATE auth.encryption_vaults SET rotated_at = now() - interval '40 days' WHERE user_id = $1"


@pytest.mark.prove
async def test_the_operator_sees_them(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    async with client_session() as session:
        async with daemon_here(database, issuer, tmp_path) as daemon:
            async with session.get(f"{daemon.admin}/metrics") as answer:
                shown = await answer.text()
            assert "custody_pending_rotations 0.0" in shown
            assert "custody_oldest_pending_rotation_timestamp_seconds 0.0" in shown
            for user in ("alice", "bob", "carol"):
                client = Client(daemon, session, user)
                await client.init()
                await client.begin_rotation()
            await client.end_rotation()
            # Who rotated for good, long ago, has none pending.
            await Client(daemon, session, "dora").init()
            await database.execute(AGE, "dora")
            await database.execute(AGE, "bob")
        async with (
            daemon_here(database, issuer, tmp_path) as daemon,
            session.get(f"{daemon.admin}/metrics") as answer,
        ):
            shown = await answer.text()
        assert "custody_pending_rotations 2.0" in shown
        name = "custody_oldest_pending_rotation_timestamp_seconds "
        since = float(shown.partition(f"\n{name}")[2].split()[0])
        assert 39 < (time.time() - since) / 86_400 < 41
    done = await to_thread(custody, daemon.settings, "doctor")
    assert done.code == 0
    assert (
        "note    rotations: pending: 2, the oldest begun 40 days ago; nothing is lost" in done.out
    )
    # The cure shows whom to write to.
    psql, *words = shlex.split(WHO_ROTATES)
    assert psql == "psql"
    words = [word for word in words if not word.startswith("$")]
    said = await to_thread(database.psql, "custody_owner", "-At", *words)
    assert said.returncode == 0, said.stderr
    assert [line.partition("|")[0] for line in said.stdout.splitlines()[1:]] == ["bob", "alice"]


@pytest.mark.parametrize("role", ["custody_rewrap", "custody_verify"])
async def test_no_other_role_counts_them(database: Database, role: str) -> None:
    async with database.connect() as superuser, superuser.transaction():
        await superuser.execute(f"SET LOCAL ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.fetch("SELECT auth.custody_count_pending()")
