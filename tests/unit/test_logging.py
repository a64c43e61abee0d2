"""Log lines: in order, whole, from any thread, and never the end of a request."""

import asyncio
import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TextIO

import pytest
import structlog

from custody.ops.access_log import AccessRecord, log_requests
from custody.ops.logging import Lines, configure
from custody.settings import LogFormat, LogLevel
from custody.vault.keys import WrappedKey
from custody.vault.model import MasterKey
from kek_backends.base import Wrap
from tests.eventually import eventually
from tests.logs import logging_to, logging_to_memory

log = structlog.get_logger()


COMPLETED = [
    AccessRecord("GET", "get_key", 200, "OK", 0.0012345, "a-b_c.1", quiet=False, trace={}),
    AccessRecord(None, "none", 404, "NOT_FOUND", 0.5, "d", quiet=True, trace={}),
    AccessRecord(
        "POST",
        "init",
        503,
        "OVERLOADED",
        2.0,
        "e",
        quiet=False,
        trace={"trace_id": "0a", "span_id": "b1"},
    ),
]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the lines of this test go."""
    with logging_to_memory(LogLevel.INFO, LogFormat.JSON) as made:
        yield made


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("form", LogFormat)
def test_a_master_key_that_is_logged_is_not_shown(form: LogFormat) -> None:
    """Nobody logs one; if somebody did, its line would not tell it."""
    key = b"thirty-two bytes nobody may read"
    wrap = Wrap("wrapped", "iv", 3, "env-v1")
    with logging_to_memory(LogLevel.INFO, form) as made:
        log.info(
            "shown", key=MasterKey(key, 7, 3, "env-v1"), keys=WrappedKey(7, key, wrap, "check")
        )
    said = made.getvalue()
    assert "MasterKey" in said
    assert "thirty-two" not in said


async def test_lines_of_one_turn_are_written_at_its_end(stream: io.StringIO) -> None:
    for number in range(3):
        log.info("said", number=number)
    assert stream.getvalue() == ""
    await asyncio.sleep(0)
    assert [line["number"] for line in lines(stream)] == [0, 1, 2]


async def test_an_error_is_written_at_once_after_what_came_before(stream: io.StringIO) -> None:
    log.info("first")
    log.error("second")
    assert [line["event"] for line in lines(stream)] == ["first", "second"]
    await asyncio.sleep(0)
    assert len(lines(stream)) == 2


def test_line_of_a_loop_that_ended_in_the_same_turn_is_not_in_the_way(stream: io.StringIO) -> None:
    loop = asyncio.new_event_loop()

    def say() -> None:
        log.info("first")
        loop.stop()

    loop.call_soon(say)
    loop.run_forever()
    loop.close()
    assert stream.getvalue() == ""

    async def go_on() -> None:
        log.info("second")
        await asyncio.sleep(0)

    asyncio.run(go_on())
    assert [line["event"] for line in lines(stream)] == ["first", "second"]


def test_without_a_loop_a_line_is_written_at_once(stream: io.StringIO) -> None:
    log.info("said")
    (line,) = lines(stream)
    assert (line["event"], line["level"]) == ("said", "info")
    assert line["timestamp"].endswith("Z")
    assert len(line["timestamp"]) == 27


async def test_lines_of_threads_are_whole(stream: io.StringIO) -> None:
    def talk() -> None:
        for number in range(200):
            log.warning("said", number=number, text="x" * 100)

    threads = [threading.Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(200):
        log.info("said", number=number)
        await asyncio.sleep(0)
    for thread in threads:
        thread.join()
    await asyncio.sleep(0)
    assert len(lines(stream)) == 1000


async def test_who_logs_in_the_middle_of_a_write_waits_for_nobody(stream: io.StringIO) -> None:
    """As a finalizer does: the garbage collector runs it wherever something is made."""
    whole = stream.write

    def write(text: str) -> int:
        stream.write = whole  # type: ignore[method-assign]
        log.error("inner")
        log.info("of this turn")
        return whole(text)

    stream.write = write  # type: ignore[method-assign]
    log.error("outer")
    assert [line["event"] for line in lines(stream)] == ["outer", "inner", "of this turn"]
    await asyncio.sleep(0)
    assert len(lines(stream)) == 3


async def test_a_stream_that_nobody_reads_ends_no_request(stream: io.StringIO) -> None:
    stream.close()
    log.info("said")
    log.error("said")
    await asyncio.sleep(0)


def test_lines_of_libraries_look_the_same(stream: io.StringIO) -> None:
    logging.getLogger("asyncio").warning("slow")
    logging.getLogger("asyncio").info("not shown")
    (line,) = lines(stream)
    assert (line["event"], line["level"]) == ("slow", "warning")


def test_what_json_does_not_know_is_shown_all_the_same(stream: io.StringIO) -> None:
    log.info("said", what=object)
    (line,) = lines(stream)
    assert "object" in line["what"]


@pytest.mark.parametrize("level", [LogLevel.INFO, LogLevel.DEBUG, LogLevel.WARNING])
async def test_requests_are_logged_alike_by_hand_and_as_any_event(
    stream: io.StringIO, level: LogLevel
) -> None:
    configure(level, LogFormat.JSON, stream)
    log_requests(COMPLETED)
    await asyncio.sleep(0)
    told = lines(stream)
    assert all(line.pop("timestamp").endswith("Z") for line in told)
    # What the level that is the default writes by hand is what the others have from structlog.
    expected = [
        {
            "event": "request",
            "level": "debug" if one.quiet else "info",
            "method": one.method,
            "route": one.route,
            "status": one.status,
            "code": one.code,
            "milliseconds": round(one.seconds * 1000, 2),
            "request_id": one.request_id,
            **one.trace,
        }
        for one in COMPLETED
        if level is LogLevel.DEBUG or not one.quiet
    ]
    assert told == ([] if level is LogLevel.WARNING else expected)


async def test_requests_in_text(stream: io.StringIO) -> None:
    configure(LogLevel.INFO, LogFormat.TEXT, stream)
    log_requests(COMPLETED)
    await asyncio.sleep(0)
    told = stream.getvalue().splitlines()
    assert [line.count("get_key") for line in told] == [1, 0]
    assert not any(line.startswith("{") for line in told)


async def test_requests_of_no_interest_are_no_line(stream: io.StringIO) -> None:
    log_requests([one for one in COMPLETED if one.quiet])
    await asyncio.sleep(0)
    assert stream.getvalue() == ""


def test_who_does_not_read_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that is full: all goes on, and what was lost is said once somebody reads."""
    monkeypatch.setattr("custody.ops.logging._MOST_UNREAD", 100_000)
    with full_pipe() as (reader, writer), logging_to(writer, LogLevel.INFO, LogFormat.JSON):
        for number in range(2000):
            log.info("said", number=number, text="x" * number)
        logging.getLogger("asyncio").warning("slow")
        told, sent = b"", 2001
        while b"log_lines_lost" not in told:
            log.info("goes on")
            sent += 1
            told += reader.read(1 << 16) or b""
    shown = [json.loads(line) for line in told.splitlines()]
    numbers = [line["number"] for line in shown if line["event"] == "said"]
    assert numbers == [*range(len(numbers))], "whole lines, the first of them"
    (lost,) = (line for line in shown if line["event"] == "log_lines_lost")
    assert lost["level"] == "warning"
    assert len(shown) - 1 + lost["lines"] == sent


async def test_what_waits_for_a_reader_needs_no_further_line() -> None:
    with full_pipe() as (reader, writer), logging_to(writer, LogLevel.INFO, LogFormat.TEXT):
        text = "\N{SNOWMAN}" * 50_000
        log.info(text)
        told = b""

        def read() -> bool:
            nonlocal told
            told += reader.read(1 << 16) or b""
            return text.encode() in told

        await eventually(read)


def test_what_waits_at_the_end_is_written_if_somebody_reads() -> None:
    with full_pipe() as (reader, writer):
        lines = Lines(writer, default=True)
        lines.info("x" * 200_000)
        reading = threading.Thread(target=reader.read, args=(200_001,))
        os.set_blocking(reader.fileno(), True)
        reading.start()
        lines.finish()
        reading.join(20)
        assert not reading.is_alive()


@contextmanager
def full_pipe() -> Iterator[tuple[BinaryIO, TextIO]]:
    """Return the ends of a pipe: who writes there would wait, who reads does not."""
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    with os.fdopen(reads, "rb") as reader, os.fdopen(writes, "w", encoding="utf-8") as writer:
        yield reader, writer
