"""A user's vault, for threads and for asyncio: one life, two drivers."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

from custody.client.answers import AuditEvent, AuditPage, Status
from custody.client.errors import CustodyError
from custody.client.exchange import Request, Steps, Wait
from custody.client.life import Keys, Life, Pin
from custody.client.transport import Transport

__all__ = ["AsyncVault", "AuditEvent", "AuditPage", "Keys", "Pin", "Status", "Vault"]
T = TypeVar("T")


class Vault:
    """A user's vault; its calls block.

    Args:
        transport: how to reach the daemon.
        token: returns a token.
        pin: keeps the highest generation.
    """

    def __init__(self, transport: Transport, token: Callable[[], str], pin: Pin) -> None:
        self._transport = transport
        self._life = Life(token, pin)

    def status(self) -> Status:
        """Return what there is; it needs no key, and leaves no audit row."""
        return self._run(self._life.status())

    def audit(self, limit: int = 50, before: str | None = None) -> AuditPage:
        """Return what was done with the vault, newest first; ``before``: a page's ``next``."""
        return self._run(self._life.audit(limit, before))

    def unlock(self, code: str | None = None) -> Keys:
        """Return the keys; in zero-knowledge mode the user's code opens them."""
        return self._run(self._life.unlock(code))

    def set_recovery_code(self, keys: Keys, code: str) -> None:
        """Store a wrap that this code was seen to open."""
        self._run(self._life.set_recovery_code(keys, code))

    def enable_zero_knowledge(self, keys: Keys, code: str) -> None:
        """Turn zero-knowledge mode on, with the code that the user has typed back."""
        self._run(self._life.enable_zero_knowledge(keys, code))

    def disable_zero_knowledge(self, keys: Keys) -> None:
        """Turn it off: the daemon gets the key back."""
        self._run(self._life.disable_zero_knowledge(keys))

    def rotate(self, reencrypt: Callable[[Keys], None]) -> Keys:
        """Rotate, or finish a rotation; returns once ``reencrypt`` did and the old key is gone."""
        return self._run(self._life.rotate(reencrypt))

    def reset(self) -> Keys:
        """Give up every key there was, and begin again: all that is encrypted is lost."""
        return self._run(self._life.reset())

    def _run(self, steps: Steps[T]) -> T:
        step: Any = None
        error: CustodyError | None = None
        while True:
            try:
                need = steps.send(step) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            step, error = None, None
            if isinstance(need, Request):
                try:
                    step = self._transport.send(need)
                except CustodyError as failed:
                    error = failed
            elif isinstance(need, Wait):
                time.sleep(need.seconds)
            else:
                step = need.callback(*need.arguments)


class AsyncVault:
    """A user's vault, for asyncio; callbacks may be ``async``. The arguments are Vault's."""

    def __init__(self, transport: Transport, token: Callable[[], Any], pin: Pin) -> None:
        self._transport = transport
        self._life = Life(token, pin)

    async def status(self) -> Status:
        """Return what there is; it needs no key, and leaves no audit row."""
        return await self._run(self._life.status())

    async def audit(self, limit: int = 50, before: str | None = None) -> AuditPage:
        """Return what was done with the vault, newest first; ``before``: a page's ``next``."""
        return await self._run(self._life.audit(limit, before))

    async def unlock(self, code: str | None = None) -> Keys:
        """Return the keys; in zero-knowledge mode the user's code opens them."""
        return await self._run(self._life.unlock(code))

    async def set_recovery_code(self, keys: Keys, code: str) -> None:
        """Store a wrap that this code was seen to open."""
        await self._run(self._life.set_recovery_code(keys, code))

    async def enable_zero_knowledge(self, keys: Keys, code: str) -> None:
        """Turn zero-knowledge mode on, with the code that the user has typed back."""
        await self._run(self._life.enable_zero_knowledge(keys, code))

    async def disable_zero_knowledge(self, keys: Keys) -> None:
        """Turn it off: the daemon gets the key back."""
        await self._run(self._life.disable_zero_knowledge(keys))

    async def rotate(self, reencrypt: Callable[[Keys], Any]) -> Keys:
        """Rotate, or finish a rotation; returns once ``reencrypt`` did and the old key is gone."""
        return await self._run(self._life.rotate(reencrypt))

    async def reset(self) -> Keys:
        """Give up every key there was, and begin again: all that is encrypted is lost."""
        return await self._run(self._life.reset())

    async def _run(self, steps: Steps[T]) -> T:
        step: Any = None
        error: CustodyError | None = None
        while True:
            try:
                need = steps.send(step) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            step, error = None, None
            if isinstance(need, Request):
                try:
                    step = await asyncio.to_thread(self._transport.send, need)
                except CustodyError as failed:
                    error = failed
            elif isinstance(need, Wait):
                await asyncio.sleep(need.seconds)
            else:
                step = need.callback(*need.arguments)
                if inspect.isawaitable(step):
                    step = await step
