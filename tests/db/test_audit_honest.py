"""What happens to an honest log, and is no finding."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import aiohttp
import pytest

from custody.audit import holding, verify
from custody.audit.row_seal import RowSeals
from custody.audit.sealer import AuditSealer
from custody.datakeys.data_key import DataKey
from tests.audit_log import ADD, AuditLog
from tests.client import Client, client_session
from tests.datakeys import FixedRing
from tests.db.command import custody
from tests.db.connecting import engine_of
from tests.proofs import FULL
from tests.pruning import prune, without_accounts
from tests.servers import Database, daemon_beside, daemon_here
from tests.tokens import Issuer

CHECKPOINTS = "SELECT count(*) FROM auth.encryption_audit_checkpoints"


class NoAlarms:
    """Takes what sealers say when the log became shorter: after a restore they have to."""

    def audit_tampered(self, reason: str) -> None:
        """Say nothing."""


async def write(log: AuditLog, dice: Random) -> None:
    """Write rows in transactions that commit late, early, or never, by a clock that jumps."""
    seals = RowSeals(log.ring)
    async with log.database.connect() as connection:
        for _ in range(dice.randint(1, 4)):
            rows = [
                {**event._asdict(), "action": str(event.action), "seal": seals.of(event)}
                for event in (
                    log.event(state=dice.choice((None, "0" * 64)))
                    for _ in range(dice.randint(1, 4))
                )
            ]
            writing = connection.transaction()
            await writing.start()
            await connection.execute(ADD, json.dumps(rows), dice.choice((0.0, 3600.0, -3600.0)))
            await asyncio.sleep(dice.uniform(0, 0.02))
            await (writing.rollback() if dice.random() < 0.2 else writing.commit())


async def keep_sealing(sealer: AuditSealer) -> None:
    while True:
        await sealer.seal()
        await asyncio.sleep(0)


@asynccontextmanager
async def sealing(log: AuditLog, dice: Random) -> AsyncIterator[None]:
    """Two daemons seal; one of them is broken off at any moment."""
    async with (
        engine_of(log.database.url("custody_app")) as one,
        engine_of(log.database.url("custody_app")) as other,
    ):
        sealers = [AuditSealer(engine, log.ring, 0, NoAlarms()) for engine in (one, other)]
        tasks = [asyncio.create_task(keep_sealing(sealer)) for sealer in sealers]
        asyncio.get_running_loop().call_later(dice.uniform(0, 0.05), tasks[0].cancel)
        yield
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await AuditSealer(one, log.ring, 0, NoAlarms()).seal()


async def rotate(log: AuditLog, number: int) -> None:
    """Go on with a deep rotation, as far as the one before: announce and promote, then end.

    Between the two all that is written, sealed and verified is so under both data keys.
    """
    *befores, current = log.ring.open_keys
    for before in befores:
        await log.end(before)
    if not befores:
        log.ring.add(DataKey.of(f"{current.id[:-4]}{number:04x}", secrets.token_bytes(32)))


async def clone(database: Database, name: str) -> Database:
    """Restore a backup of a database into another one."""
    admin = Database(database.server, "postgres")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {database.name} OWNER custody_owner")
    return Database(database.server, name)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "runs",
    [
        4,
        pytest.param(25, marks=pytest.mark.prove),
        *(pytest.param(runs, marks=FULL) for runs in (99, 101)),
    ],
)
async def test_no_false_alarm(
    database: Database, runs: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(verify, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(holding, "_STEP", 8)
    await without_accounts(database)
    dice = Random(runs)  # noqa: S311 - can be repeated
    log, made = AuditLog(database), [database]
    # A backup has the records of the data keys of its time.
    open_then = {database.name: log.ring.open_keys}
    try:
        for number in range(runs):
            async with sealing(log, dice):
                writers = [asyncio.create_task(write(log, dice)) for _ in range(3)]
                await asyncio.sleep(dice.uniform(0, 0.02))
                await rotate(log, number + 2)
                assert not (await log.verify(patience=60)).counts, number
                if number % 3 == 1:
                    # Whole, or broken off: behind one of its transactions, or anywhere.
                    later = datetime.now(UTC) + timedelta(hours=2)
                    steps = dice.choice((None, None, 1, 2))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(dice.choice((None, dice.uniform(0, 0.2)))):
                            await prune(log, tmp_path / "audit", later, steps=steps)
                await asyncio.gather(*writers)
            # A clock that was set forward makes the newest rows look old: all are sealed by now.
            report = await log.verify()
            assert report.is_good, (number, report.findings)
            if number % 5 == 4:
                # A backup is restored, or a standby takes over: of now, or of some time ago.
                open_then[log.database.name] = log.ring.open_keys
                made.append(await clone(log.database, f"test_{secrets.token_hex(6)}"))
                open_then[made[-1].name] = log.ring.open_keys
                log.database = dice.choice([database, *made[-2:]])
                log.ring = FixedRing.with_keys(*open_then[log.database.name])
                assert (await log.verify()).is_good, number
    finally:
        for one in made[1:]:
            with contextlib.suppress(Exception):
                await Database(database.server, "postgres").execute(f"DROP DATABASE {one.name}")


@pytest.mark.prove
async def test_daemons_are_killed_while_they_seal(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    dice = Random(20)  # noqa: S311 - can be repeated
    stop = asyncio.Event()
    async with daemon_here(database, issuer, tmp_path, AUDIT_SEAL_INTERVAL="1") as steady:
        async with client_session() as session:
            alice = asyncio.create_task(use(Client(steady, session, "alice"), stop))
            for _ in range(20):
                with daemon_beside(database, issuer, tmp_path, AUDIT_SEAL_INTERVAL="1") as victim:
                    bob = asyncio.create_task(use(Client(victim, session, "bob"), stop))
                    await asyncio.sleep(dice.uniform(0, 1))
                    victim.running.kill()
                    with contextlib.suppress(aiohttp.ClientError):
                        await bob
            stop.set()
            await alice
        owner = database.url("custody_owner")
        environ = {**steady.settings, "CUSTODY_OWNER_DATABASE_URL": owner}
        done = await asyncio.to_thread(custody, environ, "audit", "verify")
        assert done.code == 0, done.out + done.err
        assert await database.value(CHECKPOINTS) >= 1


async def use(client: Client, stop: asyncio.Event) -> None:
    """Change a vault again and again."""
    while not stop.is_set():
        assert (await client.rotate()).status == 200
