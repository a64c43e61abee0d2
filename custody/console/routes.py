"""The console's endpoints: the page, its stream, its files, and the way in and out."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from custody.console import page
from custody.console.page import STATIC, Page, utc_now
from custody.console.reading import Reader
from custody.console.streams import Streams
from custody.deadline import Deadline
from custody.http import problems
from custody.http.access import Access, came_by_https, cookie, is_of_our_page
from custody.http.body import read_field
from custody.http.problems import Problem
from custody.http.response import Response
from custody.http.router import Table, readable
from custody.http.stream import Stream
from custody.loopback import is_loopback

_HTML = "text/html; charset=utf-8"
_FORM_SECONDS = 10.0
# Nothing but our own files, no script or style inside of the page, and nobody's frame.
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SAFE_HEADERS = {
    "Content-Security-Policy": _POLICY,
    # Not "no-referrer": then a browser would not say which page a form is of.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Console:
    """The operators' page.

    Args:
        reader: reads what it shows.
        access: lets requests in.
    """

    def __init__(self, reader: Reader, access: Access) -> None:
        self._reader = reader
        self._access = access
        self._page = Page(has_token=access.is_asked_for)
        self._streams = Streams(reader, self._page)

    def table(self) -> Table:
        """Return its endpoints; the files and the form itself are for everybody."""
        shown = {f"/static/{name}": partial(self.show_file, name) for name in STATIC}
        table: Table = {
            (hdrs.METH_GET, "/events"): self.stream,
            (hdrs.METH_POST, "/login"): self.log_in,
            (hdrs.METH_POST, "/logout"): self.log_out,
            **readable("/", self.show),
        }
        for path, endpoint in shown.items():
            table |= readable(path, endpoint)
        return table

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Show it for the length of the block; its end ends the streams."""
        async with self._reader.reading():
            try:
                yield
            finally:
                await self._streams.end()

    async def show(self, request: web.BaseRequest) -> Response:
        """GET /."""
        if refused := self._refuse_strange_host(request):
            return refused
        try:
            self._access.check(request)
        except Problem as problem:
            if "text/html" not in request.headers.get(hdrs.ACCEPT, ""):
                raise
            message = None if problem.status == HTTPStatus.UNAUTHORIZED else problem.detail
            return _html(page.login(message), problem.status, problem.headers)
        return _html(self._page.whole(await self._reader.read(), utc_now()))

    async def stream(self, request: web.BaseRequest) -> Stream:
        """GET /events."""
        if self._refuse_strange_host(request):
            raise problems.not_found()
        self._access.check(request)
        return self._streams.open(SAFE_HEADERS)

    async def show_file(self, name: str, _request: web.BaseRequest) -> Response:
        """GET /static/NAME."""
        return Response(page.static(name), media_type=STATIC[name], headers=SAFE_HEADERS)

    async def log_in(self, request: web.BaseRequest) -> Response:
        """POST /login."""
        if not self._access.is_asked_for:
            raise problems.not_found()
        if not is_of_our_page(request):
            return _not_ours()
        token = await read_field(request, "token", Deadline.after(_FORM_SECONDS))
        try:
            if not self._access.try_token(request, token.strip()):
                return _html(page.login("This is not the token."), HTTPStatus.UNAUTHORIZED)
        except Problem as problem:
            return _html(page.login(problem.detail), problem.status, problem.headers)
        return _to_console(cookie(self._access.new_session(), secure=came_by_https(request)))

    async def log_out(self, request: web.BaseRequest) -> Response:
        """POST /logout: the browser forgets the session."""
        if not is_of_our_page(request):
            return _not_ours()
        return _to_console(cookie("", secure=came_by_https(request)))

    def _refuse_strange_host(self, request: web.BaseRequest) -> Response | None:
        """Refuse a name that is not this host's own, where no token is asked for.

        A page of a stranger can have its own name lead to 127.0.0.1 (DNS rebinding): then it is of
        our origin to the browser, but for the name.
        """
        if self._access.is_asked_for or _is_own_name(request.headers.get(hdrs.HOST, "")):
            return None
        message = "Without CUSTODY_ADMIN_TOKEN the console answers to localhost and to addresses."
        return _html(page.refusal(message), HTTPStatus.FORBIDDEN)


def _is_own_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    # An address is nobody's to choose; an empty one is that of a unix socket.
    is_address = name.replace(".", "").isdigit() or ":" in name
    return not name or is_address or is_loopback(name)


def _html(
    text: str, status: int = HTTPStatus.OK, more: Mapping[str, str] | None = None
) -> Response:
    headers = SAFE_HEADERS | dict(more or {})
    return Response(text.encode(), status=status, media_type=_HTML, headers=headers)


def _not_ours() -> Response:
    message = "This form was sent by a page of another site. Open the console itself."
    return _html(page.refusal(message), HTTPStatus.FORBIDDEN)


def _to_console(set_cookie: str) -> Response:
    headers = SAFE_HEADERS | {hdrs.LOCATION: "/", hdrs.SET_COOKIE: set_cookie}
    return Response(b"", status=HTTPStatus.SEE_OTHER, media_type=_HTML, headers=headers)
