"""Takes clients out of audit rows: address and user agent, which are personal data.

The row's seal has them by a keyed hash of its own, and the tree has the seal: both hold without
them. Of a row without a seal they are in the tree as they are, so there they stay.
"""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.reading import LOWEST
from custody.db.queries import query
from custody.db.scope import transaction

# The daemon waits for none of it; the sealer does, so for no longer than this many rows take.
_PAGE = 5000
# To find the next one it may have to read all that were done before.
_LOOK_SECONDS = 600.0


async def redact(
    engine: AsyncEngine, before: datetime, advance: Callable[[int], None] = lambda _count: None
) -> int:
    """Take the clients out of all rows that have a seal, and return of how many.

    Broken off, it is run again: what is done is done.

    Args:
        engine: connections of the schema's owner.
        before: only of rows from before this time.
        advance: told how many more rows are done, each time.

    Raises:
        Busy: rows are locked by somebody.
        DatabaseError: the database can't be asked now.
    """
    done, above = 0, LOWEST
    while numbers := await _next(engine, above, before):
        async with transaction(engine) as connection:
            await connection.execute(query("open_audit_redaction"))
            await connection.execute(query("redact_audit_rows"), numbers)
        done, above = done + len(numbers), numbers[-1]
        advance(len(numbers))
    return done


async def count_without_seal(engine: AsyncEngine, before: datetime) -> int:
    """Return how many rows have a client that can't be taken out.

    Args:
        engine: connections of the schema's owner.
        before: only rows from before this time.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine, _LOOK_SECONDS) as connection:
        await connection.execute(query("open_audit"))
        return int(await connection.fetchval(query("count_audit_clients_without_seal"), before))


async def _next(engine: AsyncEngine, above: int, before: datetime) -> list[int]:
    """Return the numbers of the next rows, by a look that no sealer waits for."""
    async with transaction(engine, _LOOK_SECONDS) as connection:
        await connection.execute(query("open_audit"))
        found = await connection.fetch(query("list_audit_clients"), above, before, _PAGE)
    return [row["number"] for row in found]
