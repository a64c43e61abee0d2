"""Backends as a third party would write them: subclasses of the real interface."""

import asyncio
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Self

from kek_backends.base import KekBackend, OwnedWrap, Rewrapped, Wrap
from kek_backends.binding import Binding
from kek_backends.env import EnvKek
from kek_backends.errors import Denied, KekError, Tampered, Transient
from kek_backends.remote import RemoteKek
from kek_backends.uri import KekUri
from tests.bindings import of

# What a call does in its thread, before it does what it should.
Fault = Callable[[], object]


class SdkError(Exception):
    """An SDK's exception: its text holds what was decrypted, as hvac's does."""


class SdkBusy(SdkError):
    """The kind that a second try may cure."""


@dataclass(eq=False)
class FakeKms(KekBackend):
    """A KMS in this process. ``master_key`` is what it unwraps to; ``error`` is what it raises.

    ``kek_id`` may be None, as of a KMS that was not asked yet; ``also_holds`` are kek_ids that it
    opens beside its own, as an alias does; ``takes`` are the URIs of the KEKs that it takes over.
    """

    kek_id: str | None = "fake-v1"
    _: KW_ONLY
    master_key: bytes = b"k" * 32
    error: BaseException | None = None
    text: str = "fake:key"
    also_holds: Sequence[str] = ()
    takes: Sequence[str] = ()
    rewrapped: Sequence[Rewrapped] | None = None
    calls: list[str] = field(default_factory=list)

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:
        return cls(uri.kek_id or f"fake-{uri.path}", text=uri.text)

    @property
    def uri(self) -> KekUri:
        return KekUri.parse(self.text)

    def fingerprint(self, kek_id: str) -> str | None:
        return None

    def holds(self, kek_id: str) -> bool:
        return super().holds(kek_id) or kek_id in self.also_holds

    def can_rewrap_from(self, source: KekBackend) -> bool:
        return source.uri.text in self.takes

    async def close(self) -> None:
        self._done("close")

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        self._done(f"wrap {binding.subject}")
        return Wrap("opaque", "", 3, self.kek_id or "fake-late")

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        self._done(f"unwrap {binding.subject}")
        return self.master_key

    async def _rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        self._done(f"rewrap {' '.join(item.binding.subject for item in items)}")
        if self.rewrapped is not None:
            return list(self.rewrapped)
        return [
            Wrap(f"rewrapped {item.binding.subject}", "", 3, self.kek_id or "") for item in items
        ]

    def _done(self, call: str) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error


class FakeRemote(RemoteKek):
    """A KMS with threads. Versions are stamped ``fake:v1``, ``fake:v2``…

    The test sets ``version`` (what the KMS wraps with now) and ``faults``: one is taken from the
    front for each call of its kind ("ask", "encrypt", "decrypt") and called in the thread, so
    that it can wait or raise. ``always`` is called when there is none.
    """

    def __init__(self, *, ignores_user: bool = False) -> None:
        super().__init__(KekUri.parse("fake:remote"))
        self.version = 1
        self.calls: list[str] = []
        self.faults: dict[str, list[Fault]] = {"ask": [], "encrypt": [], "decrypt": []}
        self.always: Fault = lambda: None
        self.running = 0
        self.most_running = 0
        self._ignores_user = ignores_user
        self._seen: int | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:
        return cls()

    @property
    def kek_id(self) -> str | None:
        return None if self._seen is None else f"fake:v{self._seen}"

    def holds(self, kek_id: str) -> bool:
        return re.fullmatch(r"fake:v\d+", kek_id) is not None

    def fingerprint(self, kek_id: str) -> None:
        return None

    async def some_wrap(self) -> Wrap:
        """Return a wrap for alice, and count calls from here."""
        wrap = await self.wrap(of("alice"), b"k" * 32)
        self.calls.clear()
        return wrap

    def _ask(self) -> None:
        self._meet("ask")
        self._seen = self.version

    def _encrypt(self, binding: Binding, key: bytes) -> Wrap:
        self._meet("encrypt")
        return asyncio.run(self._inside._wrap(self._bound_to(binding), key))

    def _decrypt(self, binding: Binding, wrap: Wrap) -> bytes:
        self._meet("decrypt")
        return asyncio.run(self._inside._unwrap(self._bound_to(binding), wrap))

    def _translate(self, error: Exception) -> KekError:
        kind = Transient if isinstance(error, SdkBusy) else Denied
        return kind(f"{self.uri.text}: {type(error).__name__}")

    @property
    def _inside(self) -> EnvKek:
        kek_id = f"fake:v{self.version}"
        return EnvKek(uri=self.uri, kek_id=kek_id, key=bytes(range(32)), development=False)

    def _bound_to(self, binding: Binding) -> Binding:
        return binding._replace(subject="") if self._ignores_user else binding

    def _meet(self, kind: str) -> None:
        with self._lock:
            self.calls.append(kind)
            self.running += 1
            self.most_running = max(self.running, self.most_running)
            fault = self.faults[kind].pop(0) if self.faults[kind] else self.always
        try:
            fault()
        finally:
            with self._lock:
                self.running -= 1


def raising(error: BaseException) -> Fault:
    """Return a fault that raises a new copy of an error each time."""

    def fault() -> None:
        try:
            raise ValueError("the-plaintext-of-another-user")
        except ValueError as cause:
            raise type(error)(*error.args) from cause

    return fault


def tampered() -> None:
    """Be a fault: the KMS says that the ciphertext is not for this user."""
    raise Tampered("fake:remote: no")
