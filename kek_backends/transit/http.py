"""Connections to a Vault or OpenBao server, and what its errors mean."""

import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import hvac
import requests
from hvac import exceptions as of_hvac
from requests.adapters import HTTPAdapter

from kek_backends import bounded_http
from kek_backends.errors import (
    Denied,
    KekError,
    KeyMissing,
    Misconfigured,
    Tampered,
    Throttled,
    Transient,
    VersionRetired,
)
from kek_backends.remote import ATTEMPT_SECONDS, CONCURRENT_CALLS
from kek_backends.uri import KekUri

Cause = TypeVar("Cause", bound=BaseException)

_REFUSALS: tuple[tuple[type[Exception], type[KekError], str], ...] = (
    (
        of_hvac.Forbidden,
        Denied,
        "permission denied: the token is dead, its policy lacks the right, or there is no such key",
    ),
    (of_hvac.Unauthorized, Denied, "the server knows no such token"),
    (of_hvac.InvalidPath, KeyMissing, "there is no such key, mount or namespace: correct it"),
    (of_hvac.RateLimitExceeded, Throttled, "the server's quota is used up"),
)
_NOT_OPENED = "message authentication failed"
# What Vault and OpenBao answer to a transit call, by a part of the text, and what it means.
_MEANINGS: dict[str, tuple[type[KekError], str]] = {
    _NOT_OPENED: (Tampered, "the wrap does not open for this binding"),
    "version is too new": (VersionRetired, "the key has no such version (any more)"),
    "disallowed by policy (too old)": (
        VersionRetired,
        "the key's min_decryption_version is above it",
    ),
    "invalid ciphertext": (Tampered, "the wrap is damaged"),
    "encryption key not found": (KeyMissing, "there is no such key: restore it"),
}


class _Adapter(HTTPAdapter):
    """Connections whose answers end."""

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        super().init_poolmanager(*args, **named)
        bounded_http.bind(self.poolmanager)


class Redirected(requests.RequestException):
    """The server sends its clients elsewhere."""


class TooLarge(KekError):
    """The server takes no batch of this size."""


def address_from(uri: KekUri, environ: Mapping[str, str]) -> str:
    """Return the URL of the server.

    Args:
        uri: of the KEK, for messages.
        environ: ``VAULT_ADDR``.

    Raises:
        Misconfigured: it is missing, or is none.
    """
    address = environ.get("VAULT_ADDR") or ""
    if not _is_address(address):
        raise Misconfigured(
            f"KEK {uri.text}: VAULT_ADDR must be set to the server, without a path, for example "
            "https://vault.example.org:8200"
        )
    return address


def connector(uri: KekUri, environ: Mapping[str, str]) -> Callable[[str | None], Any]:
    """Return what makes an ``hvac.Client`` for a token; all of them share one pool.

    Args:
        uri: of the KEK, for messages.
        environ: ``VAULT_ADDR``, ``VAULT_NAMESPACE``, ``VAULT_CACERT``, ``VAULT_CLIENT_TIMEOUT``.

    Raises:
        Misconfigured: the address is missing or is none, or the timeout is none.
    """

    address = address_from(uri, environ)
    timeout = _timeout(uri, environ)
    session = requests.Session()
    # Nothing of ~/.netrc or the proxy variables: tokens go to this server and nowhere else.
    session.trust_env = False
    session.verify = environ.get("VAULT_CACERT") or True
    session.hooks["response"].append(_refuse_redirect)
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter(pool_connections=1, pool_maxsize=CONCURRENT_CALLS + 2))

    def connect(token: str | None) -> Any:
        client = hvac.Client(
            url=address.rstrip("/"),
            token=token or "-",
            session=session,
            timeout=timeout,
            namespace=(environ.get("VAULT_NAMESPACE") or "").strip() or None,
            allow_redirects=False,
        )
        client.token = token
        return client

    return connect


def translate(uri: KekUri, error: Exception) -> KekError:
    """Return our error for one of hvac's or requests'.

    Nothing of their text is kept: hvac's may hold plaintext.

    Args:
        uri: of the KEK, for the message.
        error: the exception.
    """
    if isinstance(error, of_hvac.VaultError):
        return _of_answer(uri, error)
    if isinstance(error, requests.exceptions.InvalidHeader | UnicodeEncodeError):
        return Misconfigured(f"{uri.text}: the token or namespace can't be sent in a header")
    if isinstance(error, Redirected):
        return Transient(
            f"{uri.text}: VAULT_ADDR sends us elsewhere, and a token goes nowhere else: set it to "
            "the active node, or have standbys forward requests"
        )
    if _has_cause(error, ssl.SSLCertVerificationError):
        return Misconfigured(
            f"{uri.text}: the server's certificate is not trusted; set VAULT_CACERT to its CA"
        )
    if isinstance(error, OSError) and "TLS CA" in str(error):
        return Misconfigured(f"{uri.text}: VAULT_CACERT names a file that is not there")
    if isinstance(error, requests.RequestException):
        problem = f"reached ({_cause(error)})"
    else:
        problem = f"understood ({type(error).__name__})"
    return Transient(f"{uri.text}: the server can't be {problem}")


def _cause(error: requests.RequestException) -> str:
    """Say where the call went, which is no secret, and in the system's words why it failed."""
    url = getattr(error.request, "url", None) or ""
    parts = urlsplit(url)
    place = f"VAULT_ADDR, {parts.scheme}://{parts.netloc.rpartition('@')[2]}: " if url else ""
    if _has_cause(error, ssl.SSLError):
        return f"{place}the port speaks no TLS: is it http?"
    if resolved := _find_cause(error, socket.gaierror):
        return f"{place}{resolved.strerror}"
    refused = _find_cause(error, ConnectionError)
    if refused is not None and refused.errno:
        return f"{place}{os.strerror(refused.errno)}"
    return f"{place}{type(error).__name__}"


def of_item(uri: KekUri, text: str) -> KekError:
    """Return our error for what the server says of one item or call.

    Args:
        uri: of the KEK, for the message.
        text: the server's; only known parts of it are used.
    """
    for part, (kind, meaning) in _MEANINGS.items():
        if part in text:
            return kind(f"{uri.text}: {meaning}")
    return Misconfigured(f"{uri.text}: the server refuses the call; its log says why")


@contextmanager
def opening(uri: KekUri) -> Iterator[None]:
    """Distinguish a wrap that does not open from a server that fails, in a call that opens wraps.

    Some releases of Vault answer 500 to such a wrap (hashicorp/vault#10842). Nothing but the text
    distinguishes it from an outage. In any other call the same text means the server's own storage.

    Args:
        uri: of the KEK, for the message.

    Raises:
        Tampered: it does not open, or one in a batch does not.
    """
    try:
        yield
    except of_hvac.InternalServerError as error:
        if _NOT_OPENED not in " ".join(error.errors or ()):
            raise
        raise Tampered(f"{uri.text}: {_MEANINGS[_NOT_OPENED][1]}") from None


def data_of(uri: KekUri, answer: Any) -> Mapping[str, Any]:
    """Return the data of an answer; hvac returns other things for answers it can't parse.

    Raises:
        Transient: there is none.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise Transient(f"{uri.text}: VAULT_ADDR answers, but not like Vault or OpenBao")
    return data


def _of_answer(uri: KekUri, error: of_hvac.VaultError) -> KekError:
    text = " ".join(error.errors or ())
    if "high complexity" in text or "request body too large" in text:
        return TooLarge(f"{uri.text}: the server refuses a call of this size")
    if isinstance(error, of_hvac.InvalidRequest):
        return of_item(uri, text)
    for kind, ours, meaning in _REFUSALS:
        if isinstance(error, kind):
            return ours(f"{uri.text}: {meaning}")
    # Also what hvac has no class for: 412, 472 and 473 come of a cluster that changes its leader.
    return Transient(f"{uri.text}: the server can't answer now ({type(error).__name__})")


def _refuse_redirect(answer: requests.Response, *_: object, **__: object) -> None:
    if answer.is_redirect:
        raise Redirected


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and not (parts.username or parts.path.strip("/") or parts.query or parts.fragment)
    )


def _timeout(uri: KekUri, environ: Mapping[str, str]) -> float:
    """Return the seconds that a connection, and each read, may take."""
    text = environ.get("VAULT_CLIENT_TIMEOUT") or ""
    if not text:
        return ATTEMPT_SECONDS
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise Misconfigured(
            f"KEK {uri.text}: VAULT_CLIENT_TIMEOUT is a number of seconds, for example 2"
        )
    # A request of a user waits five seconds at most, and one try must leave time for another.
    return min(seconds, ATTEMPT_SECONDS)


def _has_cause(error: BaseException, kind: type[BaseException]) -> bool:
    return _find_cause(error, kind) is not None


def _find_cause(error: BaseException, kind: type[Cause]) -> Cause | None:
    """Return an error of this kind from anywhere below: requests nests them in arguments."""
    below: list[object] = [error]
    for _ in range(16):
        if not below:
            return None
        one = below.pop()
        if isinstance(one, kind):
            return one
        if isinstance(one, BaseException):
            below += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
    return None
