"""Structured logs on standard error: one line an event, JSON or text.

Secrets stay out by construction: events are logged with chosen fields only, libraries from level
warning on (a database driver at debug level would show rows), and exceptions without local
variables.
"""

import asyncio
import json
import logging
import sys
import threading
from collections import deque
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog

from custody import tracing
from custody.settings import LogFormat, LogLevel

# Of the request that a task works for; each line it logs has it.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class Lines:
    """Writes each event as one line; where that fails, nothing else does.

    The lines of one turn of an event loop are written at its end, with one system call: there is a
    line for each request, and a call for each would cost a tenth of what the request does.

    Nobody waits for a lock here: a finalizer may log, too, and the garbage collector runs it in
    any thread at any moment, also in the middle of a write.

    Args:
        stream: where the lines go.
        default: whether they are JSON, from level info on.
    """

    def __init__(self, stream: TextIO, *, default: bool) -> None:
        self.default = default
        self._stream = stream
        self._writing = threading.Lock()
        self._waiting: deque[str] = deque()
        self._turn: asyncio.AbstractEventLoop | None = None

    def info(self, *lines: str) -> None:
        """Write lines at the end of this turn."""
        if not lines:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.error(*lines)
            return
        self._waiting += lines
        # A loop that has ended before the end of its turn has not written its lines.
        if self._turn is not loop:
            self._turn = loop
            loop.call_soon(self._write)

    def error(self, *lines: str) -> None:
        """Write lines now."""
        self._waiting += lines
        self._write()

    debug = info
    warning = critical = error

    def _write(self) -> None:
        self._turn = None
        # Who finds a writer at work leaves its lines to that one, which looks again after its
        # write: no line is lost.
        while self._waiting and self._writing.acquire(blocking=False):
            try:
                lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            except (OSError, ValueError):
                # Nobody reads the log any more. Requests go on: their trail is the audit.
                pass
            finally:
                self._writing.release()


def configure(level: LogLevel, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Set up logging for the process.

    Args:
        level: the least level of our own events; libraries are logged from warning on.
        log_format: ``json`` for machines, ``text`` for people.
        stream: where the lines go; None is standard error.
    """
    stream = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [_complete]
    renderer: structlog.typing.Processor
    if log_format is LogFormat.JSON:
        shared.append(structlog.processors.format_exc_info)
        renderer = _render_json
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    # Our own events go straight to the stream: there is one for each request.
    lines = Lines(stream, default=log_format is LogFormat.JSON and level is LogLevel.INFO)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def default_lines() -> Lines | None:
    """Return where lines of the default format and level go; None where another is configured.

    Who formats lines by hand may write them there.
    """
    lines = structlog.get_config()["logger_factory"]()
    return lines if isinstance(lines, Lines) and lines.default else None


def timestamp() -> str:
    """Return now, as each line has it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")[:26] + "Z"


def _complete(
    _logger: Any, level: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if "request_id" not in event and (given := request_id.get()) is not None:
        event["request_id"] = given
    if "trace_id" not in event:
        event.update(tracing.ids())
    event["level"] = level
    event["timestamp"] = timestamp()
    return event


def _render_json(_logger: Any, _name: str, event: structlog.typing.EventDict) -> str:
    return _JSON.encode(event)


_JSON = json.JSONEncoder(default=repr)
