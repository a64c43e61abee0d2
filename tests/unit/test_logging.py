"""Log lines: in order, whole, from any thread, and never the end of a request."""

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel

log = structlog.get_logger()


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the lines of this test go; afterwards logging is as it was."""
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    made = io.StringIO()
    configure(LogLevel.INFO, LogFormat.JSON, made)
    yield made
    structlog.configure(**before)
    logging.getLogger().handlers[:] = handlers


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


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
