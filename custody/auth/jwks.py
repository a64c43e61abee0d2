"""The issuer's public keys: reading a JWKS, keeping it fresh, and where it comes from.

A JWKS (RFC 7517) is trusted because of where it is read from, so a document that looks
wrong in any way changes nothing: the keys there were stay in use up to their stated age.
"""

import asyncio
import base64
import json
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import aiohttp
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from yarl import URL

_SIZE_LIMIT = 256 * 1024  # bytes of a JWKS document
_FETCH_TIMEOUT = 5.0  # seconds for one document over HTTP, all of it
_SOURCE_TIMEOUT = 6.0  # seconds after which a stuck source of any kind gives up its turn
_RETRY_PAUSE = 1.0  # seconds between attempts while there is no usable JWKS
_REFRESH_PAUSE = 15.0  # seconds between attempts while the one there is still serves
_UNKNOWN_KIDS, _UNKNOWN_KID_WINDOW = 2, 60.0  # refreshes, seconds

_P = 2**255 - 19
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826  # a point of order 8
_LOW_ORDER_Y = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


class IssuerUnavailable(Exception):
    """No JWKS was ever had from the issuer, or the one there is is too old."""


class JwksError(Exception):
    """A JWKS could not be fetched, read or used; the message is fit for an operator and a log."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key that tokens are verified with, and the name the issuer gave it."""

    kid: str | None
    key: Ed25519PublicKey


def decode_base64url(text: str) -> bytes:
    """Decode canonical base64url without padding (RFC 7515 section 2).

    Raises:
        ValueError: another alphabet, padding, or bits set that carry nothing.
    """
    decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != text.encode():
        raise ValueError("not canonical base64url")
    return decoded


def decode_object(document: bytes) -> dict[str, object]:
    """Decode a JSON object in UTF-8 as RFC 8259 has it, without duplicate names at any depth.

    Raises:
        ValueError: anything else, NaN and Infinity and too deep a nesting included.
    """
    try:
        value = _JSON.decode(document.decode())
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one error for all malformed input
    return value


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member name")
    return members


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("not a JSON number")


_JSON = json.JSONDecoder(object_pairs_hook=_unique_members, parse_constant=_no_constant)


def parse_jwks(document: bytes) -> tuple[VerificationKey, ...]:
    """Read the Ed25519 keys for signatures out of a JWKS; keys of other kinds are skipped.

    Two keys under one kid (or two without) are both left out: which one is meant can't be told.

    Args:
        document: the JSON text, at most some hundred kilobytes.

    Raises:
        JwksError: it is not a JWKS, has a private key in it, or no usable key.

    Source: RFC 7517 sections 4 and 5, RFC 8037 section 2, RFC 9864 section 2.2.
    """
    try:
        jwks = decode_object(document).get("keys")
    except ValueError:
        raise JwksError("is not a JSON object; check that it is the issuer's JWKS") from None
    if not isinstance(jwks, list):
        raise JwksError('has no list "keys"; check that it is the issuer\'s JWKS')
    members = [jwk for jwk in jwks if isinstance(jwk, dict)]
    if any("d" in jwk for jwk in members):
        raise JwksError("publishes a private key; have the issuer replace that key now")
    keys = [key for key in map(_verification_key, members) if key is not None]
    count = Counter(key.kid for key in keys)
    usable = tuple(key for key in keys if count[key.kid] == 1)
    if not usable:
        raise JwksError(
            "has no usable Ed25519 key; have the issuer sign with EdDSA, each key with its own kid"
        )
    return usable


def _verification_key(jwk: dict[str, object]) -> VerificationKey | None:
    kid, x, key_ops = jwk.get("kid"), jwk.get("x"), jwk.get("key_ops", ["verify"])
    if (
        jwk.get("kty") != "OKP"
        or jwk.get("crv") != "Ed25519"
        or jwk.get("use", "sig") != "sig"
        or jwk.get("alg", "EdDSA") not in ("EdDSA", "Ed25519")
        or not (isinstance(key_ops, list) and "verify" in key_ops)
        or not ("kid" not in jwk or isinstance(kid, str))
        or not isinstance(x, str)
    ):
        return None
    try:
        point = decode_base64url(x)
    except ValueError:
        return None
    if len(point) != 32 or _is_weak(point):  # noqa: PLR2004 - RFC 8032 section 5.1.5
        return None
    return VerificationKey(
        kid if isinstance(kid, str) else None, Ed25519PublicKey.from_public_bytes(point)
    )


def _is_weak(point: bytes) -> bool:
    # RFC 8032 section 5.1.3 wants y < p, which OpenSSL does not check. Under a point of low
    # order anyone can sign. The sign of x is masked off: either one has the same order.
    y = int.from_bytes(point, "little") & (2**255 - 1)
    return y >= _P or y in _LOW_ORDER_Y


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

    async def key_for(self, kid: str | None) -> VerificationKey | None:
        """Return the key of that name, or None where the issuer has none such.

        A name not seen before makes the JWKS be fetched again, at most twice in any minute.

        Args:
            kid: the token's; None finds the key of a JWKS that has exactly one.

        Raises:
            IssuerUnavailable: no JWKS was ever had, or it is older than max_age.
        """
        if not self._usable():
            await self._recover()
            return self._find(kid)
        self._refresh_if_due()
        key = self._find(kid)
        if key is None and kid is not None and self._may_look_again():
            await asyncio.wait([self._refreshing()])
            key = self._find(kid)
        return key

    async def refresh(self) -> None:
        """Fetch the JWKS now.

        Raises:
            JwksError: it could not be had; the keys there were stay.
        """
        if self._task is not None:
            # Begun before this call, it may bring the document from before the operator's change.
            await asyncio.wait([self._task])
        await self._refreshed()

    def ready(self) -> bool:
        """Tell whether tokens can be verified; called on the event loop.

        Starts a refresh that is due, so a daemon that gets no requests while it is not ready
        becomes ready by itself.
        """
        self._refresh_if_due()
        return self._usable()

    async def close(self) -> None:
        """Cancel the fetch that is under way, if any; who waits for it is let go."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _find(self, kid: str | None) -> VerificationKey | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    def _usable(self) -> bool:
        return bool(self._keys) and self._clock() - self._fetched_at <= self._max_age

    def _busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def _may_try(self) -> bool:
        pause = min(_REFRESH_PAUSE, self._refresh_interval) if self._usable() else _RETRY_PAUSE
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
        began = self._clock()
        try:
            keys = await self._fetched_keys()
        except JwksError as error:
            structlog.get_logger().warning(
                "jwks_refresh_failed", source=self._source, error=str(error)
            )
            return str(error)
        else:
            self._keys = {key.kid: key for key in keys}
            self._fetched_at = began
            return None
        finally:
            self._tried_at = self._clock()

    async def _fetched_keys(self) -> tuple[VerificationKey, ...]:
        try:
            async with asyncio.timeout(_SOURCE_TIMEOUT):
                document = await self._fetch()
        except JwksError:
            raise
        except Exception as error:
            raise JwksError(f"JWKS {self._source}: {type(error).__name__}") from error
        try:
            return parse_jwks(document)
        except JwksError as error:
            raise JwksError(f"JWKS {self._source} {error}") from None


def http_source(session: aiohttp.ClientSession, url: str) -> Callable[[], Awaitable[bytes]]:
    """Make a source that gets the JWKS over HTTP: no redirects, 5 s and 256 KiB at most.

    Args:
        session: with TLS verification as aiohttp has it by default; closed by its owner.
        url: absolute; a user name, password or query in it stays out of messages.

    Raises:
        JwksError: by the source, whatever goes wrong.
        ValueError: the URL is not absolute.

    Source: RFC 8725 section 3.10: never follow where a document points.
    """
    target = URL(url)
    name = f"JWKS {target.with_user(None).with_query(None)}"

    async def fetch() -> bytes:
        try:
            return await _download(session, target, name)
        except JwksError:
            raise
        except aiohttp.ClientConnectorError as error:
            raise JwksError(f"{name}: {error}; check that the issuer is up") from error
        except Exception as error:
            # Only the type: an aiohttp parser error quotes what the server sent.
            reason = type(error).__name__
            raise JwksError(f"{name}: {reason}; check CUSTODY_JWKS_URL and the issuer") from error

    return fetch


async def _download(session: aiohttp.ClientSession, target: URL, name: str) -> bytes:
    async with session.get(
        target,
        allow_redirects=False,
        timeout=aiohttp.ClientTimeout(total=_FETCH_TIMEOUT),
        headers={"Accept": "application/jwk-set+json, application/json"},
    ) as response:
        if response.status != 200:  # noqa: PLR2004
            raise JwksError(
                f"{name} answered {response.status} instead of 200"
                " (redirects are not followed); check CUSTODY_JWKS_URL"
            )
        document = bytearray()
        async for chunk in response.content.iter_chunked(16384):
            document += chunk
            if len(document) > _SIZE_LIMIT:
                raise JwksError(f"{name} is over 256 KiB; check CUSTODY_JWKS_URL")
        return bytes(document)


def file_source(path: Path) -> Callable[[], Awaitable[bytes]]:
    """Make a source that reads the JWKS from a file, anew each time, 256 KiB at most.

    Raises:
        JwksError: by the source, whatever goes wrong.
    """

    async def fetch() -> bytes:
        return await asyncio.to_thread(_read, path)

    return fetch


def _read(path: Path) -> bytes:
    try:
        # A named pipe would block the thread for ever.
        if path.exists() and not path.is_file():
            raise JwksError(f"JWKS {path} is not a file; check CUSTODY_JWKS_FILE")
        with path.open("rb") as file:
            document = file.read(_SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = type(error).__name__
        raise JwksError(f"JWKS {path}: {reason}; check CUSTODY_JWKS_FILE and its mode") from error
    if len(document) > _SIZE_LIMIT:
        raise JwksError(f"JWKS {path} is over 256 KiB; check CUSTODY_JWKS_FILE")
    return document
