"""The ways to a Vault token: given, in a file, by AppRole, a JWT or a certificate."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hvac import exceptions as of_hvac

from kek_backends.errors import Transient
from kek_backends.transit.variables import Variables

_SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
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


class Jwt(Login):
    """A token of another issuer: a pod's service account, say. It changes, so it is read each time.

    The server's methods ``kubernetes`` and ``jwt`` (OIDC) are asked in the same way.
    """

    def __init__(self, role: str, jwt: Callable[[], str], mount: str) -> None:
        self._role = role
        self._jwt = jwt
        self._mount = mount

    def log_in(self, client: Any) -> Grant:
        """Log in with the token in the file."""
        return _logged_in(client, self._mount, {"role": self._role, "jwt": self._jwt()})


class Certificate(Login):
    """The certificate that the connection shows."""

    def __init__(self, role: str, mount: str) -> None:
        self._role = role
        self._mount = mount

    def log_in(self, client: Any) -> Grant:
        """Log in with the certificate."""
        return _logged_in(client, self._mount, {"name": self._role})


class AgentToken(Login):
    """None: an agent adds a token of its own to each request, and sees to it."""

    def log_in(self, client: Any) -> Grant:  # noqa: ARG002 - nothing is asked
        """Return no token, which needs no care."""
        return Grant("", 0, renewable=False, since=time.monotonic())


def login_from(variables: Variables, *, through_agent: bool) -> Login:
    """Return the one way to log in that the variables give.

    Args:
        variables: ``TOKEN`` or ``TOKEN_FILE``; ``ROLE_ID`` and ``SECRET_ID``, each also as
            ``…_FILE``; ``KUBERNETES_ROLE``; ``JWT_ROLE`` and ``JWT_TOKEN_FILE``; or ``CERT_ROLE``.
        through_agent: whether an agent is asked, which may have a token of its own.

    Raises:
        Misconfigured: none is given, or more than one.
    """
    ways = list(_ways(variables))
    if not ways and through_agent:
        return AgentToken()
    if len(ways) != 1:
        found = "more than one login is" if ways else "no login is"
        raise variables.refusal(
            f"{found} configured: set one of VAULT_TOKEN, VAULT_TOKEN_FILE, VAULT_ROLE_ID with "
            "VAULT_SECRET_ID, VAULT_KUBERNETES_ROLE, VAULT_JWT_ROLE, or VAULT_CERT_ROLE"
        )
    return ways[0]


def _ways(variables: Variables) -> Iterator[Login]:
    def mount(kind: str) -> str:
        return variables.get(f"{kind.upper()}_MOUNT") or kind

    if token := variables.source("TOKEN"):
        yield GivenToken(token, repeatable=variables.get("TOKEN_FILE") is not None)
    role_id, secret_id = variables.source("ROLE_ID"), variables.source("SECRET_ID")
    if role_id and secret_id:
        yield AppRole(role_id, secret_id, mount("approle"))
    elif role_id or secret_id:
        raise variables.refusal("VAULT_ROLE_ID and VAULT_SECRET_ID go together; set both")
    if role := variables.get("KUBERNETES_ROLE"):
        path = variables.get("KUBERNETES_TOKEN_FILE") or _SERVICE_ACCOUNT_TOKEN
        yield Jwt(role, variables.file("KUBERNETES_TOKEN_FILE", path), mount("kubernetes"))
    role, path = variables.get("JWT_ROLE"), variables.get("JWT_TOKEN_FILE") or ""
    if role and path:
        yield Jwt(role, variables.file("JWT_TOKEN_FILE", path), mount("jwt"))
    elif role or path:
        raise variables.refusal("VAULT_JWT_ROLE and VAULT_JWT_TOKEN_FILE go together; set both")
    if role := variables.get("CERT_ROLE"):
        if not variables.get("CLIENT_CERT"):
            raise variables.refusal(
                "VAULT_CERT_ROLE logs in with a certificate: set VAULT_CLIENT_CERT and "
                "VAULT_CLIENT_KEY"
            )
        yield Certificate(role, mount("cert"))


def _logged_in(client: Any, mount: str, secrets: dict[str, str]) -> Grant:
    path = f"/v1/auth/{mount.strip('/')}/login"
    return granted(client.login(path, use_token=False, json=secrets))


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
