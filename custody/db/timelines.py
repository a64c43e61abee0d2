"""Of two primaries the older one is refused.

A standby that is promoted begins a new timeline, one higher than any before. A server that still
writes on an older one was the primary until then, and does not know: nobody could tell it. What is
read there is out of date, and what is written there is thrown away.
"""

import asyncio
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
import structlog

from custody.db.errors import SILENT
from custody.db.queries import query

Connection: TypeAlias = "asyncpg.Connection[Any]"

log = structlog.get_logger()


_OLD = (
    "it is an old primary: another server was promoted after it (if a backup was restored, restart "
    "custody)"
)


class NotTaken(Exception):
    """A server has taken our login, and will not do; the message says why."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Where a server writes.

    Args:
        system: what all copies of one server share.
        number: grows with each promotion.
    """

    system: int
    number: int


class Timelines:
    """The latest timeline that was seen of each system."""

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}
        # When it was learnt that there was another promotion, as ``loop.time()`` counts.
        self._moved_at = -math.inf

    def has_moved_since(self, moment: float) -> bool:
        """Say whether what was read after a moment may have come from an old primary."""
        return self._moved_at >= moment

    def is_past(self, seen: Timeline | None) -> bool:
        """Say whether a server was seen that was promoted after this one."""
        return seen is not None and seen.number < self._latest.get(seen.system, 0)

    async def admit(self, connection: Connection, until: float) -> Timeline | None:
        """Take note of a server's timeline, and return it; None where it says none.

        Args:
            connection: to it, just made; closed where it is not taken.
            until: when to give up, as ``loop.time()`` counts.

        Raises:
            NotTaken: another server was promoted after it, or there was no answer.
            OSError, asyncpg.PostgresError: the connection has ended.
        """
        try:
            async with asyncio.timeout_at(until):
                seen = await _read(connection)
            if seen is not None and self.is_past(seen):
                latest = self._latest[seen.system]
                log.warning("old_primary_refused", timeline=seen.number, latest=latest)
                raise NotTaken(_OLD)
        except TimeoutError:
            connection.terminate()
            raise NotTaken(SILENT) from None
        except BaseException:
            connection.terminate()
            raise
        if seen is not None and seen.number > self._latest.setdefault(seen.system, seen.number):
            self._latest[seen.system] = seen.number
            self._moved_at = asyncio.get_running_loop().time()
        return seen


async def _read(connection: Connection) -> Timeline | None:
    """Ask a server for its timeline; None where it has none to say: a standby, or another make."""
    said = bytearray()

    async def keep(data: bytes) -> None:
        said.extend(data)

    try:
        # By COPY, which prepares nothing: a pooler may be in between.
        await connection.copy_from_query(query("read_timeline"), output=keep)
    except asyncpg.InterfaceError:
        # It has ended, and the server had taken our login.
        raise ConnectionResetError from None
    except (asyncpg.FeatureNotSupportedError, asyncpg.InsufficientPrivilegeError):
        return None
    except asyncpg.ObjectNotInPrerequisiteStateError:  # it has become a standby just now
        return None
    system, _, number = said.decode().partition(" ")
    return Timeline(int(system), int(number, 16)) if number else None
