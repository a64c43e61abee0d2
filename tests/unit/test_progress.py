"""How far a command is, where there is no terminal; the bar is in test_rewrap_progress."""

import asyncio

import pytest

from custody.cli.commands import event_loop, progress
from custody.cli.commands.progress import Lines, Waiting, counted, waiting
from tests.clock import Clock


def test_a_line_now_and_then() -> None:
    clock, said = Clock(), list[str]()
    lines = Lines("verified", 1000, "rows", said.append, clock)
    for seconds in (1, 8, 2, 5, 6):
        clock.now += seconds
        lines.advance(100)
    assert said == [
        "verified: 300 of 1000 rows, 27 rows/s, 26 s left",
        "verified: 500 of 1000 rows, 18 rows/s, 27 s left",
    ]


def test_where_nobody_knows_how_many_there_are() -> None:
    clock, said = Clock(), list[str]()
    lines = Lines("redacted", None, "rows", said.append, clock)
    clock.now += 10
    lines.advance(0)
    clock.now += 10
    lines.advance(50)
    assert said == ["redacted: 0 rows, 0 rows/s", "redacted: 50 rows, 5 rows/s"]


def test_what_is_counted_prints_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with counted("drilled", 2, "data keys") as advance:
        advance(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("custody: drilled: 1 of 2 data keys, ")


async def test_what_is_waited_for_is_said_and_may_change(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.001)
    what = Waiting("applying 0001, 1 of 2")
    async with waiting(what):
        await asyncio.sleep(0.05)
        what.text = "applying 0002, 2 of 2"
        await asyncio.sleep(0.05)
    out, err = capsys.readouterr()
    assert out == ""
    assert "custody: applying 0001, 1 of 2: 0 s so far\n" in err
    assert "custody: applying 0002, 2 of 2: 0 s so far\n" in err


def test_what_fails_while_it_is_waited_for_fails() -> None:
    async def fail() -> None:
        raise KeyError("as it was")

    with pytest.raises(KeyError, match="as it was"):
        event_loop.run(fail(), "counting rows")
