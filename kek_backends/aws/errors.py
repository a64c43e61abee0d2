"""What an error code of AWS means for a KEK."""

import re

from kek_backends.errors import (
    Denied,
    KekError,
    KeyMissing,
    Misconfigured,
    Tampered,
    Throttled,
    Transient,
)
from kek_backends.uri import KekUri


class CredentialsRefused(Denied):
    """AWS refuses the credentials themselves, whatever they were used for."""


_CODE = re.compile(r"[A-Za-z]{3,60}|[0-9]{3}")
_SERVER_ERROR = 500

# Codes of KMS itself, and of what stands before it: the signature check, and STS for credentials.
_MEANINGS: tuple[tuple[type[KekError], str, tuple[str, ...]], ...] = (
    (
        Tampered,
        "the wrap does not open for this binding under this key",
        ("InvalidCiphertextException", "IncorrectKeyException"),
    ),
    (
        Denied,
        "refused: the IAM or key policy lacks a right",
        ("AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation"),
    ),
    (
        CredentialsRefused,
        "the credentials are refused: expired, unknown or wrong",
        (
            "AuthFailure",
            "ExpiredToken",
            "ExpiredTokenException",
            "IDPRejectedClaim",
            "IncompleteSignature",
            "IncompleteSignatureException",
            "InvalidClientTokenId",
            "InvalidIdentityToken",
            "InvalidSignatureException",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "NotAuthorizedException",
            "OptInRequired",
            "RequestExpired",
            "SignatureDoesNotMatch",
            "UnrecognizedClientException",
        ),
    ),
    (KeyMissing, "no such key, or no key behind the alias", ("NotFoundException",)),
    (
        KeyMissing,
        "the key is disabled; run: aws kms enable-key --key-id KEY_ID",
        ("DisabledException",),
    ),
    (
        KeyMissing,
        "the state of the key allows no use: is it to be deleted?",
        ("KMSInvalidStateException",),
    ),
    (
        Misconfigured,
        "not a symmetric key for encryption; make one with: aws kms create-key",
        ("InvalidKeyUsageException",),
    ),
    (
        Throttled,
        "too many calls",
        (
            "LimitExceededException",
            "RequestLimitExceeded",
            "RequestThrottled",
            "RequestThrottledException",
            "SlowDown",
            "ThrottledException",
            "Throttling",
            "ThrottlingException",
            "TooManyRequestsException",
            "429",
        ),
    ),
    (
        Transient,
        "it fails for now",
        (
            "DependencyTimeoutException",
            "KMSInternalException",
            "KeyUnavailableException",
        ),
    ),
)
_BY_CODE = {code: (kind, phrase) for kind, phrase, codes in _MEANINGS for code in codes}


def by_code(uri: KekUri, call: str, code: str, status: int) -> KekError:
    """Return the error that a code stands for.

    Args:
        uri: for the message.
        call: which operation failed; it goes into the message.
        code: as the server sent it; one that looks like no code stays out of the message.
        status: of the HTTP answer.

    Returns:
        For an unknown code :class:`Transient`: that stops nothing for good.
    """
    if not _CODE.fullmatch(code):
        code = "no readable code"
    kind, phrase = _BY_CODE.get(code, (Transient, "it fails for now"))
    if code not in _BY_CODE and status < _SERVER_ERROR:
        phrase = "an answer that custody does not know"
    return kind(f"{uri.text}: {call}: {phrase} ({code})")
