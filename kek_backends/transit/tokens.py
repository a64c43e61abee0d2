"""The current Vault token: renewed in time, and replaced when it is refused, once at a time."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import requests
from hvac import exceptions as of_hvac

from kek_backends.errors import Denied, Transient
from kek_backends.remote import ATTEMPT_SECONDS
from kek_backends.transit.login import RENEW_AFTER, Grant, Login, granted
from kek_backends.uri import KekUri

_AGAIN_SECONDS = 1.0
# A 403 that comes of the policy would else make every request log in.
_BETWEEN_LOGINS_SECONDS = 2.0

T = TypeVar("T")


class Tokens:
    """The current token, one login or renewal at a time.

    Args:
        uri: of the KEK, for messages.
        login: how to get a token.
        connect: returns an ``hvac.Client`` for a token, or for None.
    """

    def __init__(self, uri: KekUri, login: Login, connect: Callable[[str | None], Any]) -> None:
        self._uri = uri
        self._login = login
        self._connect = connect
        self._lock = threading.Lock()
        self._grant: Grant | None = None
        self._client: Any = None
        self._due: float | None = None
        self._logged_in = float("-inf")

    def call(self, work: Callable[[Any], T]) -> T:
        """Run work with a logged-in ``hvac.Client``; log in again, once, when it is refused.

        Raises:
            Denied: there is no token to be had.
            Exception: hvac's and requests' own.
        """
        client = self._current()
        try:
            return work(client)
        except of_hvac.Forbidden:
            fresh = self._after_refusal(client)
            if fresh is client:
                raise
        return work(fresh)

    def close(self) -> None:
        """Close the connections that all clients share."""
        self._connect(None).adapter.close()

    @property
    def repeatable(self) -> bool:
        """Whether another login can give another token."""
        return self._login.repeatable

    @property
    def logs_in(self) -> bool:
        """Whether a login makes the tokens; else they are given."""
        return self._login.makes_token

    @property
    def seconds_to_renewal(self) -> float:
        """How long the token needs no care; infinite where it never does."""
        return float("inf") if self._due is None else max(0.0, self._due - time.monotonic())

    def _current(self) -> Any:
        due = self._due
        if self._client is not None and (due is None or time.monotonic() < due):
            return self._client
        with self._turn():
            if self._client is None:
                self._log_in()
            elif self._due is not None and time.monotonic() >= self._due:
                self._renew()
            return self._client

    def _after_refusal(self, refused: Any) -> Any:
        """Return a client with another token, or the same one where there is no other."""
        with self._turn():
            if self._client is not refused:
                return self._client  # another thread has just logged in
            if (
                self._login.repeatable
                and time.monotonic() - self._logged_in >= _BETWEEN_LOGINS_SECONDS
            ):
                self._log_in()
            return self._client

    def _log_in(self) -> None:
        self._logged_in = time.monotonic()
        try:
            grant = self._login.log_in(self._connect(None))
        except (of_hvac.Forbidden, of_hvac.InvalidRequest):
            raise Denied(
                f"{self._uri.text}: the login was refused: is its mount right, VAULT_ADDR https "
                "where the server wants it, and the token, secret id or certificate still good?"
            ) from None
        if self._grant is None or grant.token != self._grant.token:
            self._end(self._client)
            self._client = self._connect(grant.token)
        self._keep(grant)

    def _end(self, client: Any) -> None:
        """Revoke a token that is replaced: one that was refused by its policy alone lives on."""
        if client is None or not self._login.makes_token:
            return
        with contextlib.suppress(of_hvac.VaultError, requests.RequestException):
            client.auth.token.revoke_self()

    def _renew(self) -> None:
        """Renew the token; where that fails, log in again; where that fails, keep what there is."""
        if self._grant is None:
            raise AssertionError
        try:
            if self._grant.renewable:
                renewed = granted(self._client.auth.token.renew_self())
                # Near its maximum life a renewal adds little: then it is time for a new token.
                if renewed.ttl >= self._grant.ttl * RENEW_AFTER or not self._login.repeatable:
                    self._keep(renewed)
                    return
            if self._login.repeatable:
                self._log_in()
                return
        except (Denied, of_hvac.VaultError, requests.RequestException):
            pass
        # The token may live on for a third of its time; and the server refuses it when it is dead.
        self._due = time.monotonic() + _AGAIN_SECONDS

    def _keep(self, grant: Grant) -> None:
        self._grant, self._due = grant, grant.renew_at

    def _turn(self) -> "_Turn":
        return _Turn(self._lock, self._uri)


class _Turn:
    """The lock, for as long as one HTTP call may take at most."""

    def __init__(self, lock: threading.Lock, uri: KekUri) -> None:
        self._lock = lock
        self._uri = uri

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=ATTEMPT_SECONDS):
            raise Transient(f"{self._uri.text}: the login hangs")

    def __exit__(self, *_: object) -> None:
        self._lock.release()
