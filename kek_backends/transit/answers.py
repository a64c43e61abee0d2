"""What the answers of a Vault or OpenBao server mean, and why there is none."""

import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import hvac
import requests

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
from kek_backends.uri import KekUri

Cause = TypeVar("Cause", bound=BaseException)

_REFUSALS: tuple[tuple[type[Exception], type[KekError], str], ...] = (
    (
        hvac.exceptions.Forbidden,
        Denied,
        "permission denied: the token is dead, its policy lacks the right, or there is no such key",
    ),
    (hvac.exceptions.Unauthorized, Denied, "the server knows no such token"),
    (
        hvac.exceptions.InvalidPath,
        KeyMissing,
        "there is no such key, mount or namespace: correct it",
    ),
    (hvac.exceptions.RateLimitExceeded, Throttled, "the server's quota is used up"),
)
# All of the text: a server whose own storage is damaged says "decryption failed: cipher: …".
_NOT_OPENED = re.compile(
    r"(?:1 error occurred:\s+\* )?(?:cipher|chacha20poly1305): message authentication failed\s*"
)
_DOES_NOT_OPEN = "the wrap does not open for this binding"
# What Vault and OpenBao answer to a transit call, by a part of the text, and what it means.
_MEANINGS: dict[str, tuple[type[KekError], str]] = {
    "version is too new": (VersionRetired, "the key has no such version (any more)"),
    "disallowed by policy (too old)": (
        VersionRetired,
        "the key's min_decryption_version is above it",
    ),
    "invalid ciphertext": (Tampered, "the wrap is damaged"),
    "encryption key not found": (KeyMissing, "there is no such key: restore it"),
    "soft-deleted key": (KeyMissing, "the key is soft-deleted: restore it"),
}
# What OpenSSL calls the alerts by which a server refuses the certificate of its client.
_OUR_CERTIFICATE = re.compile(r"ALERT_(?:\w*CERTIFICATE\w*|UNKNOWN_CA|ACCESS_DENIED)")


class Redirected(requests.RequestException):
    """The server sends its clients elsewhere."""


class TooLarge(KekError):
    """The server takes no batch of this size."""


def translate(uri: KekUri, error: Exception) -> KekError:
    """Return our error for one of hvac's or requests'.

    Nothing of their text is kept: hvac's may hold plaintext.

    Args:
        uri: of the KEK, for the message.
        error: the exception.
    """
    if isinstance(error, hvac.exceptions.VaultError):
        return _of_answer(uri, error)
    if isinstance(error, requests.exceptions.InvalidHeader | UnicodeEncodeError):
        return Misconfigured(f"{uri.text}: the token or namespace can't be sent in a header")
    if isinstance(error, Redirected):
        return Transient(
            f"{uri.text}: VAULT_ADDR sends us elsewhere, and a token goes nowhere else: set it to "
            "the active node, or have standbys forward requests"
        )
    if (untrusted := _find_cause(error, ssl.SSLCertVerificationError)) is not None:
        return _untrusted(uri, untrusted)
    refused = _find_cause(error, ssl.SSLError)
    if refused is not None and _OUR_CERTIFICATE.search(refused.reason or ""):
        return Denied(
            f"{uri.text}: the server refuses our certificate, or wants one: check "
            "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY"
        )
    if isinstance(error, requests.RequestException):
        problem = f"reached ({_cause(error)})"
    else:
        problem = f"understood ({type(error).__name__})"
    return Transient(f"{uri.text}: the server can't be {problem}")


def of_item(uri: KekUri, text: str) -> KekError:
    """Return our error for what the server says of one item or call.

    Args:
        uri: of the KEK, for the message.
        text: the server's; only known parts of it are used.
    """
    if _NOT_OPENED.fullmatch(text):
        return Tampered(f"{uri.text}: {_DOES_NOT_OPEN}")
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
    except hvac.exceptions.InternalServerError as error:
        if not _NOT_OPENED.fullmatch(" ".join(error.errors or ())):
            raise
        raise Tampered(f"{uri.text}: {_DOES_NOT_OPEN}") from None


def data_of(uri: KekUri, answer: Any) -> Mapping[str, Any]:
    """Return the data of an answer; hvac returns other things for answers it can't parse.

    Raises:
        Transient: there is none.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise Transient(f"{uri.text}: VAULT_ADDR answers, but not like Vault or OpenBao")
    return data


def _of_answer(uri: KekUri, error: hvac.exceptions.VaultError) -> KekError:
    text = " ".join(error.errors or ())
    if "high complexity" in text or "request body too large" in text:
        return TooLarge(f"{uri.text}: the server refuses a call of this size")
    if isinstance(error, hvac.exceptions.InvalidRequest):
        return of_item(uri, text)
    for kind, ours, meaning in _REFUSALS:
        if isinstance(error, kind):
            return ours(f"{uri.text}: {meaning}")
    # Also what hvac has no class for: 412, 472 and 473 come of a cluster that changes its leader.
    return Transient(f"{uri.text}: the server can't answer now ({type(error).__name__})")


def _untrusted(uri: KekUri, error: ssl.SSLCertVerificationError) -> KekError:
    if "mismatch" in error.verify_message:
        return Misconfigured(
            f"{uri.text}: the server's certificate is for another name; set VAULT_TLS_SERVER_NAME "
            "to the one in it"
        )
    return Misconfigured(
        f"{uri.text}: the server's certificate is not trusted; set VAULT_CACERT to its CA"
    )


def _cause(error: requests.RequestException) -> str:
    """Say where the call went, which is no secret, and in the system's words why it failed."""
    url = getattr(error.request, "url", None) or ""
    parts = urlsplit(url)
    place = f"VAULT_ADDR, {parts.scheme}://{parts.netloc.rpartition('@')[2]}: " if url else ""
    if _has_cause(error, ssl.SSLError):
        return f"{place}the port speaks no TLS: is it http?"
    if resolved := _find_cause(error, socket.gaierror):
        return f"{place}{resolved.strerror}"
    for kind in (ConnectionError, FileNotFoundError, PermissionError):
        refused = _find_cause(error, kind)
        if refused is not None and refused.errno:
            return f"{place}{os.strerror(refused.errno)}"
    return f"{place}{type(error).__name__}"


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
