"""Which numbers of the audit are settled: no row can come among them any more.

A number is no order of commits: a row may be committed after one with a higher number. So whoever
goes on behind the last row that was seen asks here first how far that may be. It is read from the
locks of those who write (``auth.custody_audit_horizon``): neither a clock that is set back nor a
row that is late makes a hole. The deadline inside COMMIT (docs/adr, 5) bounds how long it takes.
"""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.errors import Refused
from custody.db.queries import query
from custody.db.scope import transaction

# Longer than any request may take, so than any of them can write.
WRITER_SECONDS = 30.0
LOOK_SECONDS = 0.1
# In words, for who is told why it waits.
STUCK = "a transaction that has written to the audit does not end"

# What is prepared for a two-phase commit goes on under another name, and may be one of ours.
_PREPARED = "-1/"


async def settled(engine: AsyncEngine) -> int | None:
    """Return a number up to which no row can come any more; None: somebody writes for long.

    Args:
        engine: connections of a role that may run ``auth.custody_audit_horizon``.

    Raises:
        Refused: the server is a standby, which can't say it.
        DatabaseError: the database can't be asked now.
    """
    number, writers = await _horizon(engine)
    give_up_at = asyncio.get_running_loop().time() + WRITER_SECONDS
    while writers:
        if asyncio.get_running_loop().time() > give_up_at:
            return None
        await asyncio.sleep(LOOK_SECONDS)
        now = (await _horizon(engine))[1]
        writers = {one for one in now if one in writers or one.startswith(_PREPARED)}
    return number


async def drawn(engine: AsyncEngine) -> int:
    """Return the highest number that any row has, or is soon to have.

    Args:
        engine: connections of a role that may run ``auth.custody_audit_horizon``.

    Raises:
        Refused: the server is a standby, which can't say it.
        DatabaseError: the database can't be asked now.
    """
    return (await _horizon(engine))[0]


async def _horizon(engine: AsyncEngine) -> tuple[int, set[str]]:
    async with transaction(engine) as connection:
        (row,) = await connection.fetch(query("audit_horizon"))
    if row["is_standby"]:
        raise Refused(
            "a standby can't say which audit rows are still to come; let the URL lead to the "
            "primary: target_session_attrs=read-write"
        )
    return row["number"], set(row["writers"])
