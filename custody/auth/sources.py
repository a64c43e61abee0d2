"""Where a JWKS document comes from: a URL or a file, bounded in size and time."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import TypeAlias

import aiohttp
from yarl import URL

from custody.auth.jwk import JwksError

# What gets a document, and its name in messages.
Source: TypeAlias = tuple[Callable[[], Awaitable[bytes]], str]

_SIZE_LIMIT = 256 * 1024  # bytes of a JWKS document
_FETCH_TIMEOUT = 5.0  # seconds for one document over HTTP, all of it


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
        if response.status != HTTPStatus.OK:
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
