"""A backend of a third party, at arm's length: the daemon's own loop never runs a line of it.

Its class is imported, built and asked in a thread of its own. What it says of itself in properties
is read there after each call, and kept. Our own backends are used as they are.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Self, TypeVar

from kek_backends.base import KekBackend, OwnedWrap, Rewrapped, Wrap
from kek_backends.binding import Binding
from kek_backends.breaker import Breaker
from kek_backends.errors import KekError, Misconfigured, Transient
from kek_backends.findings import Finding
from kek_backends.own_loop import OwnLoop
from kek_backends.uri import KekUri

# As those of our own; a batch has many calls in it.
CALL_SECONDS = 4.5
_LONG_SECONDS = 10.0
_BATCH_SECONDS = 60.0
_LOAD_SECONDS = 10.0
# What the daemon's loop waits for a word that it can't await.
_WORD_SECONDS = 0.25
_MOST_WORDS = 1024
_OUTCOMES = {"ok", "unavailable", "refused", "not-asked", "cancelled"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Said:
    """What a backend says of itself."""

    kek_id: str | None = None
    problem: str | None = None
    is_not_asked: bool = False
    plain_address: str | None = None
    concurrency: int = 1
    refresh_seconds: float = 30.0

    @classmethod
    def by(cls, kek: KekBackend) -> Self:
        """Ask it. Runs in its thread."""
        return cls(
            kek.kek_id,
            kek.problem,
            bool(kek.is_not_asked),
            kek.plain_address,
            max(1, int(kek.concurrency)),
            float(kek.refresh_seconds),
        )


class ForeignKek(KekBackend):
    """A backend that is not ours. It is made by :meth:`built`.

    Args:
        uri: of it.
        loop: where it lives.
        kek: the backend itself.
        said: what it said of itself when it was built.
    """

    def __init__(self, uri: KekUri, loop: OwnLoop, kek: KekBackend, said: _Said) -> None:
        self._uri = uri
        self._loop = loop
        self._kek = kek
        self._said = said
        self._breaker = Breaker()
        self._late: str | None = None
        # Answers to questions that can't be awaited: good until a call may have changed them, and
        # the last ones, for when it does not answer.
        self._words: dict[tuple[object, ...], Any] = {}
        self._last_words: dict[tuple[object, ...], Any] = {}

    @classmethod
    def built(cls, uri: KekUri, make: Callable[[], KekBackend]) -> Self:
        """Import and build a backend in a thread of its own.

        Args:
            uri: of it.
            make: imports and builds it.

        Raises:
            ImportError, KekError: of it.
        """
        loop = OwnLoop(uri.text)

        def build() -> tuple[KekBackend, _Said]:
            kek = make()
            return kek, _Said.by(kek)

        try:
            kek, said = loop.call_now(build, "loading", _LOAD_SECONDS)
        except Transient as error:
            loop.close()
            failed = str(error)
        except BaseException:
            loop.close()
            raise
        else:
            return cls(uri, loop, kek, said)
        # Whatever it raised: nothing of it but its type is known here.
        raise Misconfigured(f"KEK {failed}")

    @classmethod
    def from_uri(cls, *_: object, **__: object) -> NoReturn:
        """Be no backend of an entry point; see :meth:`built`."""
        raise NotImplementedError

    @property
    def uri(self) -> KekUri:
        """The URI it was built from."""
        return self._uri

    @property
    def kek_id(self) -> str | None:
        """The stamp of new wraps, as last said."""
        return self._said.kek_id

    @property
    def problem(self) -> str | None:
        """Why it can't be used: that it does not answer, or what it last said."""
        return self._late or self._said.problem

    @property
    def is_not_asked(self) -> bool:
        """Whether its breaker is open, or ours."""
        return self._breaker.is_open or self._said.is_not_asked

    @property
    def plain_address(self) -> str | None:
        """Where its KMS is asked in clear, as last said."""
        return self._said.plain_address

    @property
    def concurrency(self) -> int:
        """How many calls at once are of use, as last said."""
        return self._said.concurrency

    @property
    def refresh_seconds(self) -> float:
        """How long a refresh is good for, as last said."""
        return self._said.refresh_seconds

    def fingerprint(self, kek_id: str) -> str | None:
        """Ask for a fingerprint; see :meth:`KekBackend.fingerprint`.

        Raises:
            Transient: it has never answered this.
        """
        return self._word("fingerprint", kek_id)  # type: ignore[no-any-return]

    def holds(self, kek_id: str) -> bool:
        """Ask whether it holds a kek_id; one that does not answer holds its own."""
        if kek_id == self._said.kek_id:
            return True
        with contextlib.suppress(Transient):
            return bool(self._word("holds", kek_id))
        return False

    def refusal(self, kek_id: str) -> str | None:
        """Ask why wraps of a kek_id can't be unwrapped now."""
        with contextlib.suppress(Transient):
            return self._word("refusal", kek_id)  # type: ignore[no-any-return]
        return self._late

    def can_rewrap_from(self, source: KekBackend) -> bool:
        """Ask whether its KMS can re-wrap what another one wrapped."""
        real = source._kek if isinstance(source, ForeignKek) else source  # noqa: SLF001 - of this class
        with contextlib.suppress(Transient):
            return bool(self._word("can_rewrap_from", real))
        return False

    def trust(self, kek_ids: frozenset[str]) -> None:
        """Tell it which kek_ids are on record."""
        self._words.clear()
        self._loop.tell(lambda: self._kek.trust(kek_ids))

    def observe(self, called: Callable[[str, float], None]) -> None:
        """Have its calls reported, in the loop of this one."""
        loop = asyncio.get_running_loop()

        def report(outcome: str, seconds: float) -> None:
            # They become labels: nothing else may.
            if outcome in _OUTCOMES:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(called, outcome, float(seconds))

        self._loop.tell(lambda: self._kek.observe(report))

    async def refresh(self) -> None:
        """Have it learn what its KMS says; the breaker is not asked."""
        await self._ask(self._kek.refresh, "refreshing", CALL_SECONDS, changes=True, trial=True)

    async def prove(self) -> None:
        """Have it prove its binding."""
        await self._ask(self._kek.prove, "proving", _LONG_SECONDS, changes=True, trial=True)

    async def examine(self, *, active: bool) -> list[Finding]:
        """Have it look for what is wrong or risky."""

        async def examine() -> list[Finding]:
            return [one for one in await self._kek.examine(active=active) if type(one) is Finding]

        return await self._ask(examine, "examining", _LONG_SECONDS, changes=True, trial=True)

    async def close(self) -> None:
        """Close it, and end its thread."""
        with contextlib.suppress(KekError):
            await self._loop.call(self._kek.close, "closing", CALL_SECONDS)
        self._loop.close()

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        work = partial(self._kek.wrap, binding, key)
        return await self._ask(work, "wrapping", CALL_SECONDS, changes=True)

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        work = partial(self._kek.unwrap, binding, wrap)
        return await self._ask(work, "unwrapping", CALL_SECONDS)

    async def _rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        work = partial(self._kek.rewrap, items)
        return await self._ask(work, "re-wrapping", _BATCH_SECONDS, changes=True)

    async def _ask(
        self,
        work: Callable[[], Awaitable[T]],
        doing: str,
        seconds: float,
        *,
        changes: bool = False,
        trial: bool = False,
    ) -> T:
        """Have one thing done there, and listen to what it says of itself afterwards.

        Args:
            work: makes the coroutine.
            doing: for messages.
            seconds: how long it may take.
            changes: whether it may answer otherwise from then on.
            trial: whether it shows if the backend is back: then the breaker is not asked.
        """

        async def and_listen() -> T:
            try:
                return await work()
            finally:
                self._said = _Said.by(self._kek)

        if not trial and not self._breaker.admits():
            raise Transient(f"{self._uri.text}: not asked: it has not answered ({self._late})")
        try:
            result = await self._loop.call(and_listen, doing, seconds)
        except Transient as error:
            self._late = str(error)
            self._breaker.failed()
            raise
        except KekError:
            self._answered()
            raise
        finally:
            if changes:
                self._words.clear()
        self._answered()
        return result

    def _answered(self) -> None:
        self._late = None
        self._breaker.succeeded()

    def _word(self, method: str, argument: object) -> Any:
        """Ask what can't be awaited, and wait a moment at most.

        Raises:
            Transient: it does not answer, and never has.
        """
        key = (method, argument)
        if key in self._words:
            return self._words[key]
        try:
            if self._breaker.is_open:
                raise Transient(f"{self._uri.text}: not asked: it has not answered ({self._late})")
            ask = partial(getattr(self._kek, method), argument)
            word = self._loop.call_now(ask, f"asking {method}", _WORD_SECONDS)
        except KekError as error:
            if isinstance(error, Transient):
                self._breaker.failed()
                self._late = str(error)
            if key not in self._last_words:
                raise Transient(str(error)) from None
            return self._last_words[key]
        for known in (self._words, self._last_words):
            if len(known) >= _MOST_WORDS:
                known.clear()
            known[key] = word
        return word
