"""Backends with one mistake each, for the conformance suite to find."""

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

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

    stamp = "env-v1"

    @classmethod
    def made(cls) -> "Good":
        return cls(uri=KekUri.parse("env:KEK"), kek_id=cls.stamp, key=cls.key(), development=False)

    @staticmethod
    def key() -> bytes:
        return KEY

    def user(self, user_id: str) -> str:
        """Return whom a wrap is bound to."""
        return user_id

    def written(self, wrap: Wrap) -> Wrap:
        """Return what a new wrap becomes."""
        return wrap

    def read(self, wrap: Wrap) -> Wrap:
        """Return what is read of a row."""
        return wrap

    def opened(self, master_key: bytes) -> bytes:
        """Return what a wrap opens to."""
        return master_key

    def refused(self, wrap: Wrap, error: Tampered) -> bytes:
        """Raise, or return, what becomes of a wrap that does not open."""
        raise error

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        return self.written(await super()._wrap(self.user(user_id), master_key))

    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        try:
            return self.opened(await super()._unwrap(self.user(user_id), self.read(wrap)))
        except Tampered as error:
            return self.refused(wrap, error)


def mistaken(name: str, base: type[Good] = Good, **steps: Any) -> type[Good]:
    """Return a KEK that does some of its steps otherwise."""
    return type(name, (base,), steps)


def changed(**columns: Any) -> Callable[[Good, Wrap], Wrap]:
    """Return a step that changes columns of a wrap."""
    return lambda kek, wrap: replace(wrap, **columns)


def raising(kind: type[KekError], text: str) -> Callable[..., bytes]:
    """Return a step that fails, with the wrap in its text where that has room for it."""

    def fail(kek: Good, wrap: Wrap, error: Tampered) -> bytes:
        raise kind(text.format(wrap.wrapped_mk)) from None

    return fail


def cut(kek: Good, wrap: Wrap) -> Wrap:
    """Be a step that reads of a wrap what belongs there, and ignores the rest."""
    return replace(wrap, wrapped_mk=wrap.wrapped_mk[:64])


async def once(kek: Good) -> None:
    """Be a step that succeeds only the first time."""
    if vars(kek).setdefault("done", []):
        raise Transient("once is enough")
    vars(kek)["done"].append(True)


IgnoresTheUser = mistaken("IgnoresTheUser", user=lambda kek, user_id: "")
StripsTheUser = mistaken("StripsTheUser", user=lambda kek, user_id: user_id.strip())
CutsTheUser = mistaken("CutsTheUser", user=lambda kek, user_id: user_id[:254])
HoldsAll = mistaken("HoldsAll", holds=lambda kek, kek_id: True)
StampsAnother = mistaken(
    "StampsAnother",
    holds=lambda kek, kek_id: kek_id in {"env-v1", "env-v0"},
    written=changed(kek_id="env-v0"),
)
StampsWhatItDoesNotHold = mistaken("StampsWhatItDoesNotHold", written=changed(kek_id="env-v0"))
StampsNoKekId = mistaken("StampsNoKekId", stamp="env v1")
WritesFormat1 = mistaken("WritesFormat1", written=changed(format_version=1))
WritesFormat1PastTheBase = mistaken(
    "WritesFormat1PastTheBase", wrap=Good._wrap, written=changed(format_version=1)
)
WrapsAnySize = mistaken("WrapsAnySize", wrap=Good._wrap)
WritesNul = mistaken("WritesNul", written=changed(wrap_iv="\0"))
IgnoresTheFormat = mistaken("IgnoresTheFormat", read=changed(format_version=2))
IgnoresTheKekId = mistaken("IgnoresTheKekId", read=changed(kek_id="env-v1"))
IgnoresTheTail = mistaken("IgnoresTheTail", read=cut)
AcceptsWhiteSpace = mistaken(
    "AcceptsWhiteSpace", read=lambda kek, wrap: replace(wrap, wrapped_mk=wrap.wrapped_mk.strip())
)
IgnoresTheTag = mistaken("IgnoresTheTag", refused=lambda kek, wrap, error: bytes(32))
CallsDamageAnOutage = mistaken("CallsDamageAnOutage", refused=raising(Transient, "no answer"))
ShowsTheRow = mistaken("ShowsTheRow", refused=raising(Tampered, "{} does not open"))
ReturnsAnotherSize = mistaken("ReturnsAnotherSize", opened=lambda kek, key: key[:16])
ReturnsAnotherKey = mistaken("ReturnsAnotherKey", opened=lambda kek, key: bytes(32))
HasAnotherKeyEachTime = mistaken("HasAnotherKeyEachTime", key=lambda: aead.xaes_nonce() + bytes(8))
FingerprintOfTheDay = mistaken(
    "FingerprintOfTheDay", fingerprint=lambda kek, kek_id: aead.xaes_nonce().hex()
)
FingerprintIsTheKey = mistaken("FingerprintIsTheKey", fingerprint=lambda kek, kek_id: TEXT)
CannotBeProven = mistaken("CannotBeProven", prove=AsyncMock(side_effect=Misconfigured("no")))
FailsToRefreshAgain = mistaken("FailsToRefreshAgain", refresh=once)
CannotCloseTwice = mistaken("CannotCloseTwice", close=once)
ShowsItself = mistaken("ShowsItself", __repr__=lambda kek: f"ShowsItself({vars(kek)})")
FindsFault, TellsTheKek, SaysNothing = (
    mistaken(name, examine=AsyncMock(return_value=said))
    for name, said in {
        "FindsFault": [Finding(Verdict.FINDING, "something is wrong")],
        "TellsTheKek": [Finding(Verdict.OK, f"the key is {TEXT}")],
        "SaysNothing": [],
    }.items()
)


class RefusesLongUsers(Good):
    def user(self, user_id: str) -> str:
        if len(user_id.encode()) > 255:
            raise Denied("too long")
        return user_id


class ShowsTheKey(Good):
    read = cut

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        wrap = await super()._wrap(user_id, master_key)
        return replace(wrap, wrapped_mk=wrap.wrapped_mk + base64.b64encode(master_key).decode())


class IgnoresTheIv(Good):
    nonce = base64.b64encode(b"N" * aead.XAES_NONCE_SIZE).decode()

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        aad = aead.associated_data(user_id, "env-v1")
        sealed = aead.xaes_encrypt(KEY, b"N" * 24, master_key, aad)
        return Wrap(base64.b64encode(sealed).decode(), "", 2, "env-v1")

    def read(self, wrap: Wrap) -> Wrap:
        return replace(wrap, wrap_iv=self.nonce)


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


class OneCallAtATime(Good):
    """Two calls at once mix up their keys."""

    _current = b""

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        self._current = master_key
        await asyncio.sleep(0.001)
        return await super()._wrap(user_id, self._current)


class NeverFreesItsLock(Good):
    """A call that is cancelled keeps the only connection."""

    _busy = False

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        if self._busy:
            raise Transient("no connection is free")
        self._busy = True
        await asyncio.sleep(0.001)
        self._busy = False
        return await super()._wrap(user_id, master_key)


class ChangesItsKekId(Good):
    async def refresh(self) -> None:
        self._kek_id += "x"


class BackgroundRewrap(Good):
    """Re-wraps as a KMS would."""

    def can_rewrap_from(self, source: KekBackend) -> bool:
        return isinstance(source, BackgroundRewrap)

    def answered(self, new: list[Rewrapped]) -> list[Rewrapped]:
        """Return what becomes of the new wraps."""
        return new

    async def _rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        return self.answered([await self._one(item) for item in items])

    async def _one(self, item: OwnedWrap) -> Rewrapped:
        try:
            key = await self.unwrap(item.user_id, item.wrap)
        except KekError as error:
            return error
        return await self.wrap(item.user_id, key)


DropsBadItems, Reorders, BadItemsLast = (
    mistaken(name, BackgroundRewrap, **steps)
    for name, steps in {
        "DropsBadItems": {
            "rewrap": BackgroundRewrap._rewrap,
            "answered": lambda kek, new: [one for one in new if isinstance(one, Wrap)],
        },
        "Reorders": {"answered": lambda kek, new: new[::-1]},
        "BadItemsLast": {
            "answered": lambda kek, new: sorted(new, key=lambda one: isinstance(one, KekError))
        },
    }.items()
)


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
