"""Connections to a Vault or OpenBao server, or to an agent before it."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import hvac
import requests
from requests.adapters import HTTPAdapter

from kek_backends import bounded_http
from kek_backends.errors import Misconfigured
from kek_backends.remote import ATTEMPT_SECONDS, CONCURRENT_CALLS
from kek_backends.transit.alerts import hear
from kek_backends.transit.answers import Redirected
from kek_backends.transit.tls import Tls
from kek_backends.transit.unix_socket import lead_to
from kek_backends.transit.variables import Variables

_UNIX = "unix://"
# One, to one server; a connection for each thread.
_POOLS = 1, CONCURRENT_CALLS + 2


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is, or an agent.

    Args:
        url: of it, maybe with a path.
        socket: the path of its socket, where it has one.
    """

    url: str
    socket: str | None

    @classmethod
    def of(cls, variables: Variables) -> Self:
        """Return what ``AGENT_ADDR`` says, or else ``ADDR``.

        Raises:
            Misconfigured: both are missing, or it is none.
        """
        name = "AGENT_ADDR" if variables.get("AGENT_ADDR") else "ADDR"
        address = variables.get(name) or ""
        socket = address.removeprefix(_UNIX)
        if address.startswith(_UNIX) and socket.startswith("/"):
            return cls(address, socket)
        if not _is_address(address):
            raise variables.refusal(
                f"{variables.spelt(name)} must be set to the server, for example "
                "https://vault.example.org:8200, or to the socket of an agent, for example "
                "unix:///run/openbao/agent.sock"
            )
        return cls(address.rstrip("/"), None)

    @property
    def base(self) -> str:
        """What the URLs of requests begin with."""
        return "http://localhost" if self.socket else self.url


def is_agent(variables: Variables) -> bool:
    """Say whether an agent is asked, which may add a token of its own."""
    return bool(variables.get("AGENT_ADDR")) or (variables.get("ADDR") or "").startswith(_UNIX)


class _Adapter(HTTPAdapter):
    """Connections whose TLS is as configured, and whose answers end."""

    def __init__(self, tls: Tls, address: Address) -> None:
        self._tls = tls
        self._address = address
        self._renewing = threading.Lock()
        super().__init__(*_POOLS)

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        if self._address.url.startswith("https:"):
            named |= {"ssl_context": self._tls.context(), "server_hostname": self._tls.server_name}
        super().init_poolmanager(*args, **named)
        if self._address.socket is not None:
            lead_to(self._address.socket, self.poolmanager)
        else:
            hear(self.poolmanager)
        bounded_http.bind(self.poolmanager)

    def send(self, *args: Any, **named: Any) -> requests.Response:
        """Send a request; over new connections where a certificate has changed."""
        if self._tls.changed and self._renewing.acquire(blocking=False):
            try:
                self.init_poolmanager(*_POOLS)
            except Misconfigured:
                pass  # half written: what was read before is good for now
            finally:
                self._renewing.release()
        return super().send(*args, **named)

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Leave all of TLS to the context: requests would trust public CAs beside ours."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Change nothing: the context verifies."""


def connector(variables: Variables, address: Address) -> Callable[[str | None], Any]:
    """Return what makes an ``hvac.Client`` for a token; all of them share one pool.

    Args:
        variables: ``NAMESPACE``, ``CLIENT_TIMEOUT``, and those of :class:`Tls`.
        address: of the server.

    Raises:
        Misconfigured: the timeout is none, or a file of certificates.
    """
    timeout = _timeout(variables)
    namespace = (variables.get("NAMESPACE") or "").strip().strip("/") or None
    session = requests.Session()
    # Nothing of ~/.netrc or the proxy variables: tokens go to this server and nowhere else.
    session.trust_env = False
    session.hooks["response"].append(_refuse_redirect)
    adapter = _Adapter(Tls(variables), address)
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)

    def connect(token: str | None) -> Any:
        client = hvac.Client(
            url=address.base,
            token=token or "-",
            session=session,
            timeout=timeout,
            namespace=namespace,
            allow_redirects=False,
        )
        client.token = token
        return client

    return connect


def _refuse_redirect(answer: requests.Response, *_: object, **__: object) -> None:
    if answer.is_redirect:
        raise Redirected


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and not (parts.username or parts.query or parts.fragment)
        and ".." not in parts.path.split("/")
    )


def _timeout(variables: Variables) -> float:
    """Return the seconds that a connection, and each read, may take."""
    text = variables.get("CLIENT_TIMEOUT")
    if not text:
        return ATTEMPT_SECONDS
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise variables.refusal(
            f"{variables.spelt('CLIENT_TIMEOUT')} is a number of seconds, for example 2"
        )
    # A request of a user waits five seconds at most, and one try must leave time for another.
    return min(seconds, ATTEMPT_SECONDS)
