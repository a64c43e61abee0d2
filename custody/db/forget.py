"""Removes the record of a KEK or of a data key that nothing carries, by the owner of the schema."""

from enum import StrEnum

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

_TIMEOUT = "60s"


class Forgotten(StrEnum):
    """What became of the wish to remove a record."""

    FORGOTTEN = "forgotten"
    UNKNOWN = "unknown"
    IN_USE = "in-use"
    DATA_KEYS = "data-keys"
    WRITTEN = "written"
    RETIRED = "retired"


async def forget_kek(owner: Dsn, record_id: str) -> Forgotten:
    """Remove a record from the registry, unless something carries it.

    Args:
        owner: URL of the role that owns the schema.
        record_id: a kek_id, or the id of a data key.

    Raises:
        OwnerError: nothing was removed.
    """
    async with owner_connection(owner) as connection:
        try:
            async with owner_transaction(connection):
                await connection.execute(
                    "SELECT set_config('statement_timeout', $1, true)", _TIMEOUT
                )
                outcome = await connection.fetchval(query("forget_kek"), record_id)
        except asyncpg.InsufficientPrivilegeError as error:
            raise OwnerRefused(
                f"{first_line(error)}; CUSTODY_OWNER_DATABASE_URL must be the owner of the schema"
            ) from None
        except (
            asyncpg.UndefinedTableError,
            asyncpg.UndefinedFunctionError,
            asyncpg.InvalidSchemaNameError,
        ):
            raise OwnerRefused(
                "nothing was removed: the database of CUSTODY_OWNER_DATABASE_URL is not migrated "
                "to this release; run: custody migrate, or correct the database's name in the URL"
            ) from None
        except asyncpg.LockNotAvailableError:
            raise OwnerError(
                f"nothing was removed: something is just being written under {record_id}; try again"
            ) from None
        except asyncpg.PostgresError as error:
            raise OwnerError(f"nothing was removed: {first_line(error)}") from None
    return Forgotten(outcome)
