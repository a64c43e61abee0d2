"""Erases a user's vault, by the owner of the schema; and again, in a database from before that."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from custody.db.connect import Connection
from custody.db.engine import Dsn
from custody.db.erasure_record import Erasure, recorded
from custody.db.erasures import CURE, find_due
from custody.db.owner import (
    OwnerError,
    OwnerRefused,
    first_line,
    owner_connection,
    owner_transaction,
)
from custody.db.queries import query

_TIMEOUT = "30s"
_REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Erased:
    """What was removed."""

    vault: bool
    user: bool


async def erase_user(owner: Dsn, erasure: Erasure, record: Path | None = None) -> Erased:
    """Remove a user's vault, and the user where auth.users is our own. The audit rows stay.

    Args:
        owner: URL of the role that owns the schema.
        erasure: whom, and the id of the audit row that says so; where nothing was there to remove,
            there is none.
        record: the erasure record; None: none is kept.

    Raises:
        OwnerError: nothing was removed, or, after COMMIT was sent, that is not known.
        RecordError: it can't be put on record, and nothing was removed.
    """
    is_recorded = False
    try:
        async with (
            owner_connection(owner) as connection,
            AsyncExitStack() as until_committed,
            _owners(),
            owner_transaction(connection),
        ):
            erased = await _remove(connection, erasure.user_id)
            if erased.vault or erased.user:
                await connection.execute(query("record_erasure"), *erasure, None)
                if record is not None:
                    # The last thing before COMMIT: what fails until here leaves no line, and what
                    # fails from here on leaves an erasure that is due.
                    await until_committed.enter_async_context(recorded(record, erasure))
                    is_recorded = True
    except OwnerError as error:
        if is_recorded:
            raise type(error)(
                f"{error}; it is on record, and due until it is made; {CURE}"
            ) from None
        raise
    return erased


async def due_erasures(owner: Dsn, erasures: Sequence[Erasure]) -> list[Erasure]:
    """Return which erasures a database does not have.

    Args:
        owner: URL of the role that owns the schema.
        erasures: those on record.

    Raises:
        OwnerError: the database can't be asked.
    """
    async with owner_connection(owner) as connection, _owners(), owner_transaction(connection):
        await _open(connection, "")
        return await find_due(connection, erasures)


@asynccontextmanager
async def replaying(owner: Dsn) -> AsyncIterator["Replay"]:
    """Connect, to make erasures again that a database does not have.

    Raises:
        OwnerError: the one under way was not made; those before it were.
    """
    async with owner_connection(owner) as connection:
        yield Replay(connection)


class Replay:
    """Makes erasures again, each in a transaction of its own.

    Args:
        connection: of the owner.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def erase(self, erasure: Erasure) -> Erased:
        """Make one again, with the audit row of the same id.

        Where somebody else has made it meanwhile, nothing is removed: the user may be back.

        Args:
            erasure: that is due.
        """
        async with _owners(), owner_transaction(self._connection):
            await _open(self._connection, erasure.user_id)
            await self._connection.execute(query("lock_vault"), erasure.user_id)
            # Of two at once the second one waits here for the first, and finds the row.
            done = await self._connection.execute(query("record_erasure"), *erasure, _REPLAYED)
            if not done.endswith(" 1"):
                return Erased(vault=False, user=False)
            return await _remove(self._connection, erasure.user_id)


async def _remove(connection: Connection, user_id: str) -> Erased:
    await _open(connection, user_id)
    vault = await connection.fetchval(query("erase_vault"), user_id)
    user = await connection.fetchval(query("erase_user"), user_id)
    return Erased(vault=vault is not None, user=user is not None)


async def _open(connection: Connection, user_id: str) -> None:
    # The owner is under forced row-level security as well: one user at a time.
    await connection.execute(
        "SELECT set_config('app.current_user_id', $1, true),"
        " set_config('statement_timeout', $2, true)",
        user_id,
        _TIMEOUT,
    )


@asynccontextmanager
async def _owners() -> AsyncIterator[None]:
    """What the database refuses, as what the owner can do about it."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise OwnerRefused(
            f"{first_line(error)}; CUSTODY_OWNER_DATABASE_URL must be the owner of the schema"
        ) from None
    except (
        asyncpg.UndefinedTableError,
        asyncpg.UndefinedColumnError,
        asyncpg.UndefinedFunctionError,
        asyncpg.InvalidSchemaNameError,
    ):
        raise OwnerRefused(
            "nothing was removed: the database of CUSTODY_OWNER_DATABASE_URL is not migrated "
            "to this release; run: custody migrate, or correct the database's name in the URL"
        ) from None
    except asyncpg.PostgresConnectionError:
        raise
    except asyncpg.PostgresError as error:
        raise OwnerError(f"nothing was removed: {first_line(error)}") from None
