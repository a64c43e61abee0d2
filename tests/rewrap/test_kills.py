"""Workers and PostgreSQL are killed at random moments; then every key is what it was, all rows are
done, and so is the run."""

import asyncio
import contextlib
import random
import secrets
import time

import pytest

from custody.rewrap.backoff import NotFinished
from custody.rewrap.options import Options
from custody.rewrap.runs import LEASE_SECONDS
from custody.rewrap.worker import RewrapRun
from tests.db import breaking
from tests.db.embedded_server import open_folder
from tests.rewrap.forker import forker, kill
from tests.rewrap.kit import (
    fill,
    keyring,
    opened,
    rewrap,
    rewrap_engine,
    rotate,
    run_audit,
    stamps,
)
from tests.servers import TEMPLATE, Database, bare_postgres, make_template, start_on

pytestmark = pytest.mark.usefixtures("short_waits")

# So slow that it takes all kills.
BATCH, RATE = 10, 150
LEASE = LEASE_SECONDS + 1
LONGEST_LIFE_SECONDS = 0.4


async def let_users_rotate(
    database: Database, ledger: dict[str, bytes], dice: random.Random
) -> None:
    for user in dice.sample(sorted(ledger), 5):
        ledger[user] = await rotate(database, user)


async def assert_whole(database: Database, ledger: dict[str, bytes], seed: int) -> None:
    """Nothing is lost, nothing is stale, nothing is left of the claims."""
    assert await opened(database, keyring()) == ledger, seed
    assert await stamps(database) == {("env-v2", 2): len(ledger)}, seed
    runs = await database.fetch("SELECT * FROM auth.rewrap_runs")
    assert [(run["state"], run["failed"]) for run in runs] == [("done", 0)], seed
    assert await database.value("SELECT count(*) FROM auth.rewrap_claims") == 0, seed
    # Who lived to say so has said that it was stopped, before the others went on.
    ended = [row for row in await run_audit(database) if row[1] != "run-stopped"]
    assert ended == [("rewrap_run", "run-done", 200)], seed
    # A row is counted in the transaction that stores it: killed or not, once.
    stored = await database.value(
        "SELECT count(*) FROM auth.encryption_vaults WHERE rewrapped_at IS NOT NULL"
    )
    assert runs[0]["done"] == stored, seed


async def age_claims(database: Database, seconds: float) -> None:
    """Let time pass for the claims that nobody looks after any more."""
    await database.execute(
        "UPDATE auth.rewrap_claims SET heartbeat_at = heartbeat_at - make_interval(secs => $1)",
        seconds,
    )


async def has_stored_more(database: Database, than: int) -> None:
    """Wait until more rows are done."""
    until = time.monotonic() + 30
    while (await stamps(database))["env-v2", 2] <= than:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("kills", "rows", "age"), [(4, 600, LEASE), pytest.param(100, 3000, 0, marks=pytest.mark.prove)]
)
async def test_workers_are_killed(database: Database, kills: int, rows: int, age: float) -> None:
    seed = secrets.randbits(32)
    dice = random.Random(seed)  # noqa: S311
    ledger = await fill(database, rows)
    url = database.url("custody_rewrap")
    killed = 0
    with forker() as forked:
        while killed < kills:
            pid = await asyncio.to_thread(forked.start, url, batch=BATCH, rate=RATE)
            if killed == 0:
                await has_stored_more(database, 0)
            await asyncio.sleep(dice.uniform(0, LONGEST_LIFE_SECONDS))
            assert kill(pid), f"seed {seed}: done after {killed} kills"
            killed += 1
            if killed % 10 == 1:
                await let_users_rotate(database, ledger, dice)
    left = (await stamps(database))["env-v1", 2]
    assert 0 < left < rows, seed
    await age_claims(database, age)
    await rewrap(database, keyring())
    await assert_whole(database, ledger, seed)


@pytest.mark.parametrize(
    ("kills", "rows", "age"), [(2, 400, LEASE), pytest.param(20, 3000, 0, marks=pytest.mark.prove)]
)
async def test_postgresql_is_killed(kills: int, rows: int, age: float) -> None:
    seed = secrets.randbits(32)
    dice = random.Random(seed)  # noqa: S311
    with open_folder() as folder, bare_postgres(folder / "pg", durable=True) as server:
        await make_template(server)
        await asyncio.to_thread(server.grant_logins)
        database = Database(server, TEMPLATE)
        ledger = await fill(database, rows)
        await assert_survives(database, ledger, dice, seed, kills)
        await age_claims(database, age)
        await rewrap(database, keyring())
        await assert_whole(database, ledger, seed)


async def assert_survives(
    database: Database,
    ledger: dict[str, bytes],
    dice: random.Random,
    seed: int,
    kills: int,
) -> None:
    async with rewrap_engine(database) as engine:
        options = Options(batch=BATCH, rate=RATE // 2)
        workers = [RewrapRun(engine, keyring(), options) for _ in range(2)]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        server = database.server
        for number in range(kills):
            await asyncio.sleep(dice.uniform(0.1, 0.8))
            assert not any(task.done() for task in running), (seed, number)
            port = await asyncio.to_thread(breaking.kill, server)
            await asyncio.to_thread(start_on, server, port)
        for worker in workers:
            worker.stop()
        for task in running:
            with contextlib.suppress(NotFinished):
                await task
    await let_users_rotate(database, ledger, dice)
