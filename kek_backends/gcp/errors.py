"""What an answer of Google's API means for a KEK."""

import requests
from google.auth import exceptions as of_google

from kek_backends.errors import (
    Denied,
    KekError,
    KeyMissing,
    Misconfigured,
    Throttled,
    Transient,
)
from kek_backends.rest import Answer
from kek_backends.uri import KekUri

# By google.rpc.Code, as https://cloud.google.com/apis/design/errors lists them.
_MEANINGS: dict[str, tuple[type[KekError], str]] = {
    "INVALID_ARGUMENT": (Misconfigured, "the call is refused as it is"),
    "FAILED_PRECONDITION": (
        KeyMissing,
        "the version can't be used in its state: enable it with: gcloud kms keys versions enable",
    ),
    "PERMISSION_DENIED": (
        Denied,
        (
            "refused: grant roles/cloudkms.cryptoKeyEncrypterDecrypter and roles/cloudkms.viewer "
            "on the key, and see that the API is on"
        ),
    ),
    "UNAUTHENTICATED": (Denied, "the credentials are refused: expired, unknown or wrong"),
    "NOT_FOUND": (KeyMissing, "there is no such key: check project, location and key ring"),
    "RESOURCE_EXHAUSTED": (Throttled, "too many calls: a quota is used up"),
}


def of_answer(uri: KekUri, operation: str, answer: Answer) -> KekError:
    """Return the error that an answer stands for.

    Args:
        uri: for the message.
        operation: what was tried; it goes into the message.
        answer: of the server. Nothing of its text is kept: it may repeat what was sent.

    Returns:
        For an unknown one :class:`Transient`: that stops nothing for good.
    """
    code = code_of(answer)
    kind, phrase = _MEANINGS.get(code, (Transient, "it fails for now"))
    shown = code if code.replace("_", "").isalpha() and code.isascii() else "no readable code"
    return kind(f"{uri.text}: {operation}: {phrase} ({answer.status} {shown[:40]})")


def code_of(answer: Answer) -> str:
    """Return the name of Google's code; empty where there is none."""
    error = answer.body.get("error")
    code = error.get("status") if isinstance(error, dict) else None
    return code if isinstance(code, str) else ""


def translate(uri: KekUri, error: Exception) -> KekError:
    """Return our error for one of requests' or google-auth's, with nothing of their text."""
    if isinstance(error, of_google.RefreshError):
        return Denied(f"{uri.text}: no token is given for the credentials; are they revoked?")
    if isinstance(error, requests.exceptions.SSLError):
        return Transient(f"{uri.text}: TLS with the server fails ({type(error).__name__})")
    return Transient(f"{uri.text}: the server can't be reached ({type(error).__name__})")
