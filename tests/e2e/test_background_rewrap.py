"""The daemon's own re-wrap worker: set the new KEK, restart, watch, retire the old one."""

import asyncio
import itertools
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from custody.rewrap import runs
from custody.rewrap.runs import Stale
from tests.bao_server import Bao
from tests.client import client_session
from tests.db.command import custody
from tests.e2e.keks import Place, make_place, make_vaults, overrides, read_keys
from tests.eventually import eventually
from tests.moto_server import Moto
from tests.servers import Daemon, Database, daemon_beside, daemon_here, settings_for
from tests.tokens import Issuer

USERS = [f"user-{n}" for n in range(40)]
BY_KEK = (
    "SELECT kek_id, count(*) AS rows FROM auth.encryption_vaults WHERE wrapped_mk IS NOT NULL"
    " GROUP BY kek_id"
)


async def rows(database: Database) -> dict[str, int]:
    return {row["kek_id"]: row["rows"] for row in await database.fetch(BY_KEK)}


async def metrics(daemon: Daemon, *wanted: str) -> dict[str, float]:
    """Return those of re-wraps and rows; those that are wanted are there."""
    async with client_session() as session, session.get(f"{daemon.admin}/metrics") as answer:
        text = await answer.text()
    found = re.findall(r"(?m)^(custody_re?ows?\S*|custody_rewrap\S*) ([0-9.e+]+)$", text)
    assert set(wanted) <= dict(found).keys(), text
    return {name: float(value) for name, value in found}


async def moved(database: Database, place: Place) -> None:
    """Wait until all rows are under a KEK."""

    async def all_rows() -> bool:
        return await rows(database) == {place.stamp: len(USERS)}

    await eventually(all_rows, 30)


@pytest.mark.prove
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
    keys = await make_vaults(database, issuer, tmp_path, chain[0], *USERS)
    worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap"), "REWRAP_INTERVAL": "1"}
    for old, new in itertools.pairwise(chain):
        settings = overrides(new, old) | worker
        with daemon_beside(database, issuer, tmp_path, module=pace, **settings) as daemon:
            await moved(database, new)
            assert await read_keys(daemon, keys) == keys
            under = f'custody_rows{{kek_id="{new.stamp}"}}'
            speed = "custody_rewrap_run_rows_per_second"
            seen = await eventually(partial(metrics, daemon, under, speed), 10)
            assert seen[under] == len(USERS)
            assert seen['custody_rewrapped_rows_total{outcome="done"}'] == len(USERS)
            environ = settings_for(database, issuer, tmp_path, **settings)
            done = await asyncio.to_thread(custody, environ, "kek", "retire", old.stamp)
            assert done.code == 0, done.err
    with daemon_beside(database, issuer, tmp_path, **overrides(chain[-1])) as daemon:
        assert await read_keys(daemon, keys) == keys


@pytest.mark.prove
async def test_nothing_is_rewrapped_past_a_daemon_that_could_not_read_it(
    pace: str, database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    first, second = (make_place("env", tmp_path) for _ in range(2))
    keys = await make_vaults(database, issuer, tmp_path, first, *USERS)
    worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap"), "REWRAP_INTERVAL": "1"}
    async with daemon_here(database, issuer, tmp_path, **overrides(first)) as stale:
        with daemon_beside(
            database, issuer, tmp_path, module=pace, **overrides(second, first), **worker
        ) as fresh:
            await eventually(lambda: len(fresh.events("rewrap_waits")) >= 2)
            assert await rows(database) == {first.stamp: len(USERS)}
            for waits in fresh.events("rewrap_waits"):
                assert "can't read" in waits["reason"]
            # Whoever still writes under a KEK keeps it from being retired, too.
            environ = settings_for(database, issuer, tmp_path, **overrides(second, first), **worker)
            done = await asyncio.to_thread(custody, environ, "kek", "retire", first.stamp)
            assert done.code == 1
            assert await read_keys(stale, keys) == keys
    # It has said goodbye; the next one is not held up.
    keks = overrides(second, first)
    with daemon_beside(database, issuer, tmp_path, module=pace, **keks, **worker):
        await moved(database, second)


@pytest.mark.prove
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
    first, second = (make_place("env", tmp_path) for _ in range(2))
    await make_vaults(database, issuer, tmp_path, first, *USERS)
    worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap"), "REWRAP_INTERVAL": "1"}
    async with daemon_here(database, issuer, tmp_path, **overrides(second), **worker):
        await eventually(lambda: looks >= 2)
    assert await rows(database) == {first.stamp: len(USERS)}
    assert await database.value("SELECT count(*) FROM auth.rewrap_runs") == 0
