"""The use cases that bring a new master key in the place of the one there is."""

from dataclasses import replace

from custody.audit.events import Action, Event
from custody.vault.errors import (
    Overloaded,
    RotationPending,
    VaultNotInitialised,
    ZkRotateForbidden,
)
from custody.vault.keys import WrappedKey
from custody.vault.model import Caller, MasterKey, PreviousKey, RecoveryBlob, Vault
from custody.vault.previous import keep
from custody.vault.rows import event
from custody.vault.use_cases import UseCases


class Rotations(UseCases):
    """Rotates for good, rotates with the key before kept, and begins again."""

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
                if vault.previous is not None:
                    raise RotationPending
                with self._brake.passing(caller.user_id):
                    fresh = await self._keys.mint(caller, vault.generation + 1, fresh)
                    done = event(caller, Action.ROTATE, None)
                    is_stored = await self._renew(caller, done, vault, fresh)
                if is_stored:
                    return fresh.answer
            raise Overloaded

    async def begin_rotation(self, caller: Caller) -> MasterKey | RecoveryBlob:
        """Replace the master key and keep the one before; again and again the same pair.

        Without a vault, act as init. The recovery wrap goes, as with :meth:`rotate`: it holds the
        key before, and kept it would be handed out for the live one once zero-knowledge mode is on.
        """
        action = Action.ROTATION_BEGIN
        async with self._failures.audited(caller, action), self._turns.of(caller):
            fresh = None
            async for vault, clock in self._verified(caller):
                if vault is None:
                    if made := await self._create(caller, action, "init-on-rotate", clock):
                        return made
                    continue
                if vault.zero_knowledge:
                    raise ZkRotateForbidden
                if vault.previous is not None:
                    pending = "already-pending"
                    return await self._hand_out(
                        caller, vault, action, context=pending, zk_context=pending
                    )
                with self._brake.passing(caller.user_id):
                    # What does not open can't be kept: only rotate and reset give it up.
                    before = await self._keys.open(caller, vault)
                    fresh = await self._keys.mint(caller, vault.generation + 1, fresh)
                    previous = keep(caller.user_id, fresh.key, vault.generation, before.key)
                    done = event(caller, action, None)
                    is_stored = await self._renew(caller, done, vault, fresh, previous)
                if is_stored:
                    return replace(fresh.answer, previous=before.key)
            raise Overloaded

    async def end_rotation(self, caller: Caller) -> None:
        """Forget the key before: the client has re-encrypted all. With none, do nothing."""
        action = Action.ROTATION_END
        async with self._failures.audited(caller, action), self._turns.of(caller):
            async for vault, _ in self._verified(caller):
                if vault is None:
                    raise VaultNotInitialised
                if vault.previous is None:
                    await self._rows.record(caller, event(caller, action, "none-pending"))
                    return
                done = event(caller, action, None)
                if await self._store(caller, done, vault, vault._replace(previous=None)):
                    return
            raise Overloaded

    async def reset(self, caller: Caller) -> MasterKey:
        """Give up every key there was, in any state, and begin again with a fresh one."""
        action = Action.RESET
        async with self._failures.audited(caller, action), self._turns.of(caller):
            fresh = None
            async for vault, clock in self._verified(caller):
                if vault is None:
                    if made := await self._create(caller, action, "created", clock):
                        return made
                    continue
                with self._brake.passing(caller.user_id):
                    fresh = await self._keys.mint(caller, vault.generation + 1, fresh)
                    is_stored = await self._renew(caller, event(caller, action, None), vault, fresh)
                if is_stored:
                    return fresh.answer
            raise Overloaded

    async def _renew(
        self,
        caller: Caller,
        done: Event,
        before: Vault,
        fresh: WrappedKey,
        previous: PreviousKey | None = None,
    ) -> bool:
        """Store a vault that has a fresh key, and of the one before at most the key."""
        after = before._replace(
            wrap=fresh.wrap,
            generation=fresh.generation,
            key_check=fresh.key_check,
            previous=previous,
            zero_knowledge=False,
            recovery=None,
            recovery_set_at=None,
        )
        return await self._vaults.store(caller, done, after)
