"""Seals of rows: judged before anything of a row is used, made with every change.

Who can write the database has no data key, so what he writes is not believed (docs/adr, 17).
"""

from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from custody.datakeys.data_key import PREFIX_SIZE, DataKey
from custody.datakeys.errors import DataKeyLost, DataKeyUnavailable, NoSuchDataKey
from custody.datakeys.ring import Ring
from custody.vault.errors import KekUnavailable, LegacyRow, RowTampered
from custody.vault.kek_timeout import kek_timeout
from custody.vault.model import Caller, PreviousKey, RecoveryWrap, Trust, Vault, moment
from custody.vault.sealed_state import SealedState, digest_of
from kek_backends.base import Wrap
from kek_backends.wrap import FORMAT_CURRENT

# Looked up once: as a member of its class it takes as long as a call.
_SEALED = Trust.SEALED


class Alarms(Protocol):
    """What rings when a row is not believed."""

    def row_tampered(self, user_id: str, reason: str) -> None:
        """Ring since a row is not what was sealed; the reason says what of it."""

    def legacy_row_refused(self) -> None:
        """Ring since a row was never sealed, and such rows are refused."""


class Seals:
    """Judges rows as they were read, and seals them as they are to be stored.

    Args:
        ring: the data keys.
        legacy: whether rows that were never sealed are accepted.
        alarms: what rings.
    """

    def __init__(self, ring: Ring, *, legacy: bool, alarms: Alarms) -> None:
        self._ring = ring
        self._legacy = legacy
        self._alarms = alarms

    async def judge(self, caller: Caller, row: Mapping[str, Any]) -> Vault:
        """Return the vault that a row stands for, if the row is to be believed.

        Args:
            caller: whose vault was asked for, by the verified token.
            row: the columns of ``sql/queries/read_vault.sql``, as the database has them.

        Raises:
            LegacyRow: it was never sealed, and such rows are refused.
            RowTampered: it is not what was sealed.
            KekUnavailable: no data key can judge it now, and the server is to unwrap it.
        """
        user_id, seal = caller.user_id, row["seal"]
        if seal is None:
            return self._take_unsealed(user_id, row)
        key = self._ring.find(seal[:PREFIX_SIZE])
        if key is None and (key := await self._get(caller, seal)) is None:
            return self._take_unverified(user_id, row)
        vault = self._vault(user_id, row, _SEALED)
        state = _state(vault, row["recovery_format_version"])
        if not key.row_seal.is_mac(seal[PREFIX_SIZE:], state.message(user_id)):
            self.refuse(user_id, "seal")
        if vault.wrap is not None:
            # The wrap is not sealed. A format of before is bound to less, and is never stored in a
            # sealed row; without a key check value any key that comes out would do.
            if vault.wrap.format_version < FORMAT_CURRENT:
                self.refuse(user_id, "format")
            if vault.key_check is None:
                self.refuse(user_id, "key-check")
        return vault

    def seal(self, user_id: str, vault: Vault) -> str:
        """Return the seal of a vault that is to be stored.

        Args:
            user_id: whose it is.
            vault: all of it, with the serial that the database will count.

        Raises:
            KekUnavailable: no data key is open.
        """
        key = self._ring.current
        if key is None:
            # Not this vault's own trouble: the data key has its own part in the readiness.
            raise KekUnavailable
        return state_of(vault).seal(key, user_id)

    def refuse(self, user_id: str, reason: str) -> NoReturn:
        """Ring, and refuse a row.

        Args:
            user_id: whose.
            reason: what of it does not hold: ``seal``, ``data-key``, ``wrap``, ``format``,
                ``key-check``, ``previous`` or ``columns``.

        Raises:
            RowTampered: always.
        """
        self._alarms.row_tampered(user_id, reason)
        raise RowTampered

    async def _get(self, caller: Caller, seal: str) -> DataKey | None:
        """Return the data key that a seal names; None where no data key at all can judge it."""
        try:
            async with kek_timeout(caller.deadline):
                return await self._ring.get(seal[:PREFIX_SIZE])
        except NoSuchDataKey:
            self.refuse(caller.user_id, "data-key")
        except TimeoutError:
            # It is being opened; whoever waits does not stop that.
            raise KekUnavailable from None
        except DataKeyLost:
            return None
        except DataKeyUnavailable:
            if self._ring.current is not None:
                # Whoever could have one data key called unavailable, while another one is open,
                # would turn off the judgement of rows one by one.
                raise KekUnavailable from None
            return None

    def _take_unsealed(self, user_id: str, row: Mapping[str, Any]) -> Vault:
        if not self._legacy:
            self._alarms.legacy_row_refused()
            raise LegacyRow
        return self._sound(user_id, self._vault(user_id, row, Trust.LEGACY))

    def _take_unverified(self, user_id: str, row: Mapping[str, Any]) -> Vault:
        vault = self._sound(user_id, self._vault(user_id, row, Trust.UNVERIFIED))
        # What the recovery code opens shows by itself whether it is the user's; nothing else does.
        blob = vault.recovery
        if not vault.zero_knowledge or blob is None or not blob.is_well_formed:
            raise KekUnavailable
        return vault

    def _sound(self, user_id: str, vault: Vault) -> Vault:
        """Return a vault that no seal vouches for, if it can be shown at all."""
        try:
            if vault.recovery_set_at is not None:
                moment(vault.recovery_set_at)
        except ValueError:
            self.refuse(user_id, "columns")
        if vault.previous is not None:
            # Whoever begins a rotation seals the row.
            self.refuse(user_id, "columns")
        return vault

    def _vault(self, user_id: str, row: Mapping[str, Any], trust: Trust) -> Vault:
        wrap = recovery = None
        if row["wrapped_mk"] is not None:
            parts = row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"]
            if None in parts:
                self.refuse(user_id, "columns")
            wrap = Wrap(*parts)
        if row["recovery_wrapped_mk"] is not None:
            text, iv = row["recovery_wrapped_mk"], row["recovery_iv"]
            if iv is None:
                self.refuse(user_id, "columns")
            recovery = RecoveryWrap(text, iv, row["recovery_format_version"])
        previous = None
        if row["previous_generation"] is not None or row["previous_wrapped_mk"] is not None:
            kept = row["previous_generation"], row["previous_wrapped_mk"], row["previous_wrap_iv"]
            if None in kept:
                self.refuse(user_id, "columns")
            previous = PreviousKey(*kept)
        return Vault(
            trust,
            wrap,
            recovery,
            row["recovery_set_at"],
            row["zero_knowledge"],
            row["generation"],
            row["key_check"],
            previous,
            row["seal_serial"],
            row["row_version"],
        )


def state_of(vault: Vault) -> SealedState:
    """Return what is sealed of a vault."""
    return _state(vault, recovery_format(vault))


def _state(vault: Vault, recovery_format_version: int) -> SealedState:
    return SealedState(
        vault.generation,
        vault.seal_serial,
        vault.zero_knowledge,
        vault.key_check,
        _digest(vault.recovery),
        recovery_format_version,
        vault.recovery_set_at,
        vault.wrap is not None,
        None if vault.previous is None else vault.previous.generation,
        _digest(vault.previous),
    )


def _digest(wrap: RecoveryWrap | PreviousKey | None) -> str | None:
    return None if wrap is None else digest_of(wrap.wrapped_mk, wrap.iv)


def recovery_format(vault: Vault) -> int:
    """Return what is stored as the format of the recovery wrap, also where there is none."""
    return RecoveryWrap.FORMAT if vault.recovery is None else vault.recovery.format_version
