"""The ways to a Vault token: given, in a file, by AppRole, by Kubernetes."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hvac import exceptions as of_hvac

from kek_backends.errors import Misconfigured, Transient
from kek_backends.uri import KekUri

_SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
_MAX_FILE_SIZE = 64 * 1024
# Renewed at two thirds of its life, a token survives an outage of a third.
RENEW_AFTER = 2 / 3


@dataclass(frozen=True, slots=True)
class Grant:
    """A token and its life.

    Args:
        token: what requests carry.
        ttl: seconds it lives from when it was granted or last renewed; 0: for ever.
        renewable: whether the server lets it be renewed.
        since: when that was, as ``time.monotonic()`` counts.
    """

    token: str = field(repr=False)
    ttl: float
    renewable: bool
    since: float

    @property
    def renew_at(self) -> float | None:
        """When to renew it or log in again, as ``time.monotonic()`` counts; None: never."""
        return self.since + self.ttl * RENEW_AFTER if self.ttl else None


class Login(ABC):
    """A way to get a token. Secrets that stand in files are read anew for each login."""

    # Whether another login can give another token than the one that was refused.
    repeatable = True
    # Whether it makes a token; else one was given.
    makes_token = True

    @abstractmethod
    def log_in(self, client: Any) -> Grant:
        """Get a token, over an ``hvac.Client`` that has none."""


class GivenToken(Login):
    """A token that the operator gave, in a variable or in a file."""

    makes_token = False

    def __init__(self, read: Callable[[], str], *, repeatable: bool) -> None:
        self._read = read
        self.repeatable = repeatable

    def log_in(self, client: Any) -> Grant:
        """Ask the server how long the token lives; one that may not ask is taken as it is."""
        token = self._read()
        client.token = token
        try:
            found = client.auth.token.lookup_self()["data"]
        except of_hvac.Forbidden:
            return Grant(token, 0, renewable=False, since=time.monotonic())
        return Grant(token, found["ttl"], bool(found.get("renewable")), time.monotonic())


class AppRole(Login):
    """The machine login of Vault: a role id and a secret id."""

    def __init__(self, role_id: Callable[[], str], secret_id: Callable[[], str], mount: str):
        self._role_id = role_id
        self._secret_id = secret_id
        self._mount = mount

    def log_in(self, client: Any) -> Grant:
        """Log in with the role id and the secret id."""
        return granted(
            client.auth.approle.login(
                role_id=self._role_id(),
                secret_id=self._secret_id(),
                mount_point=self._mount,
                use_token=False,
            )
        )


class Kubernetes(Login):
    """The pod's own service account; its projected token changes, so it is read each time."""

    def __init__(self, role: str, jwt: Callable[[], str], mount: str) -> None:
        self._role = role
        self._jwt = jwt
        self._mount = mount

    def log_in(self, client: Any) -> Grant:
        """Log in with the service account's token."""
        return granted(
            client.auth.kubernetes.login(
                role=self._role, jwt=self._jwt(), mount_point=self._mount, use_token=False
            )
        )


def login_from(uri: KekUri, environ: Mapping[str, str]) -> Login:
    """Return the one way to log in that the variables give.

    Args:
        uri: of the KEK, for messages.
        environ: ``VAULT_TOKEN`` or ``VAULT_TOKEN_FILE``; ``VAULT_ROLE_ID`` and
            ``VAULT_SECRET_ID``, each also as ``…_FILE``; or ``VAULT_KUBERNETES_ROLE``.

    Raises:
        Misconfigured: none is given, or more than one.
    """
    ways: list[Login] = []
    if token := _source(uri, environ, "VAULT_TOKEN"):
        ways.append(GivenToken(token, repeatable=bool(environ.get("VAULT_TOKEN_FILE"))))
    role_id, secret_id = (
        _source(uri, environ, name) for name in ("VAULT_ROLE_ID", "VAULT_SECRET_ID")
    )
    if role_id and secret_id:
        mount = environ.get("VAULT_APPROLE_MOUNT") or "approle"
        ways.append(AppRole(role_id, secret_id, mount))
    elif role_id or secret_id:
        raise Misconfigured(
            f"KEK {uri.text}: VAULT_ROLE_ID and VAULT_SECRET_ID go together; set both"
        )
    if role := environ.get("VAULT_KUBERNETES_ROLE"):
        path = environ.get("VAULT_KUBERNETES_TOKEN_FILE") or _SERVICE_ACCOUNT_TOKEN
        mount = environ.get("VAULT_KUBERNETES_MOUNT") or "kubernetes"
        ways.append(Kubernetes(role, _file(uri, "VAULT_KUBERNETES_TOKEN_FILE", path), mount))
    if len(ways) != 1:
        found = "more than one login is" if ways else "no login is"
        raise Misconfigured(
            f"KEK {uri.text}: {found} configured: set one of VAULT_TOKEN, VAULT_TOKEN_FILE, "
            "VAULT_ROLE_ID with VAULT_SECRET_ID, or VAULT_KUBERNETES_ROLE"
        )
    return ways[0]


def granted(answer: Any) -> Grant:
    """Return the grant in an answer of a login or a renewal."""
    auth = answer.get("auth") if isinstance(answer, dict) else None
    if not isinstance(auth, dict):
        # A redirect, or a page: nothing of it is shown.
        raise Transient("VAULT_ADDR answers a login, but not like Vault or OpenBao")
    return Grant(
        token=auth["client_token"],
        ttl=auth["lease_duration"],
        renewable=auth["renewable"],
        since=time.monotonic(),
    )


def _source(uri: KekUri, environ: Mapping[str, str], name: str) -> Callable[[], str] | None:
    value, path = environ.get(name), environ.get(f"{name}_FILE")
    if value and path:
        raise Misconfigured(f"KEK {uri.text}: {name} and {name}_FILE are both set; unset one")
    if path:
        return _file(uri, f"{name}_FILE", path)
    return value.strip if value else None


def _file(uri: KekUri, variable: str, path: str) -> Callable[[], str]:
    def read() -> str:
        try:
            with Path(path).open("rb") as stream:
                text = stream.read(_MAX_FILE_SIZE).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(
                f"KEK {uri.text}: {variable} names {path}: {type(error).__name__}"
            ) from None
        if not text:
            raise Misconfigured(f"KEK {uri.text}: {variable} names {path}, which is empty")
        return text

    return read
