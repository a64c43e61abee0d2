"""Rows that a superuser holds, so that requests wait for them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.eventually import eventually
from tests.servers import Database

if TYPE_CHECKING:
    import asyncpg

_WAITING = (
    "SELECT count(*) > 0 FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@asynccontextmanager
async def held(database: Database) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """Hold all vaults for the length of the block.

    Yields:
        The superuser's connection, in the transaction that holds them.
    """
    async with database.connect() as superuser, superuser.transaction():
        await superuser.execute("SELECT FROM auth.encryption_vaults FOR UPDATE")
        yield superuser


async def one_waits(database: Database) -> None:
    """Wait until a request waits for what is held."""
    await eventually(lambda: database.value(_WAITING))
