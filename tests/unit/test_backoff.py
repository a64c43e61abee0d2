"""Pauses grow from failure to failure, begin anew after a success, and come to an end."""

import asyncio
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from custody.rewrap import backoff as backoff_module
from custody.rewrap.backoff import Backoff, NotFinished, sleep, stopped
from tests.clock import Clock


@dataclass
class Waits(Clock):
    """Time that passes in pauses alone, each of which is noted."""

    pauses: list[float] = field(default_factory=list)

    async def sleep(self, _stop: asyncio.Event, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    made = Waits()
    monkeypatch.setattr(backoff_module, "time", made)
    monkeypatch.setattr(backoff_module, "sleep", made.sleep)
    return made


async def test_pauses_grow(waits: Waits) -> None:
    backoff = Backoff(3600.0, asyncio.Event())
    with capture_logs() as logged:
        for _ in range(7):
            await backoff.pause("the database is down")
    assert waits.pauses == [0.5, 1.0, 2.0, 5.0, 10.0, 10.0, 10.0]
    assert [one["seconds"] for one in logged] == waits.pauses
    assert {one["reason"] for one in logged} == {"the database is down"}


async def test_after_a_success_they_begin_anew(waits: Waits) -> None:
    backoff = Backoff(8.0, asyncio.Event())
    for _ in range(3):
        await backoff.pause("down")
    backoff.renew()
    for _ in range(3):
        await backoff.pause("down")
    assert waits.pauses == [0.5, 1.0, 2.0] * 2


async def test_it_gives_up_in_time(waits: Waits) -> None:
    """The last pause is as long as there is time; a failure after it is the last."""
    backoff = Backoff(4.0, asyncio.Event())
    for _ in range(4):
        await backoff.pause("down")
    assert waits.pauses == [0.5, 1.0, 2.0, 0.5]
    with pytest.raises(NotFinished, match=r"^not finished, run it again: the KMS is away$"):
        await backoff.pause("the KMS is away")
    assert waits.now == 1004.0
    backoff.renew()
    await backoff.pause("down")


async def test_time_counts_from_the_first_failure(waits: Waits) -> None:
    backoff = Backoff(4.0, asyncio.Event())
    waits.now += 100
    await backoff.pause("down")
    waits.now += 3.5
    with pytest.raises(NotFinished):
        await backoff.pause("down")
    assert waits.pauses == [0.5]


async def test_no_time_at_all_is_no_pause(waits: Waits) -> None:
    with pytest.raises(NotFinished):
        await Backoff(0.0, asyncio.Event()).pause("down")
    assert waits.pauses == []


async def test_whoever_stops_it_waits_for_no_pause() -> None:
    stop = asyncio.Event()
    pausing = asyncio.create_task(Backoff(3600.0, stop).pause("down"))
    await asyncio.sleep(0)
    stop.set()
    with pytest.raises(NotFinished) as raised:
        await asyncio.wait_for(pausing, 0.4)
    assert str(raised.value) == str(stopped())
    assert "what was done is stored" in str(stopped())


async def test_a_sleep_ends_by_itself_or_when_it_is_stopped() -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    began = loop.time()
    await sleep(stop, 0.05)
    assert loop.time() - began >= 0.045
    stop.set()
    await asyncio.wait_for(sleep(stop, 3600), 5)
