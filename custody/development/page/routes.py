"""The page's endpoints: its files, tokens for its two users, and their rows as they are stored.

``custody dev`` alone hands them to the vault's listener; ``custody serve`` has no way to.
"""

from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.errors import DatabaseError
from custody.db.queries import query
from custody.db.scope import user_transaction
from custody.deadline import Deadline
from custody.development.issuer import DevelopmentIssuer
from custody.http import problems
from custody.http.body import read_json
from custody.http.response import Response
from custody.http.router import Endpoint, Table, readable
from custody.loopback import is_loopback

TOKEN_SECONDS: Final = 15 * 60
_SECONDS: Final = 5.0
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing but our own files, no script or style inside of the page, nobody's frame, and no text that
# becomes HTML.
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_SAFE_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    user: Literal["alice", "bob"]


_ASKED: Final = TypeAdapter(_Asked)


class FirstPage:
    """The page.

    Args:
        issuer: signs its tokens.
        audience: what the daemon wants in them.
        engine: connections of the role custody_app.
    """

    def __init__(self, issuer: DevelopmentIssuer, audience: str, engine: AsyncEngine) -> None:
        self._issuer = issuer
        self._audience = audience
        self._engine = engine

    def table(self) -> Table:
        """Return its endpoints."""
        table: Table = {
            (hdrs.METH_POST, "/page/token"): self.give_token,
            (hdrs.METH_POST, "/page/row"): self.show_row,
        }
        for path, file in _files().items():
            table |= readable(path, _local(partial(_show, file)))
        return table

    async def give_token(self, request: web.BaseRequest) -> Response:
        """POST /page/token: what an app's own login would give."""
        user = await _user_of(request)
        token = self._issuer.token(user, audience=self._audience, lifetime=TOKEN_SECONDS)
        return Response(to_json({"token": token, "seconds": TOKEN_SECONDS}))

    async def show_row(self, request: web.BaseRequest) -> Response:
        """POST /page/row: all that the database has of a user's vault, or null."""
        user = await _user_of(request)
        try:
            deadline = Deadline.after(_SECONDS)
            async with user_transaction(self._engine, user, deadline) as connection:
                row = await connection.fetchrow(query("read_vault"), user)
        except DatabaseError:
            raise problems.unavailable("DATABASE_UNAVAILABLE", "Try again later.") from None
        return Response(to_json({"row": None if row is None else _stored(row)}, bytes_mode="hex"))


def _stored(row: Mapping[str, Any]) -> dict[str, Any]:
    # The clock is none of its columns.
    return {name: value for name, value in row.items() if name != "clock"}


def _files() -> dict[str, Traversable]:
    """Return what is served, by path; the client is the one that apps take, unchanged."""
    static = files(__package__).joinpath("static")
    served = {f"/page/{file.name}": file for file in static.iterdir()}
    client = "custody-client.js"
    served[f"/page/{client}"] = files("custody.client").joinpath("browser", client)
    return served | {"/": served["/page/index.html"]}


async def _show(file: Traversable, _request: web.BaseRequest) -> Response:
    media_type = _TYPES[file.name[file.name.rindex(".") :]]
    return Response(file.read_bytes(), media_type=media_type, headers=_SAFE_HEADERS)


def _local(endpoint: Endpoint) -> Endpoint:
    async def respond(request: web.BaseRequest) -> Response:
        _refuse_strange_host(request)
        return await endpoint(request)

    return respond


def _refuse_strange_host(request: web.BaseRequest) -> None:
    """Refuse a name that is not this host's own.

    A stranger's page can have its own name lead to 127.0.0.1 (DNS rebinding): then it is of our
    origin to the browser, but for the name.

    Raises:
        Problem: 404, as a daemon without the page says.
    """
    try:
        name = urlsplit(f"//{request.headers.get(hdrs.HOST, '')}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        raise problems.not_found()


async def _user_of(request: web.BaseRequest) -> str:
    """Return the user whom our own page asks for.

    Browsers say of which page a request is, and no page can have them say anything else. Other
    pages of this host, of another port or a proxy in front, are strangers as well.

    Raises:
        Problem: 404, it is of another page; 400, 413 or 415.
    """
    _refuse_strange_host(request)
    host = request.headers[hdrs.HOST]
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    if request.headers.get(hdrs.ORIGIN) not in {f"http://{host}", f"https://{host}"} or (
        site != "same-origin"
    ):
        raise problems.not_found()
    return (await read_json(request, _ASKED, Deadline.after(_SECONDS))).user
