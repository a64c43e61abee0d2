"""Erases a user's vault, by the owner of the schema."""

from dataclasses import dataclass

import asyncpg

from custody.db.engine import Dsn
from custody.db.owner import (
    OwnerError,
    OwnerRefused,
    first_line,
    owner_connection,
    owner_transaction,
)
from custody.db.queries import query

_TIMEOUT = "30s"


@dataclass(frozen=True, slots=True)
class Erased:
    """What was removed."""

    vault: bool
    user: bool


async def erase_user(owner: Dsn, user_id: str, event_id: str) -> Erased:
    """Remove a user's vault, and the user where auth.users is our own. The audit rows stay.

    Args:
        owner: URL of the role that owns the schema.
        user_id: whom.
        event_id: of the audit row that says so; where nothing was there to remove, there is none.

    Raises:
        OwnerError: nothing was removed.
    """
    async with owner_connection(owner) as connection:
        try:
            async with owner_transaction(connection):
                # The owner is under forced row-level security as well: one user at a time.
                await connection.execute(
                    "SELECT set_config('app.current_user_id', $1, true),"
                    " set_config('statement_timeout', $2, true)",
                    user_id,
                    _TIMEOUT,
                )
                vault = await connection.fetchval(query("erase_vault"), user_id)
                user = await connection.fetchval(query("erase_user"), user_id)
                if vault is not None or user is not None:
                    await connection.execute(query("record_erasure"), event_id, user_id)
        except asyncpg.InsufficientPrivilegeError as error:
            raise OwnerRefused(
                f"{first_line(error)}; CUSTODY_OWNER_DATABASE_URL must be the owner of the schema"
            ) from None
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
            raise OwnerRefused(
                "nothing was removed: the database of CUSTODY_OWNER_DATABASE_URL is not migrated "
                "to this release; run: custody migrate, or correct the database's name in the URL"
            ) from None
        except asyncpg.PostgresError as error:
            raise OwnerError(f"nothing was removed: {first_line(error)}") from None
    return Erased(vault=vault is not None, user=user is not None)
