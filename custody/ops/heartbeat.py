"""When a watchdog ping is due: the loop turns, and the way to the database is open.

A database that is down is no reason to restart a daemon. A daemon that can't reach a database which
answers everybody else is one: something in it is stuck.
"""

import asyncio

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.checkout import acquire
from custody.db.engine import on_return
from custody.db.errors import DatabaseError

_ANSWER_SECONDS = 5.0

log = structlog.get_logger()


class Heartbeat:
    """Says whether this process is well.

    Args:
        engine: the connections that requests use.
        fresh: the same database by connections of its own, opened only for a question.
    """

    def __init__(self, engine: AsyncEngine, fresh: AsyncEngine) -> None:
        self._engine = engine
        self._fresh = fresh
        self._given_back = 0
        on_return(engine, self._count)

    async def beat(self, within: float = 2 * _ANSWER_SECONDS) -> bool:
        """Say whether requests can get to the database, or nobody can.

        Args:
            within: seconds that it takes at most, ten or less.
        """
        before, seconds = self._given_back, min(_ANSWER_SECONDS, within / 2)
        if await _answers(self._engine, seconds):
            return True
        if self._given_back != before:
            return True  # slow, but connections come and go
        try:
            stuck = await _answers(self._fresh, seconds)
        finally:
            await self._fresh.dispose()
        if stuck:
            log.error("connections_stuck", cure="the watchdog ends this process if it stays so")
        return not stuck

    def _count(self) -> None:
        self._given_back += 1


async def _answers(engine: AsyncEngine, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds), acquire(engine) as connection:
            return bool(await connection.fetchval("SELECT 1"))
    except (DatabaseError, TimeoutError):
        return False
