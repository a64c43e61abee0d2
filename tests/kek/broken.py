"""Backends with one mistake each, for the conformance suite to find."""

import asyncio
import base64
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import AsyncMock

from kek_backends import aead
from kek_backends.base import KekBackend, OwnedWrap, Rewrapped, Wrap
from kek_backends.binding import Binding, Purpose
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

    def bound(self, binding: Binding) -> Binding:
        """Return what a wrap is bound to."""
        return binding

    def written(self, wrap: Wrap, _key: bytes) -> Wrap:
        """Return what a new wrap becomes."""
        return wrap

    def read(self, wrap: Wrap) -> Wrap:
        """Return what is read of a row."""
        return wrap

    def opened(self, key: bytes) -> bytes:
        """Return what a wrap opens to."""
        return key

    def refused(self, wrap: Wrap, error: Tampered) -> bytes:
        """Raise, or return, what becomes of a wrap that does not open."""
        raise error

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        return self.written(await super()._wrap(self.bound(binding), key), key)

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        try:
            return self.opened(await super()._unwrap(self.bound(binding), self.read(wrap)))
        except Tampered as error:
            return self.refused(wrap, error)


def mistaken(name: str, base: type[Good] = Good, **steps: Any) -> type[Good]:
    """Return a KEK that does some of its steps otherwise."""
    return type(name, (base,), steps)


def changed(**columns: Any) -> Callable[..., Wrap]:
    """Return a step that changes columns of a wrap."""
    return lambda kek, wrap, *_: wrap._replace(**columns)


def raising(kind: type[KekError], text: str) -> Callable[..., bytes]:
    """Return a step that fails, with the wrap in its text where that has room for it."""

    def fail(kek: Good, wrap: Wrap, error: Tampered) -> bytes:
        raise kind(text.format(wrap.wrapped_mk)) from None

    return fail


def cut(kek: Good, wrap: Wrap) -> Wrap:
    """Be a step that reads of a wrap what belongs there, and ignores the rest."""
    return wrap._replace(wrapped_mk=wrap.wrapped_mk[:64])


async def once(kek: Good) -> None:
    """Be a step that succeeds only the first time."""
    if vars(kek).setdefault("done", []):
        raise Transient("once is enough")
    vars(kek)["done"].append(True)


def binding_to(change: Callable[[str], str]) -> Callable[..., Binding]:
    """Return a step that binds to something else than the user's id."""
    return lambda kek, binding: binding._replace(subject=change(binding.subject))


IgnoresTheUser = mistaken("IgnoresTheUser", bound=binding_to(lambda user_id: ""))
StripsTheUser = mistaken("StripsTheUser", bound=binding_to(str.strip))
CutsTheUser = mistaken("CutsTheUser", bound=binding_to(lambda user_id: user_id[:254]))
IgnoresTheGeneration = mistaken(
    "IgnoresTheGeneration", bound=lambda kek, binding: binding._replace(generation=0)
)
IgnoresThePurpose = mistaken(
    "IgnoresThePurpose", bound=lambda kek, binding: binding._replace(purpose=Purpose.MASTER_KEY)
)
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
WritesFormat2 = mistaken("WritesFormat2", written=changed(format_version=2))
WrapsAnySize = mistaken("WrapsAnySize", wrap=Good._wrap)
WritesNul = mistaken("WritesNul", written=changed(wrap_iv="\0"))
IgnoresTheFormat = mistaken("IgnoresTheFormat", read=changed(format_version=3))
IgnoresTheKekId = mistaken("IgnoresTheKekId", read=changed(kek_id="env-v1"))
IgnoresTheTail = mistaken("IgnoresTheTail", read=cut)
AcceptsWhiteSpace = mistaken(
    "AcceptsWhiteSpace", read=lambda kek, wrap: wrap._replace(wrapped_mk=wrap.wrapped_mk.strip())
)
IgnoresTheIv = mistaken(
    "IgnoresTheIv",
    written=lambda kek, wrap, key: wrap._replace(wrapped_mk=wrap.wrap_iv + wrap.wrapped_mk),
    read=lambda kek, wrap: wrap._replace(
        wrap_iv=wrap.wrapped_mk[:32], wrapped_mk=wrap.wrapped_mk[32:]
    ),
)
ShowsTheKey = mistaken(
    "ShowsTheKey",
    written=lambda kek, wrap, key: wrap._replace(
        wrapped_mk=wrap.wrapped_mk + base64.b64encode(key).decode()
    ),
    read=cut,
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
    def bound(self, binding: Binding) -> Binding:
        if len(binding.subject.encode()) > 255:
            raise Denied("too long")
        return binding


class Remembers(Good):
    """Keeps the key in its process."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self._kept: dict[str, tuple[Binding | None, bytes]] = {}

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        wrap = await super()._wrap(binding, key)
        self._kept[wrap.wrapped_mk] = binding, key
        return wrap

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        owner, key = self._kept.get(wrap.wrapped_mk, (None, b""))
        if owner != binding:
            raise Tampered("not here")
        return key


class OneCallAtATime(Good):
    """Two calls at once mix up their keys."""

    _current = b""

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        self._current = key
        await asyncio.sleep(0.001)
        return await super()._wrap(binding, self._current)


class NeverFreesItsLock(Good):
    """A call that is cancelled keeps the only connection."""

    _busy = False

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        if self._busy:
            raise Transient("no connection is free")
        self._busy = True
        await asyncio.sleep(0.001)
        self._busy = False
        return await super()._wrap(binding, key)


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
            key = await self.unwrap(item.binding, item.wrap)
        except KekError as error:
            return error
        return await self.wrap(item.binding, key)


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
        return await self.wrap(item.binding, await self.unwrap(item.binding, item.wrap))


class TriesAnother(BackgroundRewrap):
    """Re-wraps what does not open for its own binding."""

    def other(self, binding: Binding) -> Binding:
        """Return what it tries then."""
        return binding

    async def _one(self, item: OwnedWrap) -> Rewrapped:
        for binding in (item.binding, self.other(item.binding)):
            try:
                return await self.wrap(item.binding, await self.unwrap(binding, item.wrap))
            except KekError as error:
                failed = error
        return failed


class RewrapsForAnyone(TriesAnother):
    def other(self, binding: Binding) -> Binding:
        return binding._replace(subject="alice")


class RewrapsForAnyGeneration(TriesAnother):
    def other(self, binding: Binding) -> Binding:
        return binding._replace(generation=binding.generation - 1)


class RewrapsToAnotherKey(BackgroundRewrap):
    async def _one(self, item: OwnedWrap) -> Rewrapped:
        new = await super()._one(item)
        return await self.wrap(item.binding, bytes(32)) if isinstance(new, Wrap) else new


class ExitsOnDamage(Good):
    def refused(self, wrap: Wrap, error: Tampered) -> bytes:
        raise SystemExit(1)


class Blocks(Good):
    """Waits as a library does that knows no event loop."""

    def opened(self, key: bytes) -> bytes:
        time.sleep(0.2)
        return key


class LeavesThreads(Good):
    """Starts a thread that nobody ends; ``gate`` lets them go when the test is over."""

    gate = threading.Event()

    def opened(self, key: bytes) -> bytes:
        threading.Thread(target=self.gate.wait, daemon=True).start()
        return key


class LeavesDescriptors(Good):
    """Opens what it does not close; the test does, from ``left``."""

    left: list[int] = []  # noqa: RUF012

    def opened(self, key: bytes) -> bytes:
        self.left.append(os.open(os.devnull, os.O_RDONLY))
        return key
