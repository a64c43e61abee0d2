"""The daemon's own re-wrap worker: set the new KEK, restart, watch, retire the old one."""

import asyncio
import itertools
import re
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from custody.rewrap import runs
from custody.rewrap.runs import Stale
from tests.bao_server import Bao
from tests.client import Client, client_session
from tests.db.command import custody
from tests.e2e.hangup import until
from tests.e2e.keks import Place, make_place, overrides
from tests.moto_server import Moto
from tests.servers import Daemon, Database, daemon_beside, daemon_here, settings_for
from tests.tokens import Issuer

USERS = 40
BY_KEK = (
    "SELECT kek_id, count(*) AS rows FROM auth.encryption_vaults WHERE wrapped_mk IS NOT NULL"
    " GROUP BY kek_id"
)


async def rows(database: Database) -> dict[str, int]:
    return {row["kek_id"]: row["rows"] for row in await database.fetch(BY_KEK)}


async def metrics(daemon: Daemon) -> dict[str, float]:
    async with client_session() as session, session.get(f"{daemon.admin}/metrics") as answer:
        text = await answer.text()
    found = re.findall(r"(?m)^(custody_re?ows?\S*|custody_rewrap\S*) ([0-9.e+]+)$", text)
    return {name: float(value) for name, value in found}


async def init_all(
    database: Database, issuer: Issuer, folder: Path, place: Place
) -> dict[str, str]:
    async with (
        daemon_here(database, issuer, folder, **overrides(place)) as daemon,
        client_session() as session,
    ):
        answers = {
            f"user-{n}": await Client(daemon, session, f"user-{n}").init() for n in range(USERS)
        }
    return {user: answer.json["masterKey"] for user, answer in answers.items()}


async def moved(database: Database, place: Place) -> None:
    deadline = time.monotonic() + 30
    while await rows(database) != {place.stamp: USERS}:
        assert time.monotonic() < deadline, await rows(database)
        await asyncio.sleep(0.05)


async def reads(daemon: Daemon, session: aiohttp.ClientSession, keys: dict[str, str]) -> None:
    for user, key in keys.items():
        answer = await Client(daemon, session, user).key()
        assert (answer.status, answer.json["masterKey"]) == (200, key)


@pytest.mark.parametrize(
    ("pace", "backends"),
    [
        pytest.param("quick", ("env", "vault"), id="quick"),
        pytest.param(
            "real", ("env", "vault", "aws-kms", "systemd"), id="real", marks=pytest.mark.prove
        ),
    ],
    indirect=["pace"],
)
async def test_rows_follow_the_active_kek_through_all_backends(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    bao: Bao,
    moto: Moto,
    *,
    pace: str,
    backends: tuple[str, ...],
) -> None:
    """With nothing but settings and restarts; then the old one is retired."""
    chain = [make_place(name, tmp_path, bao, moto) for name in backends]
    keys = await init_all(database, issuer, tmp_path, chain[0])
    worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap"), "REWRAP_INTERVAL": "1"}
    for old, new in itertools.pairwise(chain):
        settings = overrides(new, old) | worker
        with daemon_beside(database, issuer, tmp_path, module=pace, **settings) as daemon:
            async with client_session() as session:
                await moved(database, new)
                await reads(daemon, session, keys)
            seen = await metrics(daemon)
            deadline = time.monotonic() + 10
            while seen.get("custody_rewrap_run_rows_per_second") is None or (
                f'custody_rows{{kek_id="{new.stamp}"}}' not in seen
            ):
                assert time.monotonic() < deadline, seen
                await asyncio.sleep(0.05)
                seen = await metrics(daemon)
            assert seen[f'custody_rows{{kek_id="{new.stamp}"}}'] == USERS
            assert seen['custody_rewrapped_rows_total{outcome="done"}'] == USERS
            environ = settings_for(database, issuer, tmp_path, **settings)
            done = await asyncio.to_thread(custody, environ, "kek", "retire", old.stamp)
            assert done.code == 0, done.err
    with daemon_beside(database, issuer, tmp_path, **overrides(chain[-1])) as daemon:
        async with client_session() as session:
            await reads(daemon, session, keys)


async def test_nothing_is_rewrapped_past_a_daemon_that_could_not_read_it(
    pace: str, database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    first, second = (make_place("env", tmp_path, None, None) for _ in range(2))  # type: ignore[arg-type]
    keys = await init_all(database, issuer, tmp_path, first)
    worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap"), "REWRAP_INTERVAL": "1"}
    async with daemon_here(database, issuer, tmp_path, **overrides(first)) as stale:
        with daemon_beside(
            database, issuer, tmp_path, module=pace, **overrides(second, first), **worker
        ) as fresh:
            await until(lambda: len(fresh.events("rewrap_waits")) >= 2)
            assert await rows(database) == {first.stamp: USERS}
            for waits in fresh.events("rewrap_waits"):
                assert "can't read" in waits["reason"]
            # Whoever still writes under a KEK keeps it from being retired, too.
            environ = settings_for(database, issuer, tmp_path, **overrides(second, first), **worker)
            done = await asyncio.to_thread(custody, environ, "kek", "retire", first.stamp)
            assert done.code == 1
            async with client_session() as session:
                await reads(stale, session, keys)
    # It has said goodbye; the next one is not held up.
    keks = overrides(second, first)
    with daemon_beside(database, issuer, tmp_path, module=pace, **keks, **worker):
        await moved(database, second)


@pytest.mark.usefixtures("pace")
async def test_rows_that_nobody_here_can_read_start_no_run(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, count_stale = 0, runs.count_stale

    async def counted(*arguments: Any, **options: Any) -> Stale:
        nonlocal looks
        looks += 1
        return await count_stale(*arguments, **options)

    monkeypatch.setattr(runs, "count_stale", counted)
    first, second = (make_place("env", tmp_path, None, None) for _ in range(2))  # type: ignore[arg-type]
    await init_all(database, issuer, tmp_path, first)
    worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap"), "REWRAP_INTERVAL": "1"}
    async with daemon_here(database, issuer, tmp_path, **overrides(second), **worker):
        await until(lambda: looks >= 2)
    assert await rows(database) == {first.stamp: USERS}
    assert await database.value("SELECT count(*) FROM auth.rewrap_runs") == 0
