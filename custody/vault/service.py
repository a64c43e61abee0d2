"""The use cases, one method each; those that bring a new master key are in ``rotations.py``."""

from custody.audit.events import Action
from custody.vault.errors import (
    KeyNotInitialised,
    MasterKeyMismatch,
    Overloaded,
    RecoveryWrapMissing,
    RotationPending,
    UserUnknown,
    VaultNotInitialised,
    ZkActive,
)
from custody.vault.key_check import is_master_key, key_check_value
from custody.vault.model import (
    Caller,
    MasterKey,
    Page,
    RecoveryBlob,
    RecoveryWrap,
    Status,
    Trail,
    moment,
    seconds,
)
from custody.vault.rotations import Rotations
from custody.vault.rows import event


class VaultService(Rotations):
    """What a user can do with the own vault; see :class:`UseCases`."""

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
                if vault.previous is not None:
                    # Only the server can open it: the data under it would be lost.
                    raise RotationPending
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
