"""Structured logs on standard error: one line an event, JSON or text.

Secrets stay out by construction: events are logged with chosen fields only, libraries are held to
warnings (a database driver at debug level would show rows), and exceptions are shown without
local variables.
"""

import logging
import sys
from typing import TextIO

import structlog

from custody.settings import LogFormat, LogLevel


def configure(level: LogLevel, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Set up logging for the process.

    Args:
        level: the least level of our own events; libraries are logged from warning on.
        log_format: ``json`` for machines, ``text`` for people.
        stream: where the lines go; None is standard error.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if log_format is LogFormat.JSON:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
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
    for ours in ("custody", "kek_backends"):
        logging.getLogger(ours).setLevel(logging.DEBUG)
