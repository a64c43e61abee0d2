"""The daemon's own worker: the role it refuses at boot, and what is seen while a run goes on."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from custody.datakeys.ring import Ring
from custody.ops.metrics import Metrics
from custody.rewrap import background
from custody.rewrap.background import BackgroundRewrap
from custody.rewrap.backoff import NotFinished
from custody.rewrap.options import Options
from kek_backends.keyring import Keyring
from tests.client import Client, client_session
from tests.db.command import custody
from tests.eventually import eventually
from tests.ports import free_port
from tests.rewrap.kit import fill, has_stored, new_kek, old_kek, rewrap_engine, stamps
from tests.servers import Database, daemon_beside, settings_for
from tests.tokens import Issuer

URL = "REWRAP_DATABASE_URL"

# ── its role, at boot ─────────────────────────────────────────────────────────


async def refusal(database: Database, issuer: Issuer, folder: Path, url: str) -> str:
    """Return the one line with which the boot ends."""
    environ = settings_for(database, issuer, folder, **{URL: url})
    done = await asyncio.to_thread(custody, environ, "serve")
    assert done.code == 78, done.err
    assert url.rpartition("@")[0].rpartition(":")[2] not in done.err  # the password
    assert done.complaint.startswith(f"CUSTODY_{URL}: ")
    return done.complaint


@pytest.mark.parametrize(
    ("role", "problem"),
    [
        ("custody_app", "the role custody_app is not custody_rewrap nor a member of it"),
        ("custody_owner", "the role custody_owner owns things"),
        ("postgres", "the role postgres is superuser"),
    ],
)
async def test_url_of_another_role_ends_the_boot(
    database: Database, issuer: Issuer, tmp_path: Path, role: str, problem: str
) -> None:
    assert problem in await refusal(database, issuer, tmp_path, database.url(role))


@pytest.mark.parametrize("right", ["SELECT", "UPDATE"])
async def test_role_that_lacks_a_right_ends_the_boot(
    database: Database, issuer: Issuer, tmp_path: Path, right: str
) -> None:
    await database.execute(f"REVOKE {right} ON auth.encryption_vaults FROM custody_rewrap")
    said = await refusal(database, issuer, tmp_path, database.url("custody_rewrap"))
    assert f"the role custody_rewrap may not {right} auth.encryption_vaults" in said


async def test_role_that_may_not_log_in_ends_the_boot(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    port = database.server.port
    url = f"postgresql://nobody_{free_port()}:not-the-password@127.0.0.1:{port}/{database.name}"
    assert "correct the URL" in await refusal(database, issuer, tmp_path, url)


async def test_database_of_the_worker_that_is_down_does_not_end_the_boot(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    url = f"postgresql://custody_rewrap@127.0.0.1:{free_port()}/{database.name}"
    with daemon_beside(database, issuer, tmp_path, **{URL: url}) as daemon:
        assert daemon.log is not None
        assert "rewrap_waits" in daemon.log.read_text()
        async with client_session() as session:
            assert (await Client(daemon, session, "alice").init()).status == 200


async def test_role_is_not_judged_where_there_is_no_worker(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    wrong = {URL: database.url("custody_app"), "REWRAP_INTERVAL": "0"}
    with daemon_beside(database, issuer, tmp_path, **wrong):
        pass


# ── what is seen of a run ─────────────────────────────────────────────────────

ROWS, BATCH = 40, 10


@dataclass(frozen=True)
class Watched:
    """A worker that is held up after its first batch, with what it shows.

    Args:
        worker: brings ROWS rows from the old KEK to the new one.
        metrics: of it.
        go_on: set to let it do the rest.
    """

    worker: BackgroundRewrap
    metrics: Metrics
    go_on: asyncio.Event

    def shown(self) -> dict[str, float]:
        """Return the rows by KEK and of the run, as /metrics has them."""
        lines = self.metrics.render({}).decode()
        found = re.findall(r'(?m)^custody_(?:rewrap_run_)?rows\{\w+="([\w-]+)"\} (\S+)$', lines)
        return {name: float(value) for name, value in found}


@pytest.fixture
async def watched(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(background, "Options", partial(Options, batch=BATCH))
    await fill(database, ROWS)
    go_on, metrics = asyncio.Event(), Metrics()

    async def wait(user: str) -> None:
        if int(user.rpartition("-")[2]) >= BATCH:
            await go_on.wait()

    keks = Keyring(new_kek(wait), [old_kek()])
    async with rewrap_engine(database) as engine:
        ring = Ring(engine, keks, ttl=3600, max_age=86_400)
        await ring.load()
        worker = BackgroundRewrap(engine, engine, keks, ring, interval=1, metrics=metrics.rewrap)
        yield Watched(worker, metrics, go_on)


async def test_run_is_seen_before_it_has_ended(
    database: Database, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_SHOW_SECONDS", 0.05)
    assert watched.worker.rows_left is None
    looking = asyncio.create_task(watched.worker._look())
    await has_stored(database, BATCH - 1)
    await eventually(
        lambda: watched.worker.rows_left == ROWS - BATCH and watched.shown().get("done") == BATCH
    )
    assert not looking.done()
    shown = watched.shown()
    assert (shown["env-v1"], shown["env-v2"]) == (ROWS - BATCH, BATCH)
    assert (shown["total"], shown["failed"]) == (ROWS, 0)
    watched.go_on.set()
    await looking
    assert watched.worker.rows_left == 0
    shown = watched.shown()
    assert (shown["env-v1"], shown["env-v2"], shown["done"]) == (0, ROWS, ROWS)


async def test_run_that_raises_is_seen(database: Database, watched: Watched) -> None:
    looking = asyncio.create_task(watched.worker._look())
    await has_stored(database, BATCH - 1)
    assert watched.worker.rows_left == ROWS  # shown at the beginning, and seldom since
    assert watched.worker._current is not None
    watched.worker._current.stop()
    watched.go_on.set()
    with pytest.raises(NotFinished):
        await looking
    done = (await stamps(database))["env-v2", 3]
    assert BATCH <= done < ROWS
    assert watched.worker.rows_left == ROWS - done
    assert watched.shown()["done"] == done


async def test_counting_does_not_hold_up_the_end(
    database: Database, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_FIRST_SECONDS", 0.0)
    async with watched.worker.working():
        await has_stored(database, BATCH - 1)
        asyncio.get_running_loop().call_soon(watched.go_on.set)  # once it is told to stop
    assert watched.worker.rows_left == ROWS
