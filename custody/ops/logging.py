"""Structured logs on standard error: one line an event, JSON or text.

Secrets stay out by construction: events are logged with chosen fields only, libraries from level
warning on (a database driver at debug level would show rows), and exceptions without local
variables.
"""

import asyncio
import atexit
import json
import logging
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog

from custody import tracing
from custody.ops.unread import Unread
from custody.settings import LogFormat, LogLevel

# Of the request that a task works for; each line it logs has it.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

log = structlog.get_logger()

# Of lines that nobody reads so many characters are kept: some thousand requests.
_MOST_UNREAD = 1 << 20
_AGAIN_SECONDS = 0.1
_FINISH_SECONDS = 1.0


class Lines:
    """Writes each event as one line; where that fails, nothing else does.

    The lines of one turn of an event loop are written at its end, with one system call: there is a
    line for each request, and a call for each would cost a tenth of what the request does.

    Nobody waits for a lock here: a finalizer may log, too, and the garbage collector runs it in
    any thread at any moment, also in the middle of a write. Nor does anybody wait for who reads:
    what a full pipe does not take is kept up to a bound, and what comes beyond is lost and counted.

    Args:
        stream: where the lines go.
        default: whether they are JSON, from level info on.
    """

    def __init__(self, stream: TextIO, *, default: bool) -> None:
        self.default = default
        self._to = Unread(stream)
        self._writing = threading.Lock()
        self._waiting: deque[str] = deque()
        self._unread = ""
        self._lost = 0
        self._turn: asyncio.AbstractEventLoop | None = None
        self._again: asyncio.TimerHandle | None = None

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

    def finish(self) -> None:
        """Write what is left, where somebody reads it within a moment."""
        until = time.monotonic() + _FINISH_SECONDS
        self._write()
        while self._unread and (left := until - time.monotonic()) > 0:
            self._to.wait(left)
            self._write()

    def _write(self) -> None:
        self._turn = None
        # Who finds a writer at work leaves its lines to that one, which looks again after its
        # write: no line is lost.
        while (self._waiting or self._unread) and self._writing.acquire(blocking=False):
            try:
                lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
                if len(self._unread) < _MOST_UNREAD:
                    self._unread += "".join(f"{line}\n" for line in lines)
                else:
                    self._lost += len(lines)
                self._unread = self._to.write(self._unread)
            except (OSError, ValueError):
                # Nobody reads the log any more. Requests go on: their trail is the audit.
                self._unread = ""
            finally:
                self._writing.release()
            if self._unread:
                self._try_again()
                return
            if self._lost:
                lost, self._lost = self._lost, 0
                log.warning("log_lines_lost", lines=lost)

    def _try_again(self) -> None:
        """Have it tried again in a moment; without a loop the next line does."""
        if self._again is None:
            with suppress(RuntimeError):
                loop = asyncio.get_running_loop()
                self._again = loop.call_later(_AGAIN_SECONDS, self._now)

    def _now(self) -> None:
        self._again = None
        self._write()


class _Handler(logging.Handler):
    """Has lines of libraries written as ours are.

    Args:
        lines: write them.
    """

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.error(self.format(record))
        except Exception:  # noqa: BLE001 - as any handler
            self.handleError(record)


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
    if stream is sys.stderr:
        atexit.register(lines.finish)
    handler = _Handler(lines)
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
