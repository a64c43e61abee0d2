"""Rows of the vault: read in the user's scope, changed together with their audit row."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.events import Action, Event
from custody.audit.writer import NotRecorded, write
from custody.db import errors as database
from custody.db.engine import Connection
from custody.db.errors import Busy, DatabaseError, RetiredKek, reason_of
from custody.db.group_commit import NotBatched
from custody.db.queries import query
from custody.db.scope import user_transaction
from custody.vault.errors import (
    AuditUnavailable,
    DatabaseUnavailable,
    KekUnavailable,
    OutcomeUnknown,
    Overloaded,
    UserUnknown,
    VaultError,
)
from custody.vault.grouped import GroupedRows
from custody.vault.model import Caller, Vault

OK = 200

_REFUSED_ROW = "an audit row was refused; run: custody doctor"

log = structlog.get_logger()


class VaultRows:
    """The rows of ``auth.encryption_vaults``, one user at a time.

    Args:
        engine: connections of the role custody_app.
        reserve: a few more, kept for the audit rows of refusals and failures: one that came of a
            full pool must not get lost in it.
    """

    def __init__(self, engine: AsyncEngine, reserve: AsyncEngine) -> None:
        self._engine = engine
        self._reserve = reserve
        self._grouped = GroupedRows(engine)

    async def close(self) -> None:
        """Give connections back; called when no request is under way."""
        await self._grouped.close()

    async def read(self, caller: Caller) -> Vault | None:
        """Read the caller's row.

        Returns:
            The vault, or None when the user has none.

        Raises:
            UserUnknown: there is no vault, and someone else's auth.users does not know the user.
            DatabaseUnavailable, Overloaded: try again later.
        """
        try:
            vault, known = await self._read(caller)
        except DatabaseError as error:
            raise _unavailable(error) from error
        if vault is None and not known:
            raise UserUnknown
        return vault

    async def _read(self, caller: Caller) -> tuple[Vault | None, bool]:
        try:
            return await self._grouped.read(caller.user_id, caller.deadline)
        except NotBatched:
            pass
        async with user_transaction(self._engine, caller.user_id, caller.deadline) as connection:
            row = await connection.fetchrow(query("read_vault"), caller.user_id)
            if row is not None:
                return Vault.from_row(row), True
            return None, bool(await connection.fetchval(query("find_user"), caller.user_id))

    async def first_generation(self, caller: Caller) -> int:
        """Return the generation of a vault that is made now; see its query.

        Raises:
            DatabaseUnavailable, Overloaded: try again later.
        """
        try:
            async with user_transaction(
                self._engine, caller.user_id, caller.deadline
            ) as connection:
                return int(await connection.fetchval(query("first_generation")))
        except DatabaseError as error:
            raise _unavailable(error) from error

    async def create(self, caller: Caller, event: Event, *columns: str | int | None) -> int | None:
        """Insert the user's first vault and its audit row.

        Args:
            caller: whose vault.
            event: what to record with it.
            columns: generation and the parameters of ``insert_vault.sql`` after the user id.

        Returns:
            The generation, or None when a vault came into being meanwhile: nothing was written.
        """
        async with self._change(caller) as connection:
            await connection.execute(query("add_user"), caller.user_id)
            try:
                return await _change_row(
                    connection, event, "insert_vault", caller.user_id, *columns
                )
            except asyncpg.ForeignKeyViolationError:
                # The account was deleted after we had seen it.
                raise UserUnknown from None

    async def store(
        self, caller: Caller, event: Event, statement: str, vault: Vault, *columns: str | int | None
    ) -> int | None:
        """Change the caller's row and write its audit row, in one transaction.

        Args:
            caller: whose vault.
            event: what to record with it.
            statement: name of a guarded UPDATE in ``sql/queries``.
            vault: the row as it was read: its row version is the guard.
            columns: the statement's parameters after user id and row version.

        Returns:
            The generation, or None when someone else changed the row meanwhile: nothing was
            written, the caller reads the row again.
        """
        async with self._change(caller) as connection:
            return await _change_row(
                connection, event, statement, caller.user_id, vault.row_version, *columns
            )

    async def record(
        self,
        caller: Caller,
        event: Event,
        vault: Vault | None = None,
        key_check: str | None = None,
    ) -> None:
        """Write an audit row, and with it the key check value of a row that has none yet.

        Args:
            caller: whose action.
            event: what to record.
            vault: the row as it was read, where it needs a key check value.
            key_check: that value.

        Raises:
            AuditUnavailable: it could not be committed, so no key may leave.
        """
        if vault is None:
            try:
                await self._grouped.record(event, caller.deadline)
            except NotBatched:
                pass
            except DatabaseError as error:
                raise _not_audited(error) from error
            else:
                return
        async with _audit_transaction(self._engine, caller) as connection:
            await write(connection, event)
            if vault is not None:
                # No row count to check: where the row was changed or is locked meanwhile, the
                # next fetch records the value.
                parameters = caller.user_id, vault.row_version, key_check
                await connection.execute(query("record_key_check"), *parameters)

    async def record_failure(self, caller: Caller, event: Event) -> None:
        """Write the audit row of a refusal or failure, over a connection kept for that.

        Raises:
            AuditUnavailable: it could not be committed.
        """
        async with _audit_transaction(self._reserve, caller) as connection:
            await write(connection, event)

    @asynccontextmanager
    async def _change(self, caller: Caller) -> AsyncIterator[Connection]:
        try:
            async with user_transaction(
                self._engine, caller.user_id, caller.deadline
            ) as connection:
                yield connection
        except database.OutcomeUnknown as error:
            log.warning("outcome_unknown", reason=str(error))
            raise OutcomeUnknown(str(error)) from error
        except DatabaseError as error:
            raise _unavailable(error) from error


def event(caller: Caller, action: Action, context: str | None, status: int = OK) -> Event:
    """Return the audit row of the caller's action."""
    return Event(
        id=caller.event_id,
        user_id=caller.user_id,
        ip_address=caller.ip_address,
        user_agent=caller.user_agent,
        action=action,
        context=context,
        status=status,
    )


def _unavailable(error: DatabaseError) -> VaultError:
    """Log what the database did, and return what it is here."""
    match error:
        case Busy():
            return Overloaded()
        case RetiredKek():
            # Retired while this process still wraps with it: nothing was stored.
            log.error("kek_retired", reason=str(error))
            return KekUnavailable(str(error))
        case _:
            log.warning("database_unavailable", reason=str(error) or error.__doc__)
            return DatabaseUnavailable(reason_of(error))


def _not_audited(error: DatabaseError) -> AuditUnavailable:
    log.warning("audit_unavailable", reason=str(error) or error.__doc__)
    return AuditUnavailable(reason_of(error))


@asynccontextmanager
async def _audit_transaction(engine: AsyncEngine, caller: Caller) -> AsyncIterator[Connection]:
    try:
        async with user_transaction(engine, caller.user_id, caller.deadline) as connection:
            yield connection
    except DatabaseError as error:
        raise _not_audited(error) from error


async def _change_row(
    connection: Connection, event: Event, statement: str, *parameters: str | int | None
) -> int | None:
    generation = await connection.fetchval(query(statement), *parameters)
    if generation is None:
        return None
    try:
        await write(connection, event)
    except (asyncpg.InsufficientPrivilegeError, NotRecorded) as error:
        log.warning("audit_unavailable", reason=type(error).__name__)
        raise AuditUnavailable(_REFUSED_ROW) from error
    return cast("int", generation)
