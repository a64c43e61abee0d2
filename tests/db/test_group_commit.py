"""Requests that go together: each has its own answer by its own deadline, whatever others do."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.clock import DatabaseClock
from custody.db.engine import Connection
from custody.db.errors import Busy, DatabaseError, OutcomeUnknown
from custody.db.group_commit import BATCH_SIZE, CONNECTIONS, GroupCommit, NotBatched
from custody.deadline import Deadline
from custody.development.postgres import EmbeddedPostgres
from tests.db.breaking import frozen
from tests.db.connecting import borrowed, engine_of
from tests.eventually import eventually
from tests.servers import Database


@pytest.fixture
async def engine(own_database: Database) -> AsyncIterator[AsyncEngine]:
    async with engine_of(own_database.url("custody_app"), 4) as made:
        yield made


class Batches:
    """Asks the server to sleep, and for each item back; keeps what went together."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.seen: list[list[int]] = []

    async def __call__(
        self, held: Connection, items: Sequence[int], _earliest: Deadline
    ) -> list[int]:
        self.seen.append(list(items))
        rows = await held.fetch(
            "SELECT item * 10 AS ten FROM pg_sleep($1), unnest($2::int[]) AS item",
            self.seconds,
            items,
        )
        return [row["ten"] for row in rows]


async def ask_all(
    gatherer: GroupCommit[int, int], items: Sequence[int], seconds: float = 8
) -> list[int | BaseException]:
    asked = (gatherer.ask(item, Deadline.after(seconds)) for item in items)
    return await asyncio.gather(*asked, return_exceptions=True)


async def start(call: Coroutine[Any, Any, int], seconds: float = 0.1) -> "asyncio.Task[int]":
    task = asyncio.create_task(call)
    await asyncio.sleep(seconds)
    return task


async def all_given_back(engine: AsyncEngine) -> bool:
    return await eventually(lambda: borrowed(engine) == 0, 5)


async def test_those_that_come_meanwhile_go_together(engine: AsyncEngine) -> None:
    run = Batches(0.05)
    gatherer = GroupCommit(engine, run)
    first = await start(gatherer.ask(0, Deadline.after(5)), 0.03)
    answers = await ask_all(gatherer, range(1, 40))
    assert await first == 0
    assert answers == [item * 10 for item in range(1, 40)]
    assert run.seen[0] == [0]
    assert len(run.seen) <= 3
    assert await all_given_back(engine)
    assert await ask_all(gatherer, [7]) == [70]


async def test_many_more_than_a_batch(engine: AsyncEngine) -> None:
    run = Batches(0.01)
    items = range(10 * BATCH_SIZE)
    assert await ask_all(GroupCommit(engine, run), items) == [item * 10 for item in items]
    assert max(map(len, run.seen)) == BATCH_SIZE
    assert sorted(item for batch in run.seen for item in batch) == list(items)
    assert await all_given_back(engine)


async def test_who_is_cancelled_hurts_nobody(engine: AsyncEngine) -> None:
    run = Batches(0.2)
    gatherer = GroupCommit(engine, run)
    # In the batch that is under way, with another.
    pair = [asyncio.create_task(gatherer.ask(item, Deadline.after(5))) for item in (0, 1)]
    await asyncio.sleep(0.05)
    # In the queue, with another.
    waiting = [asyncio.create_task(gatherer.ask(item, Deadline.after(5))) for item in (2, 3)]
    await asyncio.sleep(0.02)
    for task in (pair[0], waiting[0]):
        task.cancel()
    done = await asyncio.gather(*pair, *waiting, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert isinstance(done[2], asyncio.CancelledError)
    assert (done[1], done[3]) == (10, 30)
    assert run.seen == [[0, 1], [3]]
    assert await all_given_back(engine)


async def test_a_refused_batch_is_tried_alone(engine: AsyncEngine) -> None:
    async def run(held: Connection, items: Sequence[int], _earliest: Deadline) -> list[int]:
        return [
            row["one"]
            for row in await held.fetch("SELECT 1 / item AS one FROM unnest($1::int[]) item", items)
        ]

    gatherer = GroupCommit(engine, run)
    answers = await ask_all(gatherer, [1, 0, 1])
    assert [type(answer) for answer in answers] == [NotBatched] * 3
    assert len({id(answer) for answer in answers}) == 3
    assert await ask_all(gatherer, [1, 1]) == [1, 1]
    assert await all_given_back(engine)


async def test_a_result_too_few_is_nobodys(engine: AsyncEngine) -> None:
    async def run(held: Connection, items: Sequence[int], _earliest: Deadline) -> list[int]:
        return [await held.fetchval("SELECT 1")] * (len(items) - 1)

    answers = await ask_all(GroupCommit(engine, run), [1, 2, 3])
    assert [type(answer) for answer in answers] == [ValueError] * 3
    assert await all_given_back(engine)


async def test_little_time_goes_alone(engine: AsyncEngine) -> None:
    run = Batches()
    answers = await ask_all(GroupCommit(engine, run), [1], seconds=0.9)
    assert isinstance(answers[0], NotBatched)
    assert run.seen == []


async def test_one_that_ran_out_of_time_in_the_queue_holds_nobody_to_its_deadline(
    engine: AsyncEngine,
) -> None:
    earliest: list[float] = []

    async def run(held: Connection, items: Sequence[int], until: Deadline) -> list[int]:
        earliest.append(until.remaining())
        return [await held.fetchval("SELECT 1 FROM pg_sleep(0.09)")] * len(items)

    gatherer = GroupCommit(engine, run)
    first = await start(gatherer.ask(0, Deadline.after(5)), 0.02)
    late = asyncio.create_task(gatherer.ask(1, Deadline.after(1.02)))
    assert await ask_all(gatherer, [2]) == [1]
    with pytest.raises(NotBatched):
        await late
    assert await first == 1
    assert min(earliest) > 4


async def test_a_lane_that_hangs_stops_nobody_else(engine: AsyncEngine) -> None:
    run = Batches(3.0)
    gatherer = GroupCommit(engine, run)
    hanging = await start(gatherer.ask(0, Deadline.after(8)), 0.2)
    run.seconds = 0.0
    began = time.monotonic()
    assert await ask_all(gatherer, [1, 2]) == [10, 20]
    assert time.monotonic() - began < 2
    assert not hanging.done()
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


@pytest.mark.prove
async def test_lanes_are_bounded(engine: AsyncEngine) -> None:
    run = Batches(1.5)
    gatherer = GroupCommit(engine, run)
    tasks = [
        await start(gatherer.ask(item, Deadline.after(8)), 0.15) for item in range(CONNECTIONS + 2)
    ]
    assert sorted(run.seen) == [[item] for item in range(CONNECTIONS)]
    assert await asyncio.gather(*tasks) == [item * 10 for item in range(CONNECTIONS + 2)]
    assert await all_given_back(engine)


async def test_ended_session_fails_its_batch_and_no_other(
    engine: AsyncEngine, own_database: Database
) -> None:
    run = Batches(2.0)
    gatherer = GroupCommit(engine, run)
    tasks = [asyncio.create_task(gatherer.ask(item, Deadline.after(8))) for item in (1, 2)]
    await asyncio.sleep(0.2)
    run.seconds = 0.0
    assert await ask_all(gatherer, [3]) == [30]
    await own_database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'custody' AND state = 'active'"
    )
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(answer, DatabaseError)
    assert await ask_all(gatherer, [4]) == [40]
    assert await all_given_back(engine)


@pytest.mark.prove
async def test_no_connection_is_free(engine: AsyncEngine) -> None:
    held = [await engine.connect() for _ in range(4)]
    gatherer = GroupCommit(engine, Batches())
    answers = await ask_all(gatherer, [1, 2], seconds=6)
    assert [type(answer) for answer in answers] == [Busy, Busy]
    for connection in held:
        await connection.close()
    assert await ask_all(gatherer, [3]) == [30]


async def test_a_lane_keeps_its_connection_for_a_while(engine: AsyncEngine) -> None:
    run = Batches()
    gatherer = GroupCommit(engine, run)
    assert await ask_all(gatherer, [1]) == [10]
    assert borrowed(engine) == 1
    for item in range(5):
        assert await ask_all(gatherer, [item]) == [item * 10]
        assert borrowed(engine) == 1
    assert await all_given_back(engine)
    assert await ask_all(gatherer, [2]) == [20]


async def test_a_kept_connection_that_the_server_ends_is_replaced(
    engine: AsyncEngine, own_database: Database
) -> None:
    gatherer = GroupCommit(engine, Batches())
    for item in range(5):
        assert await ask_all(gatherer, [item]) == [item * 10]
        await own_database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'custody'"
        )
        await asyncio.sleep(0.05)
    assert await all_given_back(engine)


async def test_close_gives_connections_back_at_once(engine: AsyncEngine) -> None:
    gatherer = GroupCommit(engine, Batches())
    assert await ask_all(gatherer, [1]) == [10]
    await gatherer.close()
    assert borrowed(engine) == 0
    # Who comes all the same is served.
    assert await ask_all(gatherer, [2]) == [20]


@pytest.mark.prove
async def test_frozen_server_each_answer_by_its_own_deadline(
    engine: AsyncEngine, own_server: EmbeddedPostgres
) -> None:
    gatherer = GroupCommit(engine, Batches())
    assert await ask_all(gatherer, [1]) == [10]

    async def timed(item: int, seconds: float) -> float:
        began = time.monotonic()
        with pytest.raises(DatabaseError):
            await gatherer.ask(item, Deadline.after(seconds))
        return time.monotonic() - began - seconds

    async def works() -> bool:
        return await ask_all(gatherer, [5], seconds=2) == [50]

    async with frozen(own_server):
        late = await asyncio.gather(*(timed(n, 1.1 + n / 20) for n in range(30)))
    assert max(late) < 0.7
    await eventually(works, 8)
    assert await all_given_back(engine)


async def test_clock_is_never_late(engine: AsyncEngine) -> None:
    clock = DatabaseClock()
    loop = asyncio.get_running_loop()
    assert clock.at(loop.time()) is None
    async with engine.connect() as borrowed:
        held: Any = (await borrowed.get_raw_connection()).driver_connection
        now = "SELECT extract(epoch FROM clock_timestamp())::float8"
        # However long the answer took.
        clock.observe(await held.fetchval(f"{now} FROM pg_sleep(0.2)"))
        deadline = clock.at(loop.time() + 1)
        assert deadline is not None
        assert -0.5 < deadline - (await held.fetchval(now) + 1) <= 0


async def test_old_reading_of_the_clock_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custody.db.clock._GOOD_FOR_SECONDS", 0.01)
    clock = DatabaseClock()
    clock.observe(1.0)
    await asyncio.sleep(0.05)
    assert clock.at(asyncio.get_running_loop().time()) is None


async def test_an_outcome_that_is_unknown_is_said_once_to_each(engine: AsyncEngine) -> None:
    async def run(*_: object) -> list[int]:
        raise OutcomeUnknown("lost")

    answers = await ask_all(GroupCommit(engine, run), [1, 2])
    said = "the database did not say whether the change was made: lost"
    assert [(type(answer), str(answer)) for answer in answers] == [(OutcomeUnknown, said)] * 2
