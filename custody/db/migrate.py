"""Migrations: ``sql/migrations/NNNN_verb_object.sql``, in order, once, one at a time.

The advisory lock is a transaction's: behind a pooler that hands sessions on, a session's own would
outlive the migration. So each file takes it anew, and looks whether somebody was faster.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from custody.db.advice import Advice, advise_over
from custody.db.engine import Connection, Dsn
from custody.db.owner import (
    OwnerError,
    OwnerRefused,
    first_line,
    owner_connection,
    owner_transaction,
)
from custody.db.posture import PostureProblem, look_as_owner
from custody.db.queries import folder, query

# Any fixed number that no one else locks: the first eight bytes of SHA-256("custody migrate").
_LOCK = int.from_bytes(hashlib.sha256(b"custody migrate").digest()[:8], "big", signed=True)
_LOCK_TIMEOUT_SECONDS = 60
_FILE_TIMEOUT_SECONDS = 3600.0
_LOOK_TIMEOUT_SECONDS = 30

_CREATE_HISTORY = """
DO $$ BEGIN
    IF to_regnamespace('auth') IS NULL THEN CREATE SCHEMA auth; END IF;
END $$;
CREATE TABLE IF NOT EXISTS auth.custody_migrations (
    name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
"""


class MigrationError(OwnerError):
    """The database was left as the last whole migration left it. The message names the cure."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of ``sql/migrations``."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """The checksum that the database keeps of it."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations(source: Path | None = None) -> tuple[Migration, ...]:
    """Return all migrations in order.

    Args:
        source: a folder with them, or None for the project's own.
    """
    files = sorted((source or folder() / "migrations").glob("[0-9]*.sql"))
    return tuple(Migration(file.stem, file.read_text("utf-8")) for file in files)


async def migrate(
    owner: Dsn, source: Path | None = None, begin: Callable[[str, int, int], None] | None = None
) -> tuple[str, ...]:
    """Bring the database up to date; each file in a transaction of its own.

    Args:
        owner: URL of the role that owns the schema.
        source: a folder with migrations, or None for the project's own.
        begin: is told of each that is begun: its name, the how manieth of how many.

    Returns:
        The names of the migrations that were applied now.

    Raises:
        OwnerError: a file failed, was changed after it had been applied, or another migration
            has been running for a minute.
    """
    async with owner_connection(owner) as connection:
        return await _apply_missing(connection, migrations(source), begin)


async def look_at(owner: Dsn) -> tuple[tuple[PostureProblem, ...], tuple[Advice, ...]]:
    """Return for what the daemon would refuse this database, and what would be wiser in it.

    Both as far as its owner can see it.

    Args:
        owner: URL of the role that owns the schema.

    Raises:
        OwnerError: the database can't be asked now.
    """
    async with owner_connection(owner) as connection, connection.transaction():
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT_SECONDS):
                return await look_as_owner(connection), await advise_over(connection)
        except asyncpg.PostgresError as error:
            raise _failure("the look at the schema", error) from None
        except TimeoutError:
            raise MigrationError(
                f"the look at the schema took more than {_LOOK_TIMEOUT_SECONDS} s; run it again"
            ) from None


async def _apply_missing(
    connection: Connection,
    wanted: tuple[Migration, ...],
    begin: Callable[[str, int, int], None] | None,
) -> tuple[str, ...]:
    async with _transaction(connection, "the migration history"):
        if problems := await connection.fetch(query("list_owner_problems")):
            raise OwnerRefused("; ".join(row["problem"] for row in problems))
        await connection.execute(_CREATE_HISTORY)
        known = await _history(connection)
    for migration in wanted:
        _refuse_changed(migration, known)
    missing = [migration for migration in wanted if migration.name not in known]
    applied = []
    for number, one in enumerate(missing, 1):
        if begin is not None:
            begin(one.name, number, len(missing))
        if await _apply(connection, one):
            applied.append(one.name)
    return tuple(applied)


async def _apply(connection: Connection, migration: Migration) -> bool:
    """Apply a file, unless another migration has done it meanwhile."""
    async with _transaction(connection, migration.name):
        known = await _history(connection)
        _refuse_changed(migration, known)
        if migration.name in known:
            return False
        await connection.execute(migration.sql, timeout=_FILE_TIMEOUT_SECONDS)
        await connection.execute(
            "INSERT INTO auth.custody_migrations (name, sha256) VALUES ($1, $2)",
            migration.name,
            migration.sha256,
        )
    return True


async def _history(connection: Connection) -> Mapping[str, str]:
    rows = await connection.fetch("SELECT name, sha256 FROM auth.custody_migrations")
    return {row["name"]: row["sha256"] for row in rows}


def _refuse_changed(migration: Migration, known: Mapping[str, str]) -> None:
    if known.get(migration.name, migration.sha256) != migration.sha256:
        raise MigrationError(
            f"{migration.name} was changed after it had been applied: restore the file, and "
            "put the change into a new migration"
        )


@asynccontextmanager
async def _transaction(connection: Connection, name: str) -> AsyncIterator[None]:
    """Open a transaction that holds the lock, and commit it at the end of the block.

    Args:
        connection: of the owner.
        name: what is done in it, for messages.
    """
    try:
        async with owner_transaction(connection):
            await connection.execute(query("open_migration"), str(_LOCK_TIMEOUT_SECONDS * 1000))
            await _lock(connection)
            yield
    except asyncpg.PostgresError as error:
        raise _failure(name, error) from None
    except TimeoutError:
        raise MigrationError(f"{name} ran for more than an hour") from None


async def _lock(connection: Connection) -> None:
    try:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    except asyncpg.LockNotAvailableError:
        raise MigrationError(
            f"another migration has been running for {_LOCK_TIMEOUT_SECONDS} s; wait for it to end"
        ) from None


def _failure(name: str, error: asyncpg.PostgresError) -> OwnerError:
    # Not the error's detail: for a broken CHECK it is the whole row.
    hint = getattr(error, "hint", None)
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        hint = hint or "run it as the owner of the schema auth and its tables"
        return OwnerRefused(f"{name}: {first_line(error)}. {hint}")
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        # Not overridden: whoever failed this server over may have set it.
        hint = (
            "connect to the primary; where it is the role or the database that is read-only, as an "
            "administrator run: ALTER ROLE … RESET default_transaction_read_only"
        )
        return OwnerRefused(f"{name}: {first_line(error)}. {hint}")
    if isinstance(error, asyncpg.LockNotAvailableError):
        hint = "stop what uses the tables (the service that custody replaces, too), then try again"
    return MigrationError(f"{name}: {first_line(error)}" + (f". {hint}" if hint else ""))
