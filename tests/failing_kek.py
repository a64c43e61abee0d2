"""A KEK that can be told to fail, as a remote one would."""

import asyncio

from kek_backends.base import Wrap
from kek_backends.binding import Binding
from kek_backends.env import EnvKek
from kek_backends.errors import KekError


class FailingKek(EnvKek):
    """A KEK that can be told to fail as a remote one would."""

    failure: KekError | None = None
    hangs = False
    in_process = False

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        await self._fail()
        return await super()._wrap(binding, key)

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        await self._fail()
        return await super()._unwrap(binding, wrap)

    async def _fail(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
