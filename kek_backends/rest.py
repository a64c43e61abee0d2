"""JSON over HTTPS to the API of a KMS: answers that end, no redirects, no proxies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from kek_backends import bounded_http
from kek_backends.calls import ATTEMPT_SECONDS, CONCURRENT_CALLS


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said.

    Args:
        status: of HTTP.
        body: the JSON object; empty where it is none.
    """

    status: int
    body: Mapping[str, Any]

    @property
    def is_good(self) -> bool:
        """Whether it is what was asked for."""
        return self.status == requests.codes.ok


class _Adapter(HTTPAdapter):
    """Connections whose answers end."""

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        super().init_poolmanager(*args, **named)
        bounded_http.bind(self.poolmanager)


def session() -> requests.Session:
    """Return a session that asks where it is told to, and nowhere else.

    Nothing of ~/.netrc or the proxy variables: tokens go to one server.
    """
    made = requests.Session()
    made.trust_env = False
    for scheme in ("https://", "http://"):
        made.mount(scheme, _Adapter(pool_connections=2, pool_maxsize=CONCURRENT_CALLS + 2))
    return made


def call(
    through: requests.Session, method: str, url: str, body: Any = None, *, token: str
) -> Answer:
    """Make one call. Blocks.

    Args:
        through: of :func:`session`.
        method: of HTTP.
        url: whole.
        body: for JSON, or None.
        token: for Authorization.

    Raises:
        requests.RequestException, OSError: there is no answer.
    """
    got = through.request(
        method,
        url,
        json=body,
        headers={"Authorization": f"Bearer {token}"},
        timeout=ATTEMPT_SECONDS,
        allow_redirects=False,
    )
    try:
        said = got.json()
    except ValueError:
        said = {}
    return Answer(got.status_code, said if isinstance(said, dict) else {})
