"""A JWKS document over HTTP, bounded in size and time.

Apart from the other source: who reads a file needs no HTTP client, which takes long to import.
"""

import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import aiohttp
from yarl import URL

from custody.auth.jwk import JwksError
from custody.auth.sources import SIZE_LIMIT

_CA = "have the issuer use one of a CA that this system knows"
_OF_TIME = {"Date", "Age"}
_FETCH_TIMEOUT = 5.0  # seconds for one document, all of it


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
    target, name = URL(url), f"JWKS {name_of(url)}"

    async def fetch() -> bytes:
        try:
            return await _download(session, target, name)
        except JwksError:
            raise
        except aiohttp.ClientConnectorCertificateError as error:
            raise JwksError(f"{name}: the certificate is not trusted; {_CA}") from error
        except aiohttp.ClientConnectorError as error:
            raise JwksError(f"{name}: {target.host}: {_cause(error)}") from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientResponseError) as error:
            # What a port that speaks TLS answers to plain HTTP, too.
            raise JwksError(
                f"{name}: no answer in HTTP came; check that the issuer is up, and whether "
                "CUSTODY_JWKS_URL is http: or https:"
            ) from error
        except Exception as error:
            # Only the type: an aiohttp parser error quotes what the server sent.
            reason = type(error).__name__
            raise JwksError(f"{name}: {reason}; check CUSTODY_JWKS_URL and the issuer") from error

    return fetch


def name_of(url: str) -> str:
    """Return what may be shown of a URL: no user, no password, no query."""
    return str(URL(url).with_user(None).with_query(None))


async def fetch_once(url: str, headers: dict[str, str]) -> bytes:
    """Get the JWKS over HTTP, on a connection of its own; see :func:`http_source`.

    Args:
        url: as there.
        headers: gets ``Date`` and ``Age`` of the answer, whatever its status.
    """

    async def note(_session: object, _context: object, seen: aiohttp.TraceRequestEndParams) -> None:
        headers.update({name: seen.response.headers[name] for name in _OF_TIME & _names(seen)})

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(note)
    async with aiohttp.ClientSession(trace_configs=[trace]) as session:
        return await http_source(session, url)()


def _names(seen: aiohttp.TraceRequestEndParams) -> set[str]:
    return {name.title() for name in seen.response.headers}


def _cause(error: aiohttp.ClientConnectorError) -> str:
    """Say in the system's words why there is no connection, and what to check."""
    reason = error.os_error
    if isinstance(reason, ssl.SSLError) or (error.ssl and isinstance(reason, ConnectionResetError)):
        return "the port speaks no TLS; check whether the URL is http: or https:"
    if isinstance(reason, socket.gaierror):
        return f"{reason.strerror}; check the host in CUSTODY_JWKS_URL, and the resolver"
    said = os.strerror(reason.errno) if reason.errno else type(reason).__name__
    return f"port {error.port}: {said}; check that the issuer is up"


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
            if len(document) > SIZE_LIMIT:
                raise JwksError(f"{name} is over 256 KiB; check CUSTODY_JWKS_URL")
        return bytes(document)
