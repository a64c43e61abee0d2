"""An HTTP client for tests: short calls, full answers, every secret remembered for the search."""

import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partialmethod
from typing import Any, TypeAlias

import aiohttp

from tests.eventually import eventually
from tests.leaks import remember
from tests.servers import Daemon

_SECRET_FIELDS = ("masterKey", "previousMasterKey", "recoveryWrappedMk")
_Route: TypeAlias = "partialmethod[Coroutine[Any, Any, Answer]]"


@dataclass(frozen=True)
class Answer:
    """An answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The problem's code, or None."""
        value = self.json.get("code")
        return None if value is None else str(value)


def tag_of(answer: Answer) -> str:
    """Return the ETag of an answer that has a key."""
    assert answer.status == 200, answer.body
    return answer.headers["ETag"]


def generation_of(answer: Answer) -> int:
    """Return the generation that an answer's ETag names."""
    tag = tag_of(answer)
    number = int(tag.strip('"'))
    assert tag == f'"{number}"'
    return number


class Client:
    """One user's device: it calls each route by its name, those that change a key with a tag.

    Args:
        daemon: whom it calls.
        session: of its connections.
        user: whose token it has.
        claims: of that token, where they are not the usual ones.
    """

    def __init__(
        self, daemon: Daemon, session: aiohttp.ClientSession, user: str, **claims: object
    ) -> None:
        self.daemon = daemon
        self.user = user
        self._session = session
        self._token = remember(daemon.issuer.token(user, **claims))

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        data: bytes | None = None,
        if_match: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Call a route as the browser client does: with Content-Type, bodiless or not."""
        sent = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        if if_match is not None:
            sent["If-Match"] = if_match
        sent |= headers or {}
        if body is not None:
            data = json.dumps(body).encode()
            _remember_secrets(body)
        async with self._session.request(
            method, self.daemon.base + path, data=data, headers=sent
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if answer.status == 200:
            _remember_secrets(answer.json)
        return answer

    async def _act(
        self, method: str, path: str, if_match: str | None = None, body: Any = None
    ) -> Answer:
        return await self.call(method, path, body, if_match=if_match)

    status: _Route = partialmethod(_act, "GET", "/status")
    audit: _Route = partialmethod(_act, "GET", "/audit")
    key: _Route = partialmethod(_act, "GET", "/key")
    init: _Route = partialmethod(_act, "POST", "/init")
    rotate: _Route = partialmethod(_act, "POST", "/rotate")
    begin_rotation: _Route = partialmethod(_act, "POST", "/rotation")
    end_rotation: _Route = partialmethod(_act, "DELETE", "/rotation")
    reset: _Route = partialmethod(_act, "POST", "/reset", body={"confirm": "destroy"})
    clear_recovery: _Route = partialmethod(_act, "DELETE", "/recovery-wrap")
    enable_zk: _Route = partialmethod(_act, "POST", "/zero-knowledge", body={"enable": True})

    async def set_recovery(self, wrapped: str, iv: str, if_match: str | None = None) -> Answer:
        """POST /recovery-wrap."""
        body = {"recoveryWrappedMk": wrapped, "recoveryIv": iv}
        return await self.call("POST", "/recovery-wrap", body, if_match=if_match)

    async def disable_zk(self, master_key: str, if_match: str | None = None) -> Answer:
        """POST /zero-knowledge, off."""
        body = {"enable": False, "masterKey": master_key}
        return await self.call("POST", "/zero-knowledge", body, if_match=if_match)


def _remember_secrets(body: Any) -> None:
    for name in _SECRET_FIELDS:
        if isinstance(body, dict) and isinstance(body.get(name), str):
            remember(body[name])


@asynccontextmanager
async def client_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session without a limit on connections."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


async def readiness(daemon: Daemon) -> tuple[int, dict[str, str]]:
    """Return the status of /readyz, and what it says of each part."""
    async with client_session() as session, session.get(f"{daemon.admin}/readyz") as response:
        return response.status, (await response.json())["parts"]


async def becomes(daemon: Daemon, status: int, **named: str) -> dict[str, str]:
    """Wait until /readyz has a status, and names this of parts; return what it says of each."""

    async def parts() -> dict[str, str]:
        found, said = await readiness(daemon)
        assert found == status, said
        assert all(text in said[part] for part, text in named.items()), said
        return said

    return await eventually(parts)
