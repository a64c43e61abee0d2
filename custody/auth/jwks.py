"""Keeps the issuer's public keys fresh.

A JWKS (RFC 7517) is trusted because of where it is read from, so a document that looks
wrong in any way changes nothing: the keys there were stay in use up to their stated age.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

import structlog

from custody.auth.jwk import (
    NO_KEY,
    JwksError,
    VerificationKey,
    doubled_kids,
    find_key,
    parse_jwks,
)

log = structlog.get_logger()

_SOURCE_TIMEOUT = 6.0  # seconds after which a stuck source of any kind gives up its turn
_RETRY_PAUSE = 1.0  # seconds between attempts while there is no usable JWKS
_REFRESH_PAUSE = 15.0  # seconds between attempts while the one there is still serves
_UNKNOWN_KIDS, _UNKNOWN_KID_WINDOW = 2, 60.0  # refreshes, seconds
# Requests that wait for one refresh; honest ones, after a new key, are far fewer.
MAX_WAITERS = 64


class IssuerUnavailable(Exception):
    """No JWKS was ever had from the issuer, or the one there is is too old."""


class JwksCache:
    """The issuer's keys, kept fresh in the background; one fetch at a time whoever asks.

    Args:
        fetch: gets the document; its failures keep the keys there were.
        source: its name in messages, a URL or path.
        refresh_interval: seconds after which a JWKS is fetched anew.
        max_age: seconds after which one that could not be renewed is no longer used.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        fetch: Callable[[], Awaitable[bytes]],
        source: str,
        refresh_interval: float = 300,
        max_age: float = 86400,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._source = source
        self._refresh_interval = refresh_interval
        self._max_age = max_age
        self._clock = clock
        self._keys: dict[str | None, VerificationKey] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._looks: deque[float] = deque(maxlen=_UNKNOWN_KIDS)
        self._task: asyncio.Task[str | None] | None = None
        self._waiters = 0

    async def key_for(self, kid: str | None) -> VerificationKey | None:
        """Return the key of that name, or None where the issuer has none such.

        A name not seen before makes the JWKS be fetched again, at most twice in any minute.

        Args:
            kid: the token's; None finds the key of a JWKS that has exactly one.

        Raises:
            IssuerUnavailable: no JWKS was ever had, or it is older than max_age; or too many wait
                for it already.
        """
        if not self.is_current():
            with self._waiting():
                await self._recover()
            return self._find(kid)
        key = self.known_key(kid)
        if key is None and kid is not None and self._may_look_again():
            with self._waiting():
                await asyncio.wait([self._refreshing()])
            key = self._find(kid)
        return key

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Wait for a refresh in the block; made-up names of keys can not fill the daemon."""
        if self._waiters >= MAX_WAITERS:
            raise IssuerUnavailable(f"too many wait for the JWKS from {self._source}")
        self._waiters += 1
        try:
            yield
        finally:
            self._waiters -= 1

    def known_key(self, kid: str | None) -> VerificationKey | None:
        """Return the key of that name if it is at hand now; begins a refresh that is due.

        Args:
            kid: as for :meth:`key_for`, which waits for what is not at hand.
        """
        age = self._clock() - self._fetched_at
        if age > self._max_age:
            return None
        if age > self._refresh_interval:
            self._refresh_if_due()
        return self._find(kid)

    async def refresh(self) -> None:
        """Fetch the JWKS now.

        Raises:
            JwksError: it could not be had; the keys there were stay.
        """
        if self._task is not None:
            # Begun before this call, it may bring the document from before the operator's change.
            await asyncio.wait([self._task])
        await self._refreshed()

    async def read_from(
        self, fetch: Callable[[], Awaitable[bytes]], source: str
    ) -> Callable[[], None]:
        """Fetch the JWKS from a place that may be another one, and change nothing yet.

        Args:
            fetch: gets the document.
            source: its name in messages.

        Returns:
            What puts the place and its keys in force.

        Raises:
            JwksError: it could not be had from there; or there is no key at a new place, which is
                a mistake: the one that is in use may have withdrawn its keys.
        """
        began = self._clock()
        keys = await keys_from(fetch, source)
        if not keys and source != self._source:
            raise JwksError(f"JWKS {source} {NO_KEY}")

        def put_in_force() -> None:
            self._fetch, self._source = fetch, source
            self._take(keys, began)

        return put_in_force

    @property
    def keys(self) -> Mapping[str | None, VerificationKey]:
        """The keys of the JWKS that was had last, by name; there may be none."""
        return self._keys

    @property
    def age(self) -> float | None:
        """How many seconds ago the JWKS in use was fetched; None where none was ever had."""
        age = self._clock() - self._fetched_at
        return age if math.isfinite(age) else None

    @property
    def problem(self) -> str | None:
        """Why no token can be verified now, or None; read on the event loop.

        Starts a refresh that is due, so a daemon that gets no requests while it is not ready
        becomes ready by itself.
        """
        self._refresh_if_due()
        if not self.is_current():
            return "no current JWKS: is the issuer up?"
        return None if self._keys else f"the JWKS {NO_KEY}"

    async def close(self) -> None:
        """Cancel the fetch that is under way, if any; who waits for it is let go."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _find(self, kid: str | None) -> VerificationKey | None:
        return find_key(self._keys, kid)

    def is_current(self) -> bool:
        """Say whether a JWKS was had, and is not too old; it may be one without a key."""
        return (age := self.age) is not None and age <= self._max_age

    def _busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def _may_try(self) -> bool:
        pause = min(_REFRESH_PAUSE, self._refresh_interval) if self.is_current() else _RETRY_PAUSE
        return self._clock() - self._tried_at >= pause

    def _may_look_again(self) -> bool:
        if self._busy():
            return True
        now, looks = self._clock(), self._looks
        if len(looks) == _UNKNOWN_KIDS and now - looks[0] < _UNKNOWN_KID_WINDOW:
            return False
        looks.append(now)
        return True

    def _refresh_if_due(self) -> None:
        if self._clock() - self._fetched_at > self._refresh_interval and self._may_try():
            self._refreshing()

    async def _recover(self) -> None:
        if not self._busy() and not self._may_try():
            raise IssuerUnavailable(f"no usable JWKS from {self._source}")
        try:
            await self._refreshed()
        except JwksError as error:
            raise IssuerUnavailable(str(error)) from error

    async def _refreshed(self) -> None:
        task = self._refreshing()
        # Unlike `await task`, a cancelled wait leaves the fetch to the others who wait for it.
        await asyncio.wait([task])
        problem = "cancelled: the daemon is stopping" if task.cancelled() else task.result()
        if problem is not None:
            raise JwksError(problem)

    def _refreshing(self) -> asyncio.Task[str | None]:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="jwks-refresh")
        return self._task

    async def _run(self) -> str | None:
        """Fetch once and return the problem there was: a task nobody awaits must not raise."""
        began, fetch, source = self._clock(), self._fetch, self._source
        try:
            keys = await keys_from(fetch, source)
        except JwksError as error:
            log.warning("jwks_refresh_failed", source=source, error=str(error))
            return str(error)
        else:
            # Meanwhile another place may have been put in force.
            if fetch is self._fetch:
                self._take(keys, began)
            return None
        finally:
            self._tried_at = self._clock()

    def _take(self, keys: tuple[VerificationKey, ...], fetched_at: float) -> None:
        if not keys:
            # Believed: to withdraw a key that was stolen, an issuer takes it out of its set.
            log.warning("jwks_without_key", source=self._source, cure=f"the set {NO_KEY}")
        self._keys = {key.kid: key for key in keys}
        self._fetched_at = fetched_at


async def keys_from(
    fetch: Callable[[], Awaitable[bytes]], source: str
) -> tuple[VerificationKey, ...]:
    """Get a JWKS, and read its keys; see the two functions below."""
    document = await document_from(fetch, source)
    keys = keys_of(document, source)
    if doubled := doubled_kids(document):
        log.warning("jwks_kids_doubled", source=source, kids=doubled)
    return keys


async def document_from(fetch: Callable[[], Awaitable[bytes]], source: str) -> bytes:
    """Get a JWKS.

    Args:
        fetch: gets the document.
        source: its name in messages.

    Raises:
        JwksError: it could not be had.
    """
    try:
        async with asyncio.timeout(_SOURCE_TIMEOUT):
            return await fetch()
    except JwksError:
        raise
    except Exception as error:
        raise JwksError(f"JWKS {source}: {type(error).__name__}") from error


def keys_of(document: bytes, source: str) -> tuple[VerificationKey, ...]:
    """Read the keys of a JWKS.

    Args:
        document: as it came.
        source: its name in messages.

    Raises:
        JwksError: it is none.
    """
    try:
        return parse_jwks(document)
    except JwksError as error:
        raise JwksError(f"JWKS {source} {error}") from None
