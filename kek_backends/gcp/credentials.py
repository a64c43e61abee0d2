"""Who asks Google Cloud KMS: credentials of google-auth, and a token that is renewed in time."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from google.auth import aws, compute_engine, identity_pool
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from kek_backends.calls import ATTEMPT_SECONDS
from kek_backends.errors import Misconfigured, Transient
from kek_backends.uri import KekUri

_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
_SCOPES = ("https://www.googleapis.com/auth/cloudkms",)


class Credentials:
    """Give a token, and renew it.

    Args:
        uri: of the KEK, for messages.
        credentials: of google-auth.
        session: for the calls that they make.
    """

    def __init__(self, uri: KekUri, credentials: Any, session: requests.Session) -> None:
        self._uri = uri
        self._credentials = credentials
        self._request = Request(session)
        self._renewing = threading.Lock()

    def token(self) -> str:
        """Return a token that is good for some minutes. Blocks.

        Raises:
            Transient: another thread is still waiting for one.
            Exception: of google-auth.
        """
        if not self._credentials.valid:
            if not self._renewing.acquire(timeout=ATTEMPT_SECONDS):
                raise Transient(f"{self._uri.text}: still waiting for a token")
            try:
                if not self._credentials.valid:
                    self._credentials.refresh(self._request)
            finally:
                self._renewing.release()
        token: str = self._credentials.token
        return token

    def drop(self, token: str) -> None:
        """Ask for another one the next time: this one was refused."""
        with self._renewing:
            if self._credentials.token == token:
                self._credentials.token = None


def open_credentials(uri: KekUri, environ: Mapping[str, str], session: requests.Session) -> Any:
    """Return the credentials that the environment names: a file's, or the machine's own.

    Of the kinds of files those of services alone: a person's login ends, and one that runs a
    program would run it here.

    Args:
        uri: of the KEK, for messages.
        environ: ``GOOGLE_APPLICATION_CREDENTIALS``.
        session: for the calls that they make.

    Raises:
        Misconfigured: the file can't be used.
    """
    path = environ.get(_FILE)
    if not path:
        machine: Any = compute_engine.Credentials
        return Credentials(uri, machine(scopes=_SCOPES), session)
    try:
        info = json.loads(Path(path).read_text("utf-8"))
        kind = info.get("type")
        if kind == "service_account":
            source: Any = service_account.Credentials
            made = source.from_service_account_info(info, scopes=_SCOPES)
        elif kind == "external_account" and "executable" not in info["credential_source"]:
            is_aws = "environment_id" in info["credential_source"]
            source = aws.Credentials if is_aws else identity_pool.Credentials
            made = source.from_info(info, scopes=_SCOPES)
        else:
            raise Misconfigured(
                f"KEK {uri.text}: {_FILE} is of a kind that custody does not take: use a service "
                "account, workload identity federation, or the machine's own account"
            )
    except OSError as error:
        raise Misconfigured(
            f"KEK {uri.text}: {_FILE} can't be read: {error.strerror or type(error).__name__}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Misconfigured(
            f"KEK {uri.text}: {_FILE} is no file of credentials as Google writes them"
        ) from None
    return Credentials(uri, made, session)
