"""Logging as custody sets it up, for as long as a test looks at it."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel


@contextmanager
def logging_to_memory(level: LogLevel, log_format: LogFormat) -> Iterator[io.StringIO]:
    """Log into memory; afterwards logging is as it was.

    Args:
        level: the least level of custody's own events.
        log_format: of each line.

    Yields:
        Where the lines go.
    """
    before, root = structlog.get_config(), logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        configure(level, log_format, stream)
        yield stream
    finally:
        structlog.configure(**before)
        root.handlers[:] = handlers
        root.setLevel(root_level)
