"""Requests that come while calls are under way share the next one, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from kek_backends.call_batcher import CALLS_AT_ONCE, CallBatcher
from kek_backends.errors import Denied, KekError, Tampered, Transient
from tests.eventually import eventually

MOST = 10


class Kms:
    """Answers ``n`` with ``-n`` when the test lets it.

    ``failing`` are items that it refuses, each with an error of its own; ``refusing`` is raised
    by every call that holds the item of its key.
    """

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.running = 0
        self.most_running = 0
        self.may_answer = asyncio.Event()
        self.failing: dict[int, KekError] = {}
        self.refusing: dict[int, Exception] = {}
        self.short = 0
        self.gatherer = CallBatcher(self.call, MOST)

    async def call(self, items: Sequence[int]) -> list[int | KekError]:
        self.calls.append(list(items))
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await self.may_answer.wait()
        finally:
            self.running -= 1
        for item in items:
            if item in self.refusing:
                raise self.refusing[item]
        answers: list[int | KekError] = [self.failing.get(item, -item) for item in items]
        return answers[self.short :]

    def ask(self, *items: int) -> "list[asyncio.Task[int]]":
        return [asyncio.ensure_future(self.gatherer.ask(item)) for item in items]

    async def fill(self) -> "list[asyncio.Task[int]]":
        """Have all calls under way that there may be, with one item each: 1, 2…"""
        asked: list[asyncio.Task[int]] = []
        for item in range(1, CALLS_AT_ONCE + 1):
            asked.extend(self.ask(item))
            await eventually(lambda: self.running == len(asked))
        self.calls.clear()
        return asked


@pytest.fixture
async def server() -> AsyncIterator[Kms]:
    made = Kms()
    yield made
    made.may_answer.set()
    await eventually(lambda: not made.gatherer._tasks)


async def results(asked: "list[asyncio.Task[int]]") -> list[object]:
    return list(await asyncio.gather(*asked, return_exceptions=True))


async def test_one_after_the_other_goes_at_once_and_alone(server: Kms) -> None:
    server.may_answer.set()
    assert [await server.gatherer.ask(n) for n in (1, 2, 3)] == [-1, -2, -3]
    assert server.calls == [[1], [2], [3]]


async def test_goes_at_once_while_few_calls_are_under_way(server: Kms) -> None:
    asked = await server.fill()
    assert server.running == CALLS_AT_ONCE == 4
    server.may_answer.set()
    assert await results(asked) == [-1, -2, -3, -4]


async def test_those_that_come_meanwhile_go_together_and_in_order(server: Kms) -> None:
    first = await server.fill()
    later = server.ask(11, 12, 13, 14, 15)
    await asyncio.sleep(0.05)
    assert server.calls == []
    server.may_answer.set()
    assert await results(first + later) == [-1, -2, -3, -4, -11, -12, -13, -14, -15]
    assert server.calls == [[11, 12, 13, 14, 15]]


async def test_never_more_calls_nor_larger_ones(server: Kms) -> None:
    asked = server.ask(*range(1, 101))
    await eventually(lambda: server.running == CALLS_AT_ONCE)
    await asyncio.sleep(0.05)
    server.may_answer.set()
    assert await results(asked) == [-n for n in range(1, 101)]
    assert server.most_running == CALLS_AT_ONCE
    assert max(map(len, server.calls)) == MOST
    assert [item for call in server.calls for item in call] == list(range(1, 101))


async def test_each_has_an_outcome_of_its_own(server: Kms) -> None:
    server.failing = {2: Tampered("two"), 4: Transient("four")}
    server.may_answer.set()
    asked = server.ask(1, 2, 3, 4, 5)
    assert (await results(asked))[::2] == [-1, -3, -5]
    assert server.calls == [[1, 2, 3, 4, 5]]
    # Raised, not returned as if it were a key.
    errors = [one.exception() for one in asked[1::2]]
    assert [(type(one), str(one)) for one in errors] == [(Tampered, "two"), (Transient, "four")]


async def test_who_gave_up_is_not_in_the_next_call(server: Kms) -> None:
    first = await server.fill()
    asked = server.ask(11, 12, 13)
    await asyncio.sleep(0)
    asked[1].cancel()
    server.may_answer.set()
    assert (await results(asked))[::2] == [-11, -13]
    assert server.calls == [[11, 13]]
    await results(first)


async def test_who_gives_up_during_the_call_hurts_no_other(server: Kms) -> None:
    """Also not who started it."""
    asked = server.ask(1, 2, 3)
    await eventually(lambda: server.running == 1)
    asked[0].cancel()
    asked[2].cancel()
    await asyncio.sleep(0)
    server.may_answer.set()
    assert await asked[1] == -2
    assert server.calls == [[1, 2, 3]]


async def test_a_call_that_fails_for_now_fails_all_in_it_and_no_more(server: Kms) -> None:
    first = await server.fill()
    server.refusing = {12: Transient("later")}
    asked = server.ask(11, 12, 13)
    server.may_answer.set()
    assert await results(first) == [-1, -2, -3, -4]
    found = await results(asked)
    assert [(type(one), str(one)) for one in found] == [(Transient, "later")] * 3
    # Each its own: an exception gathers the frames of whoever raises it.
    assert len({id(one) for one in found}) == 3
    assert server.calls == [[11, 12, 13]]
    assert await server.gatherer.ask(14) == -14


async def test_a_call_that_is_refused_is_made_for_each_alone(server: Kms) -> None:
    """What one of them holds may be the reason."""
    server.refusing = {2: Denied("two")}
    server.may_answer.set()
    found = await results(server.ask(1, 2, 3))
    assert [found[0], found[2]] == [-1, -3]
    assert (type(found[1]), str(found[1])) == (Denied, "two")
    assert server.calls == [[1, 2, 3], [1], [2], [3]]


async def test_a_lone_one_that_is_refused_is_not_tried_again(server: Kms) -> None:
    server.refusing = {1: Denied("one")}
    server.may_answer.set()
    with pytest.raises(Denied, match="one"):
        await server.gatherer.ask(1)
    assert server.calls == [[1]]


async def test_answers_that_are_too_few_are_nobodys(server: Kms) -> None:
    """Whose they are could only be guessed."""
    server.short = 1
    server.may_answer.set()
    found = await results(server.ask(1, 2, 3))
    assert [type(one) for one in found] == [Transient] * 3


async def test_a_defect_is_told_to_each_and_ends_nothing(server: Kms) -> None:
    server.refusing = {2: ZeroDivisionError("a defect")}
    server.may_answer.set()
    found = await results(server.ask(1, 2, 3))
    assert [type(one) for one in found] == [ZeroDivisionError] * 3
    assert await server.gatherer.ask(4) == -4
