"""Logging as custody sets it up, for as long as a test looks at it."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import structlog

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel


@contextmanager
def logging_to(stream: TextIO, level: LogLevel, log_format: LogFormat) -> Iterator[None]:
    """Log there; afterwards logging is as it was.

    Args:
        stream: where the lines go.
        level: the least level of custody's own events.
        log_format: of each line.
    """
    before, root = structlog.get_config(), logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    try:
        configure(level, log_format, stream)
        yield
    finally:
        structlog.configure(**before)
        root.handlers[:] = handlers
        root.setLevel(root_level)


@contextmanager
def logging_to_memory(level: LogLevel, log_format: LogFormat) -> Iterator[io.StringIO]:
    """Do the same into memory, and yield that."""
    stream = io.StringIO()
    with logging_to(stream, level, log_format):
        yield stream
