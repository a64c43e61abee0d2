"""The use cases, one method each: decide on the row as it was read, change it by compare-and-set.

Where another writer was faster, the row is read and checked again: no change is overwritten unseen,
and no interleaving ends in an error.
"""

from collections.abc import AsyncIterator

from custody.audit.events import Action, Event
from custody.vault.brake import Brake
from custody.vault.canaries import Canaries
from custody.vault.errors import (
    KeyNotInitialised,
    MasterKeyMismatch,
    Overloaded,
    RecoveryWrapMissing,
    StaleGeneration,
    UnwrapFailed,
    UserUnknown,
    VaultNotInitialised,
    ZkActive,
    ZkRotateForbidden,
)
from custody.vault.failures import AUDIT_RESERVE_SECONDS, Failures
from custody.vault.key_check import is_master_key, key_check_value
from custody.vault.keys import MasterKeys
from custody.vault.model import Caller, MasterKey, RecoveryBlob, RecoveryWrap, Status, Vault
from custody.vault.rows import VaultRows, event
from custody.vault.turns import Turns


class VaultService:
    """What a user can do with the own vault.

    Args:
        rows: the database side.
        keys: the KEK side.
        brake: lets users pass.
        canaries: users who may be refused.
    """

    def __init__(self, rows: VaultRows, keys: MasterKeys, brake: Brake, canaries: Canaries) -> None:
        self._rows = rows
        self._keys = keys
        self._brake = brake
        self._canaries = canaries
        self._failures = Failures(rows)
        self._turns = Turns()

    async def status(self, caller: Caller) -> Status:
        """Say what there is, without unwrapping and without an audit row."""
        try:
            vault = await self._rows.read(caller)
        except UserUnknown:
            vault = None
        if vault is None:
            return Status(
                vault_exists=False,
                has_recovery_wrap=False,
                zero_knowledge=False,
                recovery_set_at=None,
            )
        return Status(
            vault_exists=True,
            has_recovery_wrap=vault.recovery is not None,
            zero_knowledge=vault.zero_knowledge,
            recovery_set_at=vault.recovery_set_at,
        )

    async def fetch(self, caller: Caller) -> MasterKey | RecoveryBlob:
        """Hand out the master key, or in zero-knowledge mode the recovery wrap."""
        try:
            vault = await self._rows.read(caller)
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
            async for vault in self._attempts(caller):
                if vault is not None:
                    return await self._hand_out(
                        caller,
                        vault,
                        Action.INIT,
                        context="already-exists",
                        zk_context="already-exists-zk",
                    )
                if made := await self._create(caller, Action.INIT, "created"):
                    return made
            raise Overloaded

    async def rotate(self, caller: Caller) -> MasterKey:
        """Replace the master key for good; without a vault, act as init."""
        async with self._failures.audited(caller, Action.ROTATE), self._turns.of(caller):
            fresh = None
            async for vault in self._attempts(caller):
                if vault is None:
                    if made := await self._create(caller, Action.ROTATE, "init-on-rotate"):
                        return made
                    continue
                if vault.zero_knowledge:
                    raise ZkRotateForbidden
                with self._brake.passing(caller.user_id):
                    fresh = await self._keys.mint(caller, vault.generation + 1, fresh)
                    done = event(caller, Action.ROTATE, None)
                    generation = await self._rows.store(
                        caller, done, "rotate_vault", vault, *fresh.columns
                    )
                if generation is not None:
                    wrap = fresh.wrap
                    return MasterKey(fresh.key, generation, wrap.format_version, wrap.kek_id)
            raise Overloaded

    async def set_recovery(self, caller: Caller, recovery: RecoveryWrap) -> None:
        """Store or replace the recovery wrap that the client built."""
        async with self._failures.audited(caller, Action.RECOVERY_SET), self._turns.of(caller):
            async for vault in self._attempts(caller):
                if vault is None:
                    raise VaultNotInitialised
                done = event(caller, Action.RECOVERY_SET, None)
                if await self._store(
                    caller, done, "set_recovery", vault, recovery.wrapped_mk, recovery.iv
                ):
                    return
            raise Overloaded

    async def clear_recovery(self, caller: Caller) -> None:
        """Remove the recovery wrap; where there is none, do nothing."""
        action = Action.RECOVERY_CLEAR
        async with self._failures.audited(caller, action), self._turns.of(caller):
            async for vault in self._attempts(caller):
                if vault is None:
                    raise VaultNotInitialised
                if vault.zero_knowledge or vault.wrap is None:
                    raise ZkActive
                if vault.recovery is None:
                    await self._rows.record(caller, event(caller, action, "no-recovery-wrap"))
                    return
                done = event(caller, action, None)
                if await self._store(caller, done, "clear_recovery", vault):
                    return
            raise Overloaded

    async def enable_zero_knowledge(self, caller: Caller) -> None:
        """Forget the server's wrap; only the recovery wrap is left."""
        action = Action.ZK_ENABLE
        async with self._failures.audited(caller, action), self._turns.of(caller):
            async for vault in self._attempts(caller):
                if vault is None:
                    raise VaultNotInitialised
                if vault.zero_knowledge:
                    await self._rows.record(caller, event(caller, action, "already-enabled"))
                    return
                if vault.recovery is None or not vault.recovery.is_well_formed:
                    raise RecoveryWrapMissing
                key_check = vault.key_check
                if key_check is None and vault.wrap is not None:
                    # The last moment at which the server has the key: without its key check
                    # value any 32 bytes could replace it when the mode is turned off.
                    key = await self._keys.open(caller, vault.generation, vault.wrap, None)
                    key_check = key_check_value(caller.user_id, key)
                done = event(caller, action, None)
                if await self._store(caller, done, "enable_zero_knowledge", vault, key_check):
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
            async for vault in self._attempts(caller):
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
                if await self._store(
                    caller, done, "disable_zero_knowledge", vault, *wrapped.columns
                ):
                    return
            raise Overloaded

    async def _hand_out(
        self, caller: Caller, vault: Vault, action: Action, *, context: str | None, zk_context: str
    ) -> MasterKey | RecoveryBlob:
        """Return what opens the vault, after its audit row is committed."""
        with self._brake.passing(caller.user_id):
            if vault.zero_knowledge and vault.recovery is not None:
                await self._rows.record(caller, event(caller, action, zk_context))
                return RecoveryBlob(vault.recovery, vault.generation)
            if vault.wrap is None:
                raise UnwrapFailed
            key = await self._keys.open(caller, vault.generation, vault.wrap, vault.key_check)
            done = event(caller, action, context)
            if vault.key_check is None:
                await self._rows.record(caller, done, vault, key_check_value(caller.user_id, key))
            else:
                await self._rows.record(caller, done)
            return MasterKey(key, vault.generation, vault.wrap.format_version, vault.wrap.kek_id)

    async def _store(
        self, caller: Caller, done: Event, statement: str, vault: Vault, *columns: str | int | None
    ) -> int | None:
        """Change the vault; see :meth:`VaultRows.store`."""
        with self._brake.passing(caller.user_id):
            return await self._rows.store(caller, done, statement, vault, *columns)

    async def _create(self, caller: Caller, action: Action, context: str) -> MasterKey | None:
        fresh = await self._keys.mint(caller, await self._rows.first_generation(caller))
        created = await self._rows.create(
            caller, event(caller, action, context), fresh.generation, *fresh.columns
        )
        if created is None:
            return None
        return MasterKey(fresh.key, created, fresh.wrap.format_version, fresh.wrap.kek_id)

    async def _attempts(self, caller: Caller) -> AsyncIterator[Vault | None]:
        """Yield the row, again after each lost race, until too little time is left."""
        while caller.deadline.remaining() > AUDIT_RESERVE_SECONDS:
            vault = await self._rows.read(caller)
            self._canaries.refuse(caller.user_id)
            generation = None if vault is None else vault.generation
            if caller.if_match is not None and not caller.if_match.allows(generation):
                raise StaleGeneration
            yield vault
