"""What all remote KMS share: the state of a key as its calls show it, and the proof of its binding.

An SDK blocks, so its calls run in threads; see :mod:`kek_backends.calls`.
"""

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from kek_backends.base import KekBackend, OwnedWrap, Rewrapped, Wrap
from kek_backends.binding import Binding
from kek_backends.calls import ATTEMPT_SECONDS, CALL_SECONDS, CONCURRENT_CALLS, KmsCalls
from kek_backends.errors import KekError, Tampered, Transient, VersionRetired
from kek_backends.proof import prove_binding
from kek_backends.uri import KekUri

__all__ = ["ATTEMPT_SECONDS", "CALL_SECONDS", "CONCURRENT_CALLS", "RemoteKek"]

# How long a failed unwrap is retried when nobody asks for it again.
_FORGET_SECONDS = 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FailedUnwrap:
    """An unwrap that failed, and not because of its row: retried at each refresh.

    Args:
        binding: what it was to open for.
        wrap: the row's columns.
        reason: of the last failure.
        since: when a user's call failed last, as ``loop.time()`` counts.
    """

    binding: Binding
    wrap: Wrap
    reason: str
    since: float


class RemoteKek(KekBackend):
    """A KEK that never leaves its KMS.

    An implementation overrides the blocking methods ``_ask``, ``_encrypt``, ``_decrypt`` and
    ``_translate``; they run in threads of this KEK, each call within the seconds it is given.

    Args:
        uri: which key.
    """

    def __init__(self, uri: KekUri) -> None:
        self._uri = uri
        self._calls = KmsCalls(uri, self._translate)
        # With the fingerprint they had: the same kek_id of another key is proven anew.
        self._proven: set[tuple[str, str | None]] = set()
        self._proving = asyncio.Lock()
        self._status_problem: str | None = "not reached yet"
        self._wrap_problem: str | None = None
        # By kek_id: an alias, or a key with versions, may be well under one and not under another.
        self._failed_unwraps: dict[str, FailedUnwrap] = {}
        # Whether this KEK is one that wraps.
        self._wraps = False
        # Whether what refresh learnt is likely to be out of date.
        self._doubtful = False

    @property
    def uri(self) -> KekUri:
        """The URI this backend was built from."""
        return self._uri

    @property
    def problem(self) -> str | None:
        """Why this KEK can't be used, by its last calls."""
        unwraps = next((one.reason for one in self._failed_unwraps.values()), None)
        return self._status_problem or unwraps or self._wrap_problem

    @property
    def is_not_asked(self) -> bool:
        """Whether the breaker is open."""
        return self._calls.is_suspended

    def observe(self, called: Callable[[str, float], None]) -> None:
        """Report each call from now on; see :meth:`KekBackend.observe`."""
        self._calls.called = called

    @property
    def concurrency(self) -> int:
        """A quarter of the turns: a re-wrap has two batches at once, users keep the other half."""
        return CONCURRENT_CALLS // 4

    @property
    def refresh_seconds(self) -> float:
        """Half a minute; nothing once a row has shown that the key was changed."""
        return 0.0 if self._doubtful else super().refresh_seconds

    async def refresh(self) -> None:
        """Ask the KMS for the state of the key, and try again what it refused before.

        The breaker is not asked, and is closed when the KMS is back.
        """
        self._doubtful = False
        try:
            await self._calls.within_deadline(lambda: self._calls.run(self._ask))
        except KekError as error:
            self._status_problem = str(error)
            raise
        self._status_problem = None
        now = asyncio.get_running_loop().time()
        # Whether it fails again is in ``problem`` then.
        for kek_id, one in list(self._failed_unwraps.items()):
            if now - one.since > _FORGET_SECONDS:
                # Nobody has asked for it since; the row may be gone.
                del self._failed_unwraps[kek_id]
                continue
            with contextlib.suppress(KekError):
                await self._try_again(one)
        if self._wrap_problem is not None or (self._wraps and not self._is_proven(self.kek_id)):
            with contextlib.suppress(KekError):
                await self._prove_now(trial=True)
        if self.problem is None:
            # Only now: a KMS that says how its key is may still hang when it shall use it.
            self._calls.close_breaker()

    async def prove(self) -> None:
        """Prove the binding of what is wrapped now; see :meth:`KekBackend.prove`."""
        self._wraps = True
        self._proven.clear()
        await self._prove_now()

    async def close(self) -> None:
        """Give the threads back."""
        self._calls.close()

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        self._wraps = True
        try:
            wrap = await self._calls.persist(lambda: self._wrap_once(binding, key))
            await self._see_proven(wrap.kek_id)
        except KekError as error:
            self._wrap_problem = str(error)
            raise
        except asyncio.CancelledError:
            # Its caller's time is over. The next refresh proves it, with time enough.
            self._wrap_problem = f"{self._uri.text}: no answer within the time of a request"
            raise
        self._wrap_problem = None
        return wrap

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        return await self._unwrapped(binding, wrap)

    async def _unwrapped(self, binding: Binding, wrap: Wrap, *, trial: bool = False) -> bytes:
        try:
            key = await self._calls.persist(lambda: self._unwrap_once(binding, wrap), trial=trial)
        except (Tampered, VersionRetired) as error:
            # Of this row, not of the KMS; but the key may have been changed.
            self._failed_unwraps.pop(wrap.kek_id, None)
            self._doubtful = self._doubtful or isinstance(error, VersionRetired)
            raise
        except KekError as error:
            now = asyncio.get_running_loop().time()
            self._failed_unwraps[wrap.kek_id] = FailedUnwrap(binding, wrap, str(error), now)
            raise
        self._failed_unwraps.pop(wrap.kek_id, None)
        return key

    async def _try_again(self, one: "FailedUnwrap") -> None:
        """Try an unwrap that failed, so that its cure is noticed without a user's help."""
        try:
            await self._unwrapped(one.binding, one.wrap, trial=True)
        except KekError as error:
            if one.wrap.kek_id in self._failed_unwraps:
                self._failed_unwraps[one.wrap.kek_id] = replace(one, reason=str(error))
            raise

    def _is_proven(self, kek_id: str | None) -> bool:
        return kek_id is not None and (kek_id, self.fingerprint(kek_id)) in self._proven

    async def _see_proven(self, kek_id: str) -> None:
        """Prove key material that this process has not seen wrap yet, or refuse what it wrapped.

        Nothing is kept that could open for another binding.
        """
        if not self._is_proven(kek_id):
            await self._prove_now(kek_id)
            if not self._is_proven(kek_id):
                raise Transient(f"{self._uri.text}: the key changes at this moment")

    async def _prove_now(self, kek_id: str | None = None, *, trial: bool = False) -> None:
        async def wrap(binding: Binding, key: bytes) -> Wrap:
            return await self._calls.persist(lambda: self._wrap_once(binding, key), trial=trial)

        async def unwrap(binding: Binding, made: Wrap) -> bytes:
            return await self._calls.persist(lambda: self._unwrap_once(binding, made), trial=trial)

        async with self._proving:
            if self._is_proven(kek_id or self.kek_id) and self._wrap_problem is None:
                return
            try:
                proven = await prove_binding(self._uri, wrap, unwrap)
            except KekError as error:
                self._wrap_problem = str(error)
                raise
            self._proven.add((proven, self.fingerprint(proven)))
            self._wrap_problem = None

    async def _rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        if not self._is_proven(self.kek_id):
            await self._prove_now()
        done = await self._reencrypt(items)
        for kek_id in {wrap.kek_id for wrap in done if isinstance(wrap, Wrap)}:
            await self._see_proven(kek_id)
        return done

    async def ask_in_thread(self, work: Callable[[], T]) -> T:
        """Run one blocking call of the diagnostics, past the breaker.

        Raises:
            KekError: as every call.
        """
        return await self._calls.within_deadline(lambda: self._calls.run(work))

    @abstractmethod
    def _ask(self) -> None:
        """Learn the state of the key, without a cryptographic call. Blocks."""

    @abstractmethod
    def _encrypt(self, binding: Binding, key: bytes) -> Wrap:
        """Wrap in the KMS, stamped as the KMS answers. Blocks."""

    @abstractmethod
    def _decrypt(self, binding: Binding, wrap: Wrap) -> bytes:
        """Unwrap in the KMS. Blocks."""

    async def _reencrypt(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        """Re-wrap in the KMS."""
        raise NotImplementedError

    @abstractmethod
    def _translate(self, error: Exception) -> KekError:
        """Return our error for one of the SDK's, with nothing of its text that could be secret."""

    async def _wrap_once(self, binding: Binding, key: bytes) -> Wrap:
        """Try once to wrap; a KMS that can answers several of these with one call."""
        return await self._calls.in_turn(lambda: self._encrypt(binding, key))

    async def _unwrap_once(self, binding: Binding, wrap: Wrap) -> bytes:
        """Try once to unwrap; see :meth:`_wrap_once`."""
        return await self._calls.in_turn(lambda: self._decrypt(binding, wrap))

    async def _call(self, work: Callable[[], T]) -> T:
        """Run blocking work in a thread, within the deadline of a call and with its retries."""
        return await self._calls.persist(lambda: self._calls.in_turn(work))
