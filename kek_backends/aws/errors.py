"""What an error of AWS or its SDK means for a KEK."""

import re

from botocore import exceptions as sdk

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


# Only the operator can cure these, on this host.
_CONFIGURATION = (
    sdk.ConfigNotFound,
    sdk.ConfigParseError,
    sdk.InvalidConfigError,
    sdk.InvalidRegionError,
    sdk.NoCredentialsError,
    sdk.NoRegionError,
    sdk.PartialCredentialsError,
    sdk.ProfileNotFound,
    sdk.UnknownCredentialError,
)
_LOGIN = (sdk.LoginError, sdk.SSOError, sdk.TokenRetrievalError)
_CONNECTION = (
    sdk.ConnectionError,
    sdk.HTTPClientError,
    sdk.CredentialRetrievalError,
    sdk.MetadataRetrievalError,
)

_CODE = re.compile(r"[A-Za-z]{3,60}|[0-9]{3}")
_SERVER_ERROR = 500

# Codes of KMS itself, and of what stands before it: the signature check, and STS for credentials.
_MEANINGS: tuple[tuple[type[KekError], str, tuple[str, ...]], ...] = (
    (
        Tampered,
        "the wrap does not open for this user under this key",
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


def translate(uri: KekUri, error: Exception) -> KekError:
    """Return our error for one of the SDK's. Nothing of its text is kept.

    Args:
        uri: of the KEK, for the message.
        error: the exception.
    """
    kind = type(error).__name__
    if isinstance(error, sdk.ClientError):
        code = str(error.response.get("Error", {}).get("Code"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return by_code(uri, error.operation_name, code, status)
    if isinstance(error, _CONFIGURATION):
        return Misconfigured(
            f"KEK {uri.text}: the AWS configuration of this host is wrong ({kind}); check "
            "AWS_PROFILE, the files it names, and the credentials"
        )
    if isinstance(error, _LOGIN):
        return CredentialsRefused(f"{uri.text}: the login has ended ({kind}); run: aws sso login")
    if isinstance(error, _CONNECTION):
        return Transient(f"{uri.text}: AWS can't be reached ({kind})")
    return Transient(f"{uri.text}: an answer that makes no sense ({kind})")
