"""Master keys: minted, wrapped and opened through the keyring, never with a transaction open."""

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
from custody.vault.kek_timeout import kek_timeout
from custody.vault.key_check import is_master_key, key_check_value
from custody.vault.model import Caller, MasterKey, PreviousKey, Trust, Vault
from custody.vault.previous import open_previous
from custody.vault.seals import Seals
from kek_backends.base import MASTER_KEY_SIZE, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KekError, Tampered, UnknownKek
from kek_backends.keyring import Keyring

_ANOTHER_KEY = "the wrap opens to another key than this user's"

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
    def answer(self) -> MasterKey:
        """What its user gets once it is stored."""
        return MasterKey(self.key, self.generation, self.wrap.format_version, self.wrap.kek_id)

    @property
    def vault(self) -> Vault:
        """The vault that has this for its first key."""
        return Vault(
            Trust.SEALED,
            self.wrap,
            recovery=None,
            recovery_set_at=None,
            zero_knowledge=False,
            generation=self.generation,
            key_check=self.key_check,
            previous=None,
            seal_serial=0,
            row_version=0,
        )


class MasterKeys:
    """Mints, wraps and opens users' master keys.

    Args:
        keyring: the KEKs.
        admit: makes sure that a wrap under this kek_id may be stored, or raises.
        seals: rings where the wrap of a sealed row is not what was stored.
    """

    def __init__(
        self, keyring: Keyring, admit: Callable[[str], Awaitable[None]], seals: Seals
    ) -> None:
        self._keyring = keyring
        self._admit = admit
        self._seals = seals

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
            async with kek_timeout(caller.deadline):
                wrap = await self._keyring.wrap(Binding(caller.user_id, generation), key)
                # A KMS may have moved to key material that was never compared with the registry.
                await self._admit(wrap.kek_id)
        except _FAILURES as error:
            raise _ours(error, caller, self._keyring.active.uri.text) from None
        return WrappedKey(generation, key, wrap, key_check_value(caller.user_id, key))

    async def open(self, caller: Caller, vault: Vault) -> MasterKey:
        """Unwrap the caller's master key; while a rotation is pending, the one before, too.

        Args:
            caller: whose key, by the verified token.
            vault: the caller's, with a wrap.

        Raises:
            UnwrapFailed, RowTampered: the wrap does not open for this user and generation, or opens
                to another key than the one the key check value was made of. An alarm: somebody
                touched the row, whether it was sealed (RowTampered) or is one of before.
            KekUnavailable: the row's KEK can't be used now, or is not configured.
        """
        wrap = vault.wrap
        if wrap is None:
            raise UnwrapFailed
        binding = Binding(caller.user_id, vault.generation)
        try:
            holder = self._keyring.find(wrap.kek_id)
            if holder is not None and holder.in_process and not holder.refusal(wrap.kek_id):
                key = await holder.unwrap(binding, wrap)
            else:
                async with kek_timeout(caller.deadline):
                    key = await self._keyring.unwrap(binding, wrap)
        except Tampered as error:
            if vault.trust is Trust.SEALED:
                self._seals.refuse(caller.user_id, "wrap")
            raise _ours(error, caller, wrap.kek_id) from None
        except _FAILURES as error:
            raise _ours(error, caller, wrap.kek_id) from None
        if vault.key_check is not None and not is_master_key(caller.user_id, key, vault.key_check):
            if vault.trust is Trust.SEALED:
                self._seals.refuse(caller.user_id, "key-check")
            raise _ours(Tampered(_ANOTHER_KEY), caller, wrap.kek_id)
        previous = None if vault.previous is None else self._previous(caller, vault.previous, key)
        return MasterKey(key, vault.generation, wrap.format_version, wrap.kek_id, previous)

    def _previous(self, caller: Caller, previous: PreviousKey, live: bytes) -> bytes:
        # All or nothing: a client that got the live key alone would take the rotation for done,
        # and lose what is still encrypted under the one before.
        try:
            return open_previous(caller.user_id, live, previous)
        except Tampered:
            self._seals.refuse(caller.user_id, "previous")

    async def bring_over(self, caller: Caller, vault: Vault) -> Vault:
        """Return a vault that was never sealed with its master key as it is wrapped today.

        Args:
            caller: whose vault.
            vault: with a wrap of any format.

        Raises:
            UnwrapFailed, KekUnavailable: as for :meth:`open` and :meth:`wrap`.
        """
        opened = await self.open(caller, vault)
        wrapped = await self.wrap(caller, vault.generation, opened.key)
        return vault._replace(wrap=wrapped.wrap, key_check=wrapped.key_check)


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
