"""What all use cases have: decide on the row as it was read, change it by compare-and-set.

Where another writer was faster, the row is read and checked again: no change is overwritten unseen,
and no interleaving ends in an error.
"""

from collections.abc import AsyncIterator

from custody.audit.events import Action, Event
from custody.vault.brake import Brake
from custody.vault.canaries import Canaries
from custody.vault.errors import KekUnavailable, StaleGeneration
from custody.vault.failures import AUDIT_RESERVE_SECONDS, Failures
from custody.vault.keys import MasterKeys
from custody.vault.model import Caller, MasterKey, RecoveryBlob, Trust, Vault
from custody.vault.rows import VaultRows, event
from custody.vault.sealed_rows import SealedRows
from custody.vault.seals import Seals
from custody.vault.turns import Turns


class UseCases:
    """Where use cases begin and end.

    Args:
        rows: the database side.
        seals: say which rows are believed.
        keys: the KEK side.
        brake: lets users pass.
        canaries: users who may be refused.
    """

    def __init__(
        self, rows: VaultRows, seals: Seals, keys: MasterKeys, brake: Brake, canaries: Canaries
    ) -> None:
        self._rows = rows
        self._vaults = SealedRows(rows, seals)
        self._keys = keys
        self._brake = brake
        self._canaries = canaries
        self._failures = Failures(rows)
        self._turns = Turns()

    async def _hand_out(
        self, caller: Caller, vault: Vault, action: Action, *, context: str | None, zk_context: str
    ) -> MasterKey | RecoveryBlob:
        """Return what opens the vault, after its audit row is committed."""
        with self._brake.passing(caller.user_id):
            if vault.zero_knowledge and vault.recovery is not None:
                if vault.trust is Trust.UNVERIFIED:
                    zk_context = "unverified-seal"
                await self._rows.record(caller, event(caller, action, zk_context))
                return RecoveryBlob(vault.recovery, vault.generation)
            key = await self._keys.open(caller, vault)
            await self._rows.record(caller, event(caller, action, context))
            return key

    async def _create(
        self, caller: Caller, action: Action, context: str, clock: float
    ) -> MasterKey | None:
        # The database's time in milliseconds: a vault that is made after an erasure has a later
        # generation than the erased one, so a device that knows that is stale.
        fresh = await self._keys.mint(caller, int(clock * 1000))
        is_made = await self._vaults.create(caller, event(caller, action, context), fresh.vault)
        return fresh.answer if is_made else None

    async def _store(self, caller: Caller, done: Event, before: Vault, after: Vault) -> bool:
        """Store the vault as it is to be; one that was never sealed is brought over with it."""
        with self._brake.passing(caller.user_id):
            keeps_wrap = after.wrap is not None and after.wrap is before.wrap
            if keeps_wrap and before.trust is Trust.LEGACY:
                after = await self._keys.bring_over(caller, after)
            return await self._vaults.store(caller, done, after)

    async def _verified(self, caller: Caller) -> AsyncIterator[tuple[Vault | None, float]]:
        """Yield as :meth:`_attempts`, if a change may be built on what the row says."""
        async for vault, clock in self._attempts(caller):
            if vault is not None and vault.trust is Trust.UNVERIFIED:
                raise KekUnavailable
            yield vault, clock

    async def _attempts(self, caller: Caller) -> AsyncIterator[tuple[Vault | None, float]]:
        """Yield the vault and the database's time, and again after each race that was lost."""
        while caller.deadline.remaining() > AUDIT_RESERVE_SECONDS:
            vault, clock = await self._vaults.read(caller)
            self._canaries.refuse(caller.user_id)
            generation = None if vault is None else vault.generation
            if caller.if_match is not None and not caller.if_match.allows(generation):
                raise StaleGeneration
            yield vault, clock
