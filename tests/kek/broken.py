"""Backends with one mistake each, for the conformance suite to find."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kek_backends import aead
from kek_backends.base import KekBackend, OwnedWrap, Rewrapped, Wrap
from kek_backends.env import EnvKek
from kek_backends.errors import Denied, KekError, Misconfigured, Tampered, Transient
from kek_backends.findings import Finding, Verdict
from kek_backends.uri import KekUri

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()


class Good(EnvKek):
    """What the broken ones are made from: a mistake each, in a KEK that is right otherwise."""

    @classmethod
    def made(cls) -> "Good":
        return cls(uri=KekUri.parse("env:KEK"), kek_id="env-v1", key=KEY, development=False)


class BackgroundRewrap(Good):
    """Re-wraps as a KMS would."""

    def can_rewrap_from(self, source: KekBackend) -> bool:
        return isinstance(source, BackgroundRewrap)

    async def _rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        return [await self._one(item) for item in items]

    async def _one(self, item: OwnedWrap) -> Rewrapped:
        try:
            key = await self.unwrap(item.user_id, item.wrap)
        except KekError as error:
            return error
        return await self.wrap(item.user_id, key)


class IgnoresTheUser(Good):
    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        return await super()._wrap("", master_key)

    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        return await super()._unwrap("", wrap)


class StripsTheUser(Good):
    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        return await super()._wrap(user_id.strip(), master_key)

    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        return await super()._unwrap(user_id.strip(), wrap)


class CutsTheUser(Good):
    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        return await super()._wrap(user_id[:254], master_key)

    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        return await super()._unwrap(user_id[:254], wrap)


class RefusesLongUsers(Good):
    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        if len(user_id.encode()) > 255:
            raise Denied("too long")
        return await super()._wrap(user_id, master_key)


class StampsAnother(Good):
    def holds(self, kek_id: str) -> bool:
        return kek_id in {"env-v1", "env-v0"}

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        return replace(await super()._wrap(user_id, master_key), kek_id="env-v0")


class HoldsAll(Good):
    def holds(self, kek_id: str) -> bool:
        return True


class StampsWhatItDoesNotHold(Good):
    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        return replace(await super()._wrap(user_id, master_key), kek_id="env-v0")


class StampsNoKekId(Good):
    @classmethod
    def made(cls) -> Good:
        return cls(uri=KekUri.parse("env:KEK"), kek_id="env v1", key=KEY, development=False)


class WritesFormat1(Good):
    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        return replace(await super()._wrap(user_id, master_key), format_version=1)


class WritesFormat1PastTheBase(Good):
    async def wrap(self, user_id: str, master_key: bytes) -> Wrap:
        return replace(await super()._wrap(user_id, master_key), format_version=1)


class WritesNul(Good):
    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        return replace(await super()._wrap(user_id, master_key), wrap_iv="\0")


class ShowsTheKey(Good):
    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        wrap = await super()._wrap(user_id, master_key)
        return replace(wrap, wrapped_mk=wrap.wrapped_mk + base64.b64encode(master_key).decode())

    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        return await super()._unwrap(user_id, replace(wrap, wrapped_mk=wrap.wrapped_mk[:64]))


class AcceptsWhiteSpace(Good):
    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        return await super()._unwrap(user_id, replace(wrap, wrapped_mk=wrap.wrapped_mk.strip()))


class IgnoresTheTail(Good):
    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        return await super()._unwrap(user_id, replace(wrap, wrapped_mk=wrap.wrapped_mk[:64]))


class IgnoresTheTag(Good):
    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        try:
            return await super()._unwrap(user_id, wrap)
        except Tampered:
            return bytes(32)


class CallsDamageAnOutage(Good):
    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        try:
            return await super()._unwrap(user_id, wrap)
        except Tampered:
            raise Transient("no answer") from None


class ShowsTheRow(Good):
    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        try:
            return await super()._unwrap(user_id, wrap)
        except Tampered:
            raise Tampered(f"{wrap.wrapped_mk} does not open") from None


class IgnoresTheIv(Good):
    nonce = base64.b64encode(b"N" * aead.XAES_NONCE_SIZE).decode()

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        aad = aead.associated_data(user_id, "env-v1")
        sealed = aead.xaes_encrypt(KEY, b"N" * 24, master_key, aad)
        return Wrap(base64.b64encode(sealed).decode(), "", 2, "env-v1")

    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        return await super()._unwrap(user_id, replace(wrap, wrap_iv=self.nonce))


class IgnoresTheFormat(Good):
    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        return await super()._unwrap(user_id, replace(wrap, format_version=2))


class IgnoresTheKekId(Good):
    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        return await super()._unwrap(user_id, replace(wrap, kek_id="env-v1"))


class ReturnsAnotherSize(Good):
    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        return (await super()._unwrap(user_id, wrap))[:16]


class ReturnsAnotherKey(Good):
    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        await super()._unwrap(user_id, wrap)
        return bytes(32)


class WrapsAnySize(Good):
    async def wrap(self, user_id: str, master_key: bytes) -> Wrap:
        return await self._wrap(user_id, master_key)


class Remembers(Good):
    """Keeps the key in its process."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self._kept: dict[str, tuple[str, bytes]] = {}

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        wrap = await super()._wrap(user_id, master_key)
        self._kept[wrap.wrapped_mk] = user_id, master_key
        return wrap

    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        owner, key = self._kept.get(wrap.wrapped_mk, ("", b""))
        if owner != user_id:
            raise Tampered("not here")
        return key


class HasAnotherKeyEachTime(Good):
    @classmethod
    def made(cls) -> Good:
        key = aead.xaes_nonce() + bytes(8)
        return cls(uri=KekUri.parse("env:KEK"), kek_id="env-v1", key=key, development=False)


class OneCallAtATime(Good):
    """Two calls at once mix up their keys."""

    _current = b""

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        self._current = master_key
        await yielding()
        return await super()._wrap(user_id, self._current)


class NeverFreesItsLock(Good):
    """A call that is cancelled keeps the only connection."""

    _busy = False

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        if self._busy:
            raise Transient("no connection is free")
        self._busy = True
        await yielding()
        self._busy = False
        return await super()._wrap(user_id, master_key)


class ChangesItsKekId(Good):
    async def refresh(self) -> None:
        self._kek_id += "x"


class FailsToRefreshAgain(Good):
    _fresh = False

    async def refresh(self) -> None:
        if self._fresh:
            raise Transient("once is enough")
        self._fresh = True


class CannotBeProven(Good):
    async def prove(self) -> None:
        raise Misconfigured("no")


class FindsFault(Good):
    async def examine(self, *, active: bool) -> list[Finding]:
        return [Finding(Verdict.FINDING, "something is wrong")]


class TellsTheKek(Good):
    async def examine(self, *, active: bool) -> list[Finding]:
        return [Finding(Verdict.OK, f"the key is {TEXT}")]


class SaysNothing(Good):
    async def examine(self, *, active: bool) -> list[Finding]:
        return []


class ShowsItself(Good):
    def __repr__(self) -> str:
        return f"ShowsItself({vars(self)})"


class CannotCloseTwice(Good):
    _open = True

    async def close(self) -> None:
        if not self._open:
            raise Transient("closed")
        self._open = False


class FingerprintOfTheDay(Good):
    def fingerprint(self, kek_id: str) -> str:
        return super().fingerprint(kek_id) + aead.xaes_nonce().hex()


class FingerprintIsTheKey(Good):
    def fingerprint(self, kek_id: str) -> str:
        return TEXT


class DropsBadItems(BackgroundRewrap):
    async def rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        return [new for new in await self._rewrap(items) if isinstance(new, Wrap)]


class Reorders(BackgroundRewrap):
    async def _rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        return (await super()._rewrap(items))[::-1]


class BadItemsLast(BackgroundRewrap):
    async def _rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        return sorted(await super()._rewrap(items), key=lambda new: isinstance(new, KekError))


class OneBadItemFailsAll(BackgroundRewrap):
    async def _one(self, item: OwnedWrap) -> Rewrapped:
        return await self.wrap(item.user_id, await self.unwrap(item.user_id, item.wrap))


class RewrapsForAnyone(BackgroundRewrap):
    async def _one(self, item: OwnedWrap) -> Rewrapped:
        for user in (item.user_id, "alice"):
            try:
                return await self.wrap(item.user_id, await self.unwrap(user, item.wrap))
            except KekError as error:
                failed = error
        return failed


class RewrapsToAnotherKey(BackgroundRewrap):
    async def _one(self, item: OwnedWrap) -> Rewrapped:
        new = await super()._one(item)
        return await self.wrap(item.user_id, bytes(32)) if isinstance(new, Wrap) else new


async def yielding() -> None:
    await asyncio.sleep(0.001)
