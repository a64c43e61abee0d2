"""What an answer of Azure Key Vault means for a KEK."""

import requests
from azure.core import exceptions as of_azure

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

# By HTTP status: https://learn.microsoft.com/azure/key-vault/general/rest-error-codes
_MEANINGS: dict[int, tuple[type[KekError], str]] = {
    400: (Misconfigured, "the call is refused as it is"),
    401: (Denied, "the credentials are refused: expired, unknown or of another tenant"),
    403: (
        Denied,
        (
            "refused: grant the role Key Vault Crypto Service Encryption User (on a Managed HSM: "
            "Managed HSM Crypto User) on the key, and see that the firewall lets this host in"
        ),
    ),
    404: (KeyMissing, "there is no such key, or it was deleted: recover it"),
    409: (KeyMissing, "the key was deleted, and can be recovered: az keyvault key recover"),
    429: (Throttled, "too many calls"),
}
_DISABLED = "KeyDisabled"


def of_answer(uri: KekUri, operation: str, answer: Answer) -> KekError:
    """Return the error that an answer stands for.

    Args:
        uri: for the message.
        operation: what was tried; it goes into the message.
        answer: of the server. Nothing of its text is kept: it may repeat what was sent.
    """
    if is_disabled(answer):
        return KeyMissing(
            f"{uri.text}: {operation}: the version is disabled; run: "
            "az keyvault key set-attributes --enabled true"
        )
    kind, phrase = _MEANINGS.get(answer.status, (Transient, "it fails for now"))
    return kind(f"{uri.text}: {operation}: {phrase} ({answer.status})")


def is_disabled(answer: Answer) -> bool:
    """Say whether a key or a version was disabled: Azure says so inside of Forbidden."""
    error = answer.body.get("error")
    inner = error.get("innererror") if isinstance(error, dict) else None
    return isinstance(inner, dict) and inner.get("code") == _DISABLED


def translate(uri: KekUri, error: Exception) -> KekError:
    """Return our error for one of requests' or azure-identity's, with nothing of their text."""
    # azure-identity says so as well where it could not ask at all.
    unasked = of_azure.ServiceRequestError | of_azure.ServiceResponseError
    refused = isinstance(error, of_azure.ClientAuthenticationError)
    if refused and not isinstance(error.__cause__, unasked):
        return Denied(f"{uri.text}: no token is given for the credentials; are they revoked?")
    if isinstance(error, requests.exceptions.SSLError):
        return Transient(f"{uri.text}: TLS with the server fails ({type(error).__name__})")
    return Transient(f"{uri.text}: the server can't be reached ({type(error).__name__})")
