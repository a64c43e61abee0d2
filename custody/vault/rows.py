"""Rows of the vault: read in the user's scope, changed together with their audit row."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody import tracing
from custody.audit.events import Action, Event
from custody.audit.row_seal import RowSeals
from custody.audit.writer import NotRecorded, write
from custody.db import errors as database
from custody.db.engine import Connection, timelines_of
from custody.db.erasures import Erasures
from custody.db.errors import (
    Busy,
    DatabaseError,
    DataKeyEnded,
    DataKeyGone,
    Demoted,
    Refused,
    RetiredKek,
    reason_of,
)
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
from custody.vault.grouped import GroupedRows, Served
from custody.vault.model import Caller, Found, Page, Vault, moment
from custody.vault.seals import recovery_format
from kek_backends.base import Wrap

OK = 200

_REFUSED_ROW = "an audit row was refused; run: custody doctor"

log = structlog.get_logger()


class VaultRows:
    """The rows of ``auth.encryption_vaults``, one user at a time.

    Args:
        engine: connections of the role custody_app.
        reserve: a few more, kept for the audit rows of refusals and failures: one that came of a
            full pool must not get lost in it.
        seals: make the seals of audit rows.
        erasures: who was erased, and is held against each database that is asked.
        served: as for :class:`GroupedRows`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        reserve: AsyncEngine,
        seals: RowSeals,
        erasures: Erasures,
        served: Callable[[str], Served],
    ) -> None:
        self._engine = engine
        self._reserve = reserve
        self._seals = seals
        self._erasures = erasures
        self._grouped = GroupedRows(engine, seals, served)

    async def close(self) -> None:
        """Give connections back; called when no request is under way."""
        await self._grouped.close()

    async def read(self, caller: Caller) -> Found:
        """Read the caller's row.

        Raises:
            UserUnknown: there is no vault, and someone else's auth.users does not know the user.
            DatabaseUnavailable, Overloaded: try again later.
        """
        try:
            try:
                if self._erasures.names(caller.user_id):
                    raise NotBatched
                with tracing.span("database read"):
                    found = await self._grouped.read(caller.user_id, caller.deadline)
            except NotBatched:
                found = await self._read_alone(caller)
        except DatabaseError as error:
            raise _unavailable(error) from error
        if found.row is None and not found.known:
            raise UserUnknown
        return found

    async def _read_alone(self, caller: Caller) -> Found:
        async with self._transaction(caller) as connection:
            row = await connection.fetchrow(query("read_vault"), caller.user_id)
            if row is not None:
                return Found(row, known=True, clock=row["clock"])
            (user,) = await connection.fetch(query("find_user"), caller.user_id)
            return Found(None, user["known"], user["clock"])

    async def list_events(self, caller: Caller, page: Page) -> Sequence[Mapping[str, Any]]:
        """Return the caller's audit rows of a page, and one more where there is a next page.

        Raises:
            UserUnknown: someone else's auth.users does not know the user.
            DatabaseUnavailable, Overloaded: try again later.
        """
        try:
            async with self._transaction(caller) as connection:
                (user,) = await connection.fetch(query("find_user"), caller.user_id)
                rows = await connection.fetch(
                    query("list_own_events"), caller.user_id, page.before, page.limit + 1
                )
        except Refused as error:
            # A right is missing: the posture says so. Without a reason, for other routes are well.
            log.warning("database_unavailable", reason=str(error))
            raise DatabaseUnavailable from error
        except DatabaseError as error:
            raise _unavailable(error) from error
        if not user["known"]:
            raise UserUnknown
        return rows

    async def create(self, caller: Caller, event: Event, vault: Vault, seal: str) -> bool:
        """Insert the user's first vault and its audit row.

        Args:
            caller: whose vault.
            event: what to record with it.
            vault: with a wrap, and nothing else that a new row does not have.
            seal: of the vault.

        Returns:
            Whether it was; when a vault came into being meanwhile, nothing was written.
        """
        columns = vault.generation, *_wrap_columns(vault.wrap), vault.key_check, seal
        async with self._change(caller) as connection:
            await connection.execute(query("add_user"), caller.user_id)
            try:
                return await self._change_row(
                    connection, event, "add_vault", caller.user_id, *columns
                )
            except asyncpg.ForeignKeyViolationError:
                # The account was deleted after we had seen it.
                raise UserUnknown from None

    async def store(self, caller: Caller, event: Event, vault: Vault, seal: str) -> bool:
        """Change the caller's row and write its audit row, in one transaction.

        Args:
            caller: whose vault.
            event: what to record with it.
            vault: all of it as it is to be, but for the row version, which is that of the row as it
                was read: it is the guard.
            seal: of the vault.

        Returns:
            Whether it was; when someone else changed the row meanwhile, nothing was written, and
            the caller reads the row again.
        """
        blob, set_at, previous = vault.recovery, vault.recovery_set_at, vault.previous
        async with self._change(caller) as connection:
            return await self._change_row(
                connection,
                event,
                "change_vault",
                caller.user_id,
                vault.row_version,
                vault.generation,
                vault.zero_knowledge,
                *_wrap_columns(vault.wrap),
                vault.key_check,
                *((None, None) if blob is None else (blob.wrapped_mk, blob.iv)),
                recovery_format(vault),
                None if set_at is None else moment(set_at),
                *(previous or (None, None, None)),
                seal,
            )

    async def record(self, caller: Caller, event: Event) -> None:
        """Write an audit row.

        Args:
            caller: whose action.
            event: what to record.

        Raises:
            AuditUnavailable: it could not be committed, so no key may leave.
        """
        try:
            with tracing.span("audit commit"):
                await self._grouped.record(event, caller.deadline)
        except NotBatched:
            async with _audit_transaction(self._engine, caller) as connection:
                await write(connection, event, self._seals)
        except DatabaseError as error:
            raise _not_audited(error) from error
        # What it was decided on was read over another connection, maybe from an old primary, which
        # nobody had known for one then.
        if timelines_of(self._engine).has_moved_since(caller.deadline.begun):
            raise _not_audited(Demoted("the server that was read from was the primary no more"))

    async def record_failure(self, caller: Caller, event: Event) -> None:
        """Write the audit row of a refusal or failure, over a connection kept for that.

        Raises:
            AuditUnavailable: it could not be committed.
        """
        async with _audit_transaction(self._reserve, caller) as connection:
            await write(connection, event, self._seals)

    @asynccontextmanager
    async def _transaction(self, caller: Caller) -> AsyncIterator[Connection]:
        """Open a transaction of the caller's, in a database that has erased who was erased."""
        async with user_transaction(self._engine, caller.user_id, caller.deadline) as connection:
            await self._erasures.refuse_due(connection, caller.user_id)
            yield connection

    @asynccontextmanager
    async def _change(self, caller: Caller) -> AsyncIterator[Connection]:
        try:
            async with self._transaction(caller) as connection:
                yield connection
        except database.OutcomeUnknown as error:
            log.warning("outcome_unknown", reason=str(error))
            raise OutcomeUnknown(str(error)) from error
        except DatabaseError as error:
            raise _unavailable(error) from error

    async def _change_row(
        self, connection: Connection, event: Event, statement: str, *parameters: object
    ) -> bool:
        if await connection.fetchval(query(statement), *parameters) is None:
            return False
        try:
            await write(connection, event, self._seals)
        except (asyncpg.InsufficientPrivilegeError, NotRecorded) as error:
            log.warning("audit_unavailable", reason=type(error).__name__)
            raise AuditUnavailable(_REFUSED_ROW) from error
        return True


def event(caller: Caller, action: Action, context: str | None, status: int = OK) -> Event:
    """Return the audit row of the caller's action."""
    user, event_id, address, agent, *_ = caller
    return Event(event_id, user, address, agent, action, context, status)


def _unavailable(error: DatabaseError) -> VaultError:
    """Log what the database did, and return what it is here."""
    match error:
        case Busy():
            return Overloaded()
        case RetiredKek():
            # Retired while this process still wraps with it: nothing was stored.
            log.error("kek_retired", reason=str(error))
            return KekUnavailable(str(error))
        case DataKeyGone() | DataKeyEnded():
            # Its part of the readiness says so already.
            log.error("data_key_gone", reason=str(error))
            return KekUnavailable()
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


def _wrap_columns(wrap: Wrap | None) -> tuple[str | int | None, ...]:
    """Return the columns wrapped_mk, wrap_iv, format_version, kek_id."""
    if wrap is None:
        return None, None, None, None
    return wrap.wrapped_mk, wrap.wrap_iv, wrap.format_version, wrap.kek_id
