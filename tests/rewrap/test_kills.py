"""Workers and PostgreSQL are killed at random moments; then every key is what it was, all rows are
done, and so is the run."""

import asyncio
import contextlib
import random
import secrets
import signal
from collections.abc import Iterator

import pytest

from custody.development.postgres import EmbeddedPostgres
from custody.rewrap.backoff import NotFinished
from custody.rewrap.options import Options
from custody.rewrap.runs import LEASE_SECONDS
from tests.db.breaking import killed
from tests.db.command import Command
from tests.proofs import FULL
from tests.rewrap.kit import (
    AGE_CLAIMS,
    environ_of,
    fill,
    has_stored,
    keyring,
    opened,
    rewrap,
    rewrap_engine,
    rotate,
    stamps,
    worker_of,
)
from tests.servers import TEMPLATE, Database, postgres_server

pytestmark = pytest.mark.usefixtures("short_waits")

# So slow that it takes all kills.
BATCH, RATE = 10, 150
LEASE = LEASE_SECONDS + 1
LONGEST_LIFE_SECONDS = 0.3


@pytest.fixture
def durable() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that keeps what it has committed, whatever happens."""
    with postgres_server(durable=True) as server:
        yield server


async def let_users_rotate(
    database: Database, ledger: dict[str, bytes], dice: random.Random
) -> None:
    for user in dice.sample(sorted(ledger), 5):
        ledger[user] = await rotate(database, user)


async def assert_whole(database: Database, ledger: dict[str, bytes], seed: int) -> None:
    """Nothing is lost, nothing is stale, nothing is left of the claims."""
    assert await opened(database, keyring()) == ledger, seed
    assert await stamps(database) == {("env-v2", 3): len(ledger)}, seed
    runs = await database.fetch("SELECT * FROM auth.rewrap_runs")
    assert [(run["state"], run["failed"]) for run in runs] == [("done", 0)], seed
    assert await database.value("SELECT count(*) FROM auth.rewrap_claims") == 0, seed
    # Who lived to say so has said that it was stopped, before the others went on.
    ended = [row for row in await database.audit("") if row[1] != "run-stopped"]
    assert ended == [("rewrap_run", "run-done", 200)], seed
    # A row is counted in the transaction that stores it: killed or not, once.
    stored = await database.value(
        "SELECT count(*) FROM auth.encryption_vaults WHERE rewrapped_at IS NOT NULL"
    )
    assert runs[0]["done"] == stored, seed


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("kills", "rows", "age"),
    [
        (4, 600, LEASE),
        pytest.param(30, 1500, 0, marks=pytest.mark.prove),
        pytest.param(100, 3000, 0, marks=FULL),
    ],
)
async def test_workers_are_killed(database: Database, kills: int, rows: int, age: float) -> None:
    seed = secrets.randbits(32)
    dice = random.Random(seed)  # noqa: S311
    ledger = await fill(database, rows)
    limits = ("--batch", str(BATCH), "--rate", str(RATE))
    for number in range(kills):
        done = (await stamps(database))["env-v2", 3]
        worker = Command(environ_of(database), "rewrap", "run", *limits)
        if number % 2 == 0:  # at work; the others still begin
            await has_stored(database, done)
        await asyncio.sleep(dice.uniform(0, LONGEST_LIFE_SECONDS))
        worker.process.kill()
        assert (await asyncio.to_thread(worker.end)).code == -signal.SIGKILL, (seed, number)
        if number % 10 == 0:
            await let_users_rotate(database, ledger, dice)
    left = (await stamps(database))["env-v1", 3]
    assert 0 < left < rows, seed
    await database.execute(AGE_CLAIMS, age)
    await rewrap(database, keyring())
    await assert_whole(database, ledger, seed)


@pytest.mark.prove
@pytest.mark.parametrize(
    ("kills", "rows", "age"), [(2, 400, LEASE), pytest.param(20, 3000, 0, marks=pytest.mark.prove)]
)
async def test_postgresql_is_killed(
    durable: EmbeddedPostgres, kills: int, rows: int, age: float
) -> None:
    seed = secrets.randbits(32)
    dice = random.Random(seed)  # noqa: S311
    database = Database(durable, TEMPLATE)
    ledger = await fill(database, rows)
    await kill_it_under_workers(database, dice, seed, kills)
    await let_users_rotate(database, ledger, dice)
    await database.execute(AGE_CLAIMS, age)
    await rewrap(database, keyring())
    await assert_whole(database, ledger, seed)


async def kill_it_under_workers(
    database: Database, dice: random.Random, seed: int, kills: int
) -> None:
    async with rewrap_engine(database) as engine:
        options = Options(batch=BATCH, rate=RATE // 2)
        workers = [worker_of(engine, keyring(), options) for _ in range(2)]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        for number in range(kills):
            await asyncio.sleep(dice.uniform(0.1, 0.8))
            assert not any(task.done() for task in running), (seed, number)
            async with killed(database.server):
                pass
        for worker in workers:
            worker.stop()
        for task in running:
            with contextlib.suppress(NotFinished):
                await task
