"""Master keys: minted, wrapped and opened through the keyring, never with a transaction open."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from custody.db.errors import DatabaseError, reason_of
from custody.vault.errors import (
    DatabaseUnavailable,
    KekNotConfigured,
    KekUnavailable,
    UnwrapFailed,
    VaultError,
)
from custody.vault.key_check import is_master_key, key_check_value
from custody.vault.model import Caller
from kek_backends.base import MASTER_KEY_SIZE, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KekError, Tampered, UnknownKek
from kek_backends.keyring import Keyring

KEK_TIMEOUT_SECONDS = 5.0
# What a KEK that hangs leaves of the deadline, so that its failure can still be recorded.
_RECORD_SECONDS = 1.0

_FAILURES = (KekError, DatabaseError, TimeoutError)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A master key with all that its row will say about it."""

    generation: int
    key: bytes = field(repr=False)
    wrap: Wrap
    key_check: str = field(repr=False)

    @property
    def columns(self) -> tuple[str, str, int, str, str]:
        """The columns wrapped_mk, wrap_iv, format_version, kek_id, key_check."""
        wrap = self.wrap
        return (wrap.wrapped_mk, wrap.wrap_iv, wrap.format_version, wrap.kek_id, self.key_check)


class MasterKeys:
    """Mints, wraps and opens users' master keys.

    Args:
        keyring: the KEKs.
        admit: makes sure that a wrap under this kek_id may be stored, or raises.
    """

    def __init__(self, keyring: Keyring, admit: Callable[[str], Awaitable[None]]) -> None:
        self._keyring = keyring
        self._admit = admit

    async def mint(
        self, caller: Caller, generation: int, fresh: WrappedKey | None = None
    ) -> WrappedKey:
        """Make a fresh random master key and wrap it for the caller.

        Args:
            caller: for whom.
            generation: that the vault will have.
            fresh: of an attempt that lost its race, maybe to a rotate: the same key is wrapped
                again if the generation has moved on.

        Raises:
            KekUnavailable: the active KEK can't wrap now.
        """
        if fresh is not None and fresh.generation == generation:
            return fresh
        key = secrets.token_bytes(MASTER_KEY_SIZE) if fresh is None else fresh.key
        return await self.wrap(caller, generation, key)

    async def wrap(self, caller: Caller, generation: int, key: bytes) -> WrappedKey:
        """Wrap the caller's master key under the active KEK.

        Args:
            caller: for whom.
            generation: that the vault has, or will have when the wrap is stored.
            key: 32 bytes.

        Raises:
            KekUnavailable: the active KEK can't wrap now.
        """
        try:
            async with _timeout(caller):
                wrap = await self._keyring.wrap(Binding(caller.user_id, generation), key)
                # A KMS may have moved to key material that was never compared with the registry.
                await self._admit(wrap.kek_id)
        except _FAILURES as error:
            raise _ours(error, caller, self._keyring.active.uri.text) from None
        return WrappedKey(generation, key, wrap, key_check_value(caller.user_id, key))

    async def open(
        self, caller: Caller, generation: int, wrap: Wrap, key_check: str | None
    ) -> bytes:
        """Unwrap the caller's master key.

        Args:
            caller: whose key, by the verified token.
            generation: of the caller's row.
            wrap: of the caller's row.
            key_check: the row's key check value, where it has one.

        Raises:
            UnwrapFailed: the wrap does not open for this user and generation, or opens to another
                key than the one the key check value was made of. An alarm: somebody touched the
                row.
            KekUnavailable: the row's KEK can't be used now, or is not configured.
        """
        binding = Binding(caller.user_id, generation)
        try:
            holder = self._keyring.find(wrap.kek_id)
            if holder is not None and holder.in_process:
                key = await holder.unwrap(binding, wrap)
            else:
                async with _timeout(caller):
                    key = await self._keyring.unwrap(binding, wrap)
            if key_check is not None and not is_master_key(caller.user_id, key, key_check):
                raise Tampered("the wrap opens to another key than this user's")
        except _FAILURES as error:
            raise _ours(error, caller, wrap.kek_id) from None
        return key


def _timeout(caller: Caller) -> asyncio.Timeout:
    """Bound a call of a KEK."""
    return asyncio.timeout_at(
        caller.deadline.before(_RECORD_SECONDS).within(KEK_TIMEOUT_SECONDS).at
    )


def _ours(error: Exception, caller: Caller, kek: str) -> VaultError:
    """Log a failure of a KEK, and return what it is here.

    Without its traceback, whose frames hold the key.
    """
    match error:
        case Tampered():
            log.error("unwrap_failed", user_id=caller.user_id, kek=kek, reason=str(error))
            return UnwrapFailed()
        case UnknownKek():
            log.error("kek_not_configured", user_id=caller.user_id, kek=kek, reason=str(error))
            return KekNotConfigured(str(error))
        case DatabaseError():
            log.warning("database_unavailable", reason=str(error))
            return DatabaseUnavailable(reason_of(error))
        case _:
            late = f"{kek}: no answer in time"
            reason = late if isinstance(error, TimeoutError) else str(error)
            log.warning("kek_unavailable", user_id=caller.user_id, kek=kek, reason=reason)
            return KekUnavailable(reason)
