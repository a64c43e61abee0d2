"""The use cases, one method each: decide on the row as it was read, change it by compare-and-set.

Where another writer was faster, the row is read and checked again: no change is overwritten unseen,
and no interleaving ends in an error.
"""

from collections.abc import AsyncIterator

from custody.audit.events import Action, Event
from custody.vault.brake import Brake
from custody.vault.canaries import Canaries
from custody.vault.errors import (
    KekUnavailable,
    KeyNotInitialised,
    MasterKeyMismatch,
    Overloaded,
    RecoveryWrapMissing,
    StaleGeneration,
    UserUnknown,
    VaultNotInitialised,
    ZkActive,
    ZkRotateForbidden,
)
from custody.vault.failures import AUDIT_RESERVE_SECONDS, Failures
from custody.vault.key_check import is_master_key, key_check_value
from custody.vault.keys import MasterKeys
from custody.vault.model import (
    Caller,
    MasterKey,
    Page,
    RecoveryBlob,
    RecoveryWrap,
    Status,
    Trail,
    Trust,
    Vault,
    moment,
    seconds,
)
from custody.vault.rows import VaultRows, event
from custody.vault.sealed_rows import SealedRows
from custody.vault.seals import Seals
from custody.vault.turns import Turns


class VaultService:
    """What a user can do with the own vault.

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

    async def status(self, caller: Caller) -> Status:
        """Say what there is, without unwrapping and without an audit row."""
        try:
            vault, _ = await self._vaults.read(caller)
        except UserUnknown:
            vault = None
        if vault is None:
            return Status(
                vault_exists=False,
                has_recovery_wrap=False,
                zero_knowledge=False,
                recovery_set_at=None,
            )
        set_at = vault.recovery_set_at
        return Status(
            vault_exists=True,
            has_recovery_wrap=vault.recovery is not None,
            zero_knowledge=vault.zero_knowledge,
            recovery_set_at=None if set_at is None else moment(set_at),
        )

    async def trail(self, caller: Caller, page: Page) -> Trail:
        """Show the user's own audit rows, without one of its own.

        They have addresses and times: who may not get at the vault does not get at them either.
        """
        rows = await self._rows.list_events(caller, page)
        self._canaries.refuse(caller.user_id)
        if not rows:
            return Trail((), None)
        with self._brake.passing(caller.user_id):
            events = rows[: page.limit]
            return Trail(events, events[-1]["number"] if len(rows) > page.limit else None)

    async def fetch(self, caller: Caller) -> MasterKey | RecoveryBlob:
        """Hand out the master key, or in zero-knowledge mode the recovery wrap."""
        try:
            vault, _ = await self._vaults.read(caller)
            self._canaries.refuse(caller.user_id)
            if vault is None:
                raise KeyNotInitialised
            return await self._hand_out(
                caller, vault, Action.FETCH, context=None, zk_context="zk-recovery-blob"
            )
        except Exception as error:
            await self._failures.record(caller, Action.FAILED_FETCH, error)
            raise

    async def init(self, caller: Caller) -> MasterKey | RecoveryBlob:
        """Mint the user's first master key, or hand out what there is."""
        async with self._failures.audited(caller, Action.INIT), self._turns.of(caller):
            async for vault, clock in self._attempts(caller):
                if vault is not None:
                    return await self._hand_out(
                        caller,
                        vault,
                        Action.INIT,
                        context="already-exists",
                        zk_context="already-exists-zk",
                    )
                if made := await self._create(caller, Action.INIT, "created", clock):
                    return made
            raise Overloaded

    async def rotate(self, caller: Caller) -> MasterKey:
        """Replace the master key for good; without a vault, act as init."""
        async with self._failures.audited(caller, Action.ROTATE), self._turns.of(caller):
            fresh = None
            async for vault, clock in self._verified(caller):
                if vault is None:
                    if made := await self._create(caller, Action.ROTATE, "init-on-rotate", clock):
                        return made
                    continue
                if vault.zero_knowledge:
                    raise ZkRotateForbidden
                with self._brake.passing(caller.user_id):
                    fresh = await self._keys.mint(caller, vault.generation + 1, fresh)
                    after = vault._replace(
                        wrap=fresh.wrap,
                        generation=fresh.generation,
                        key_check=fresh.key_check,
                        recovery=None,
                        recovery_set_at=None,
                    )
                    done = event(caller, Action.ROTATE, None)
                    is_stored = await self._vaults.store(caller, done, after)
                if is_stored:
                    return fresh.answer
            raise Overloaded

    async def set_recovery(self, caller: Caller, recovery: RecoveryWrap) -> None:
        """Store or replace the recovery wrap that the client built."""
        async with self._failures.audited(caller, Action.RECOVERY_SET), self._turns.of(caller):
            async for vault, clock in self._verified(caller):
                if vault is None:
                    raise VaultNotInitialised
                done = event(caller, Action.RECOVERY_SET, None)
                after = vault._replace(recovery=recovery, recovery_set_at=seconds(clock))
                if await self._store(caller, done, vault, after):
                    return
            raise Overloaded

    async def clear_recovery(self, caller: Caller) -> None:
        """Remove the recovery wrap; where there is none, do nothing."""
        action = Action.RECOVERY_CLEAR
        async with self._failures.audited(caller, action), self._turns.of(caller):
            async for vault, _ in self._verified(caller):
                if vault is None:
                    raise VaultNotInitialised
                if vault.zero_knowledge or vault.wrap is None:
                    raise ZkActive
                if vault.recovery is None:
                    await self._rows.record(caller, event(caller, action, "no-recovery-wrap"))
                    return
                done = event(caller, action, None)
                after = vault._replace(recovery=None, recovery_set_at=None)
                if await self._store(caller, done, vault, after):
                    return
            raise Overloaded

    async def enable_zero_knowledge(self, caller: Caller) -> None:
        """Forget the server's wrap; only the recovery wrap is left."""
        action = Action.ZK_ENABLE
        async with self._failures.audited(caller, action), self._turns.of(caller):
            async for vault, _ in self._verified(caller):
                if vault is None:
                    raise VaultNotInitialised
                if vault.zero_knowledge:
                    await self._rows.record(caller, event(caller, action, "already-enabled"))
                    return
                if vault.recovery is None or not vault.recovery.is_well_formed:
                    raise RecoveryWrapMissing
                key_check = vault.key_check
                if key_check is None:
                    # The last moment at which the server has the key: without its key check
                    # value any 32 bytes could replace it when the mode is turned off.
                    opened = await self._keys.open(caller, vault)
                    key_check = key_check_value(caller.user_id, opened.key)
                done = event(caller, action, None)
                after = vault._replace(wrap=None, zero_knowledge=True, key_check=key_check)
                if await self._store(caller, done, vault, after):
                    return
            raise Overloaded

    async def disable_zero_knowledge(self, caller: Caller, key: bytes) -> None:
        """Keep the key that the client hands back, if it is this user's.

        Args:
            caller: whose vault.
            key: 32 bytes.
        """
        action = Action.ZK_DISABLE
        async with self._failures.audited(caller, action), self._turns.of(caller):
            async for vault, _ in self._verified(caller):
                if vault is None:
                    raise VaultNotInitialised
                if not vault.zero_knowledge:
                    await self._rows.record(caller, event(caller, action, "already-disabled"))
                    return
                if vault.key_check is None:
                    context = "unverified-master-key"
                elif is_master_key(caller.user_id, key, vault.key_check):
                    context = None
                else:
                    raise MasterKeyMismatch
                wrapped = await self._keys.wrap(caller, vault.generation, key)
                done = event(caller, action, context)
                after = vault._replace(
                    wrap=wrapped.wrap, zero_knowledge=False, key_check=wrapped.key_check
                )
                if await self._store(caller, done, vault, after):
                    return
            raise Overloaded

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
