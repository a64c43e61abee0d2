"""The aiohttp application of the vault, and the server that speaks HTTP for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import structlog
from aiohttp import hdrs, web

from custody.audit.events import event_id
from custody.auth.jwks import IssuerUnavailable
from custody.auth.tokens import InvalidToken, TokenVerifier
from custody.deadline import Deadline
from custody.http import problems
from custody.http.body import read_json
from custody.http.client_address import TrustedProxies, user_agent
from custody.http.middleware import REQUEST_ID, ROUTE, Next, TopHandler, new_request_id
from custody.http.preconditions import parse_if_match
from custody.http.rate import RateLimit
from custody.http.response import Answer
from custody.http.routes import BASE_PATH, ROUTES, Route
from custody.ops.health import Health
from custody.vault.model import Caller
from custody.vault.service import VaultService

REQUEST_SECONDS = 10.0
# Also how long the headers of a request may take: aiohttp has no other limit for them.
KEEPALIVE_SECONDS = 50.0
# After the drain; for whoever does not read its answers.
SHUTDOWN_SECONDS = 2.0

log = structlog.get_logger()


class Frontend:
    """Turns a request into a use case: who, from where, until when, with which body.

    Proxies and limit may be replaced while it serves.

    Args:
        vault: the use cases.
        verifier: of tokens.
        health: shuts the routes while the database is not safe.
        proxies: whose X-Forwarded-For is believed.
        limit: requests a second and user.
    """

    def __init__(
        self,
        *,
        vault: VaultService,
        verifier: TokenVerifier,
        health: Health,
        proxies: TrustedProxies,
        limit: RateLimit,
    ) -> None:
        self._vault = vault
        self._verifier = verifier
        self._health = health
        self.proxies = proxies
        self.limit = limit

    def handler(self, route: Route) -> Callable[[web.BaseRequest], Awaitable[Answer]]:
        """Return the aiohttp handler of a route."""

        async def handle(request: web.BaseRequest) -> Answer:
            request[ROUTE] = route.name
            caller = await self._caller(request, route)
            body = None
            if route.body is not None:
                body = await read_json(request, route.body, caller.deadline)
            if not self._health.database_is_safe:
                raise problems.unavailable(
                    "DATABASE_UNAVAILABLE", "The database can't be used now: try again later."
                )
            return await route.handler(self._vault, caller, body)

        return handle

    async def _caller(self, request: web.BaseRequest, route: Route) -> Caller:
        """Say who asks; a request that fails here never reaches the database."""
        deadline = Deadline.after(REQUEST_SECONDS)
        tokens = request.headers.getall(hdrs.AUTHORIZATION, [])
        try:
            if len(tokens) > 1:
                raise InvalidToken("more than one Authorization header")
            principal = await self._verifier.verify(tokens[0] if tokens else None)
        except InvalidToken as error:
            log.debug("token_refused", reason=str(error))
            raise problems.unauthorized(
                "A valid access token is needed.", had_token=bool(tokens)
            ) from None
        except IssuerUnavailable:
            raise problems.unavailable(
                "ISSUER_UNAVAILABLE", "Tokens can't be checked now: the issuer's keys are missing."
            ) from None
        if seconds := self.limit.seconds_to_wait(principal.user_id):
            raise problems.rate_limited(seconds)
        return Caller(
            user_id=principal.user_id,
            event_id=event_id(),
            ip_address=self.proxies.client_address(request),
            user_agent=user_agent(request),
            deadline=deadline,
            if_match=parse_if_match(request) if route.takes_if_match else None,
        )


def build_application(frontend: Frontend) -> web.Application:
    """Return the application that serves the vault's routes."""
    app = web.Application()
    for route in ROUTES:
        # add_route, not add_get: HEAD must not read a key.
        app.router.add_route(route.method, BASE_PATH + route.path, frontend.handler(route))
    return app


class Runner(web.AppRunner):
    """Runs an application on a server that answers unreadable HTTP as a problem, too.

    aiohttp would answer it in plain text and log what it could not read, which may be a token.

    Args:
        app: the routes, and what is said of other paths and methods.
        top_handler: what each request passes before and after them.
        frontend: answers a plain request for a route, without a walk through the application.
    """

    def __init__(self, app: web.Application, top_handler: TopHandler, frontend: Frontend) -> None:
        self._outermost = top_handler
        self._plain = {
            (route.method, BASE_PATH + route.path): frontend.handler(route) for route in ROUTES
        }
        self._options: dict[str, Any] = {
            "keepalive_timeout": KEEPALIVE_SECONDS,
            "access_log": None,
            # No route reads a compressed body, and where none is read it may be anything.
            "auto_decompress": False,
        }
        super().__init__(app, shutdown_timeout=SHUTDOWN_SECONDS, **self._options)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()

        # Around the application: aiohttp judges an Expect before any middleware in it.
        def handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
            handler: Next | None = self._plain.get((request.method, request.raw_path))
            if handler is None or hdrs.EXPECT in request.headers:
                handler = cast("Next", made.request_handler)  # all our handlers return Answers
            return self._outermost.handle(request, handler)

        return _Server(handle, request_factory=made.request_factory, **self._options)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Protocol(web.RequestHandler):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if it is known with whom: the address is asked for here, and then remembered.

        A client that has reset its connection already has none any more. It can't be answered, and
        what it asked for would be done in nobody's name.
        """
        super().connection_made(transport)
        if self.peername is None:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never became a request; the reason's text would quote it."""
        del message
        level = log.error if status >= 500 else log.debug  # noqa: PLR2004
        level("unreadable_request", status=status, error=type(exc).__name__)
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        if status < 500:  # noqa: PLR2004
            problem = problems.bad_request("This is not HTTP/1.1 as this server reads it.")
        else:
            problem = problems.internal()
        answer = problem.answer()
        answer.lines[REQUEST_ID] = new_request_id()
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """Log that something broke on a connection, without what aiohttp would quote."""
        del args
        error = kwargs.get("exc_info")
        log.warning("connection_error", error=type(error).__name__)
