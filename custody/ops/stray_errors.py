"""Errors that nobody waited for: what asyncio would print with text and arguments."""

import asyncio
from typing import Any

import structlog

log = structlog.get_logger()


def log_stray_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody waited for, by type: asyncio would show its text and its task's arguments."""
    error = context.get("exception")
    # A connection that was thrown away leaves such an error behind: nothing is wrong then.
    expected = type(error).__module__.startswith("asyncpg.") or isinstance(error, OSError)
    (log.debug if expected else log.error)(
        "stray_error", what=context["message"], error=type(error).__name__
    )
