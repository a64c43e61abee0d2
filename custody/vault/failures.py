"""Audit rows of refusals and failures."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from custody.audit.events import Action
from custody.vault.errors import (
    AuditUnavailable,
    OutcomeUnknown,
    Overloaded,
    RowTampered,
    UnwrapLimitReached,
    UserUnknown,
    VaultError,
)
from custody.vault.model import Caller
from custody.vault.rows import VaultRows, event

# What a use case leaves of the deadline so that its failure can still be recorded.
AUDIT_RESERVE_SECONDS = 3.0
_INTERNAL_STATUS = 500

log = structlog.get_logger()


class Failures:
    """Records why a use case was refused, or failed.

    Args:
        rows: the database side.
    """

    def __init__(self, rows: VaultRows) -> None:
        self._rows = rows

    @asynccontextmanager
    async def audited(self, caller: Caller, failure: Action) -> AsyncIterator[None]:
        """Record what goes wrong in the block; see :meth:`record`."""
        try:
            yield
        except Exception as error:
            await self.record(caller, failure, error)
            raise

    async def record(self, caller: Caller, failure: Action, error: Exception) -> None:
        """Record a refusal or failure, committed by itself.

        Raises:
            AuditUnavailable: instead of a refusal that can't be recorded. A failure stays what it
                is: nothing was done, and its cause says more.
        """
        if isinstance(error, UserUnknown | AuditUnavailable):
            # No action of a known user; or there is nowhere to record anything.
            return
        context, status = "internal", _INTERNAL_STATUS
        if isinstance(error, MemoryError):
            error = Overloaded()  # as which it is answered
        if isinstance(error, VaultError):
            context, status = error.context, error.status
        row = event(caller, failure, context, status)
        try:
            if isinstance(error, UnwrapLimitReached | RowTampered):
                # A thief sends any number of these, and so do all users while their rows wait to be
                # sealed. Together with the rows of those who are served they cost what those cost;
                # one by one they would fill the connections that are kept for others' failures.
                await self._rows.record(caller, row)
            else:
                await self._rows.record_failure(caller, row)
        except AuditUnavailable:
            if isinstance(error, OutcomeUnknown):
                # The row of the change itself may be there: both have one id, so only one can be.
                return
            log.warning("failure_not_audited", action=failure, context=context)
            if status < _INTERNAL_STATUS:
                raise
