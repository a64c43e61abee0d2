"""The daemon's worker, look by look: when it begins a run, when it does not, and what it shows."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from custody.datakeys.ring import Ring
from custody.db.errors import DatabaseError, Refused
from custody.keks.records import RowCount
from custody.rewrap import background
from custody.rewrap.background import BackgroundRewrap
from custody.rewrap.backoff import NotFinished
from custody.rewrap.batch import WrongWrap
from custody.rewrap.data_keys import DataKeyMove
from custody.rewrap.deep import DeepRotation
from custody.rewrap.runs import AnotherRun, Run
from custody.rewrap.storing import Counts
from custody.rewrap.target import Blocked
from kek_backends.errors import Misconfigured, Transient
from kek_backends.keyring import Keyring
from tests.db.connecting import engine_of
from tests.db.old_service import KEK as OLD_KEY
from tests.eventually import eventually
from tests.rewrap.kit import (
    DAMAGE,
    NEW_KEY,
    CountingKek,
    fill,
    go_zk,
    keyring,
    make_format_1,
    new_kek,
    old_kek,
    rewrap_engine,
    stamps,
)
from tests.servers import Database

pytestmark = pytest.mark.usefixtures("short_waits")

RUNS = "SELECT state, total, done, failed FROM auth.rewrap_runs ORDER BY id"


class Shown:
    """What the metrics would show."""

    def __init__(self) -> None:
        self.rows: Mapping[str, RowCount] = {}
        self.run: Run | None = None
        self.done = self.looks = 0

    def rewrapped(self, counts: Counts) -> None:
        self.done += counts.done

    def show_rows(self, counted: Mapping[str, RowCount]) -> None:
        self.rows = counted

    def show_run(self, run: Run) -> None:
        self.run = run

    def looked(self) -> None:
        self.looks += 1


@asynccontextmanager
async def worker_on(
    database: Database, keks: Keyring | None = None, **options: Any
) -> AsyncIterator[tuple[BackgroundRewrap, Shown]]:
    """Have the worker of a daemon, that begins nothing by itself."""
    keks, shown = keks or keyring(), Shown()
    async with rewrap_engine(database) as engine, engine_of(database.url("custody_app")) as app:
        ring = Ring(engine, keks, ttl=3600, max_age=86_400)
        await ring.load()
        settings = {"interval": 300.0, "metrics": shown, **options}
        yield BackgroundRewrap(engine, app, keks, ring, **settings), shown


async def runs_of(database: Database) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await database.fetch(RUNS)]


# ── when a run begins ─────────────────────────────────────────────────────────


async def test_a_run_begins_where_rows_can_be_done(database: Database) -> None:
    await fill(database, 12)
    async with worker_on(database) as (worker, shown):
        with capture_logs() as logs:
            await worker._look()
            await worker._look()
        assert await runs_of(database) == [("done", 12, 12, 0)]
        assert (shown.done, worker.rows_left) == (12, 0)
        assert {kek_id: count.wraps for kek_id, count in shown.rows.items()} == {"env-v2": 12}
        assert shown.run is not None
        assert (shown.run.state, shown.run.done) == ("done", 12)
    begins, ends = (one for one in logs if one["event"].startswith("rewrap_"))
    assert (begins["event"], begins["rows"], begins["data_keys"]) == ("rewrap_begins", 12, 1)
    assert (begins["target"], ends["event"]) == ("env-v2", "rewrap_ended")
    assert (ends["run"], ends["state"]) == (shown.run.id, "done")
    assert (ends["done"], ends["failed"]) == (12, 0)


async def test_no_run_for_rows_of_a_kek_that_is_not_there(database: Database) -> None:
    """/readyz says more of those than a run that fails, again and again."""
    await fill(database, 0)
    async with worker_on(database) as (worker, shown):
        await worker._look()  # the data key is where it shall be
        before = await runs_of(database)
        await fill(database, 3, kek=CountingKek("gone", NEW_KEY))
        await worker._look()
        assert await runs_of(database) == before
        assert worker.rows_left == 3
        assert shown.rows["gone"].wraps == 3
        # One row that can be read is enough.
        await fill(database, 1, prefix="more")
        await worker._look()
        assert (await stamps(database))["env-v2", 3] == 1
        assert len(await runs_of(database)) == len(before) + 1


async def test_no_run_for_rows_that_their_kek_refuses(database: Database) -> None:
    class Refusing(CountingKek):
        def refusal(self, kek_id: str) -> str | None:
            return "it is not to be used" if kek_id == "env-v1" else None

    await fill(database, 0)
    async with worker_on(database) as (worker, _):
        await worker._look()
    before = await runs_of(database)
    await fill(database, 2)
    refusing = Keyring(new_kek(), [Refusing("env-v1", OLD_KEY)])
    async with worker_on(database, refusing) as (worker, _):
        await worker._look()
        assert await runs_of(database) == before
        assert worker.rows_left == 2


async def test_rows_that_are_not_sealed_are_brought_over_where_that_is_allowed(
    database: Database,
) -> None:
    await make_format_1(database, await fill(database, 4))
    async with worker_on(database) as (worker, _):
        await worker._look()
        assert await stamps(database) == {("env-v1", 1): 4}
        assert worker.rows_left == 4
    async with worker_on(database, legacy=True) as (worker, _):
        await worker._look()
        assert await stamps(database) == {("env-v2", 3): 4}
        assert worker.rows_left == 0


async def test_rows_of_the_active_kek_of_an_old_format_are_left_to_do(database: Database) -> None:
    await make_format_1(database, await fill(database, 4))
    await fill(database, 2, prefix="new")
    async with worker_on(database, Keyring(old_kek())) as (worker, _):
        await worker._look()
        assert worker.rows_left == 4


async def test_a_row_that_is_set_aside_is_no_reason_for_another_run(database: Database) -> None:
    await fill(database, 3)
    await database.execute(DAMAGE, ["user-000001"])
    async with worker_on(database) as (worker, shown):
        for _ in range(3):
            await worker._look()
        assert [(state, failed) for state, *_, failed in await runs_of(database)] == [("failed", 1)]
        assert worker.rows_left == 1
        assert shown.done == 2


async def test_rows_in_zero_knowledge_mode_are_sealed_anew(database: Database) -> None:
    """They have no wrap, and no KEK: a run is needed all the same."""
    await fill(database, 2)
    await go_zk(database, "user-000000", "user-000001")
    async with rewrap_engine(database) as engine:
        ring = Ring(engine, keyring(), ttl=3600, max_age=86_400)
        await ring.load()
        deep = DeepRotation(engine, keyring(), ring, asyncio.Event())
        await deep.announce()
    async with worker_on(database) as (worker, _):
        await worker._look()
        ((state, total, done, failed),) = await runs_of(database)
        assert (state, total, done, failed) == ("done", 2, 2, 0)


async def test_what_a_data_key_is_not_ended_for_is_said(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are done; one that was set aside keeps the data key of before, and no run helps."""
    async with worker_on(database) as (worker, _):
        monkeypatch.setattr(DeepRotation, "before", ("dk-before",))

        async def finish(deep: DeepRotation) -> str:
            assert deep._stop is worker._stopping  # its waits end with the daemon
            return "rows are still sealed with it"

        monkeypatch.setattr(DeepRotation, "finish", finish)
        monkeypatch.setattr(DataKeyMove, "stale", nothing)
        with capture_logs() as logs:
            await worker._look()
    (waits,) = (one for one in logs if one["event"] == "rewrap_waits")
    assert waits["reason"] == "rows are still sealed with it"


async def nothing(*_: object) -> tuple[str, ...]:
    return ()


async def test_it_waits_while_the_kms_has_not_said_its_key(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(database, 1)
    async with worker_on(database) as (worker, shown):
        monkeypatch.setattr(CountingKek, "kek_id", None)
        await worker._look()
    assert await runs_of(database) == []
    assert shown.rows == {}


# ── look after look ───────────────────────────────────────────────────────────

Look = Callable[[], Awaitable[None]]


class Looks:
    """Looks that end as they are told.

    Args:
        worker: has them.
        ends: of each, in turn; None: it ends well. After the last it is stopped.
    """

    def __init__(self, worker: BackgroundRewrap, ends: list[BaseException | None]) -> None:
        self._worker, self._ends = worker, ends
        self.at: list[float] = []

    async def __call__(self) -> None:
        self.at.append(asyncio.get_running_loop().time())
        end = self._ends.pop(0)
        if not self._ends:
            self._worker._stopping.set()
        if end is not None:
            raise end


ENDS = {
    Refused("another role"): ("rewrap_refused", "error", {"problem": "another role"}),
    Blocked("not readable"): ("rewrap_waits", "warning", {"reason": "not readable"}),
    AnotherRun("run 3 goes on"): ("rewrap_waits", "warning", {"reason": "run 3 goes on"}),
    NotFinished("stopped"): ("rewrap_waits", "warning", {"reason": "stopped"}),
    Transient(): ("rewrap_waits", "warning", {"reason": "Transient"}),
    Misconfigured("no such key"): ("rewrap_waits", "warning", {"reason": "no such key"}),
    DatabaseError("down"): ("rewrap_waits", "warning", {"reason": "down"}),
    WrongWrap("another key"): ("rewrap_wrong_wrap", "error", {"reason": "another key"}),
    RuntimeError("with a secret"): ("rewrap_failed", "error", {"error": "RuntimeError"}),
}  # fmt: skip


async def test_it_goes_on_however_a_look_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_FIRST_SECONDS", 0.0)
    async with worker_on(database, interval=0.001) as (worker, shown):
        monkeypatch.setattr(worker, "_look", Looks(worker, [*ENDS, None]))
        with capture_logs() as logs:
            async with asyncio.timeout(10):
                await worker.work()
        assert shown.looks == 1
    for log, (event, level, values) in zip(logs, ENDS.values(), strict=True):
        assert log == {"event": event, "log_level": level, **values}


async def test_the_first_look_comes_soon_and_the_others_by_the_interval(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_FIRST_SECONDS", 0.05)
    async with worker_on(database, interval=0.6) as (worker, _):
        looks = Looks(worker, [None, None])
        monkeypatch.setattr(worker, "_look", looks)
        begun = asyncio.get_running_loop().time()
        async with asyncio.timeout(10):
            await worker.work()
    first, second = looks.at
    assert first - begun < 0.6 <= second - first


async def test_an_interval_that_is_shorter_is_waited_for_first(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with worker_on(database, interval=0.01) as (worker, _):
        looks = Looks(worker, [None])
        monkeypatch.setattr(worker, "_look", looks)
        async with asyncio.timeout(10):
            await worker.work()
    assert len(looks.at) == 1


async def test_it_ends_with_the_block(database: Database) -> None:
    async with worker_on(database) as (worker, shown):
        async with asyncio.timeout(5):  # not after the interval
            async with worker.working():
                pass
        assert await worker._stopped_within(60)
        assert shown.looks == 0


async def test_a_look_that_does_not_end_is_cancelled(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(background, "_GRACE_SECONDS", 0.1)
    hangs, cancelled = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        hangs.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with worker_on(database) as (worker, _):
        monkeypatch.setattr(worker, "_look", hang)
        async with asyncio.timeout(5), worker.working():
            await eventually(hangs.is_set)
        assert cancelled.is_set()


async def test_a_role_that_is_another_is_refused(database: Database) -> None:
    async with worker_on(database) as (worker, shown):
        await worker.check_role()
        worker._engine = worker._app
        with pytest.raises(Refused, match="custody_rewrap"):
            await worker._look()
    assert shown.rows == {}
