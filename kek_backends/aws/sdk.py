"""The SDK: its session with credentials and timeouts, and what its exceptions mean."""

import logging
from collections.abc import Mapping
from typing import Any

import botocore.session
from botocore import exceptions as sdk
from botocore.config import Config

from kek_backends.aws.errors import CredentialsRefused, by_code
from kek_backends.errors import KekError, Misconfigured, Transient
from kek_backends.remote import ATTEMPT_SECONDS, CONCURRENT_CALLS
from kek_backends.uri import KekUri

# Long enough for one lost SYN; the read timeout is cut further by the attempt's deadline.
_CONNECT_SECONDS = 1.5
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
# OpenSSL's words for a CA, and urllib3's for a name.
_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "doesn't match")


def open_session(uri: KekUri, environ: Mapping[str, str]) -> Any:
    """Return the SDK's session. Reads files, and no network.

    Args:
        uri: for messages.
        environ: the variables of the process.

    Raises:
        Misconfigured: half of the access key is missing, or the SDK's own configuration is wrong.
    """
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if bool(key) != bool(secret):
        raise Misconfigured(
            f"KEK {uri.text}: only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set"
        )
    # At debug level it logs requests as they are, with the plaintext; as a warning the traceback
    # of every failure to fetch credentials, which our own error has in a line.
    logging.getLogger("botocore").setLevel(logging.ERROR)
    session = botocore.session.Session()
    if profile := environ.get("AWS_PROFILE"):
        session.set_config_variable("profile", profile)
    if key:
        session.set_credentials(key, secret, environ.get("AWS_SESSION_TOKEN") or None)
    # Of the session, not of one client: those that fetch credentials from STS must end too.
    session.set_default_client_config(
        Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=ATTEMPT_SECONDS,
            # More than there are threads: none waits for a connection, none is thrown away.
            max_pool_connections=2 * CONCURRENT_CALLS,
            # The retries are ours: they know the deadline of the whole call.
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
    )
    try:
        session.get_scoped_config()
    except Exception as error:  # noqa: BLE001 - the SDK's text may hold lines of a file of secrets
        failed = translate(uri, error)
    else:
        return session
    raise failed


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
    if isinstance(error, sdk.SSLError) and any(text in str(error) for text in _UNTRUSTED):
        return Misconfigured(
            f"KEK {uri.text}: the endpoint's certificate is not trusted, or for another name; "
            "check AWS_ENDPOINT_URL_KMS, and AWS_CA_BUNDLE for a CA of your own"
        )
    if isinstance(error, _CONNECTION):
        return Transient(f"{uri.text}: AWS can't be reached ({kind})")
    return Transient(f"{uri.text}: an answer that makes no sense ({kind})")
