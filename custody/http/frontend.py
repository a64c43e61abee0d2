"""The vault's listener: its routes, and from a request to a use case."""

import json
import ssl
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from aiohttp import hdrs, web

from custody import tracing
from custody.audit.events import event_id
from custody.auth.jwks import IssuerUnavailable
from custody.auth.refusals import InvalidToken, Reason, StepUpRequired
from custody.auth.step_up import StepUp
from custody.auth.tokens import Principal, TokenVerifier
from custody.deadline import Deadline
from custody.http import problems
from custody.http.body import read_json
from custody.http.client_address import TrustedProxies, user_agent
from custody.http.cors import Cors
from custody.http.middleware import ROUTE, TopHandler
from custody.http.openapi import document
from custody.http.pages import parse_page
from custody.http.preconditions import parse_if_match
from custody.http.rate import RateLimit
from custody.http.response import Response
from custody.http.router import Endpoint, Router, Table, readable
from custody.http.routes import BASE_PATH, ROUTES, Route
from custody.http.server import Connection, HttpServer, connection_of, http_server
from custody.http.shares import Shares
from custody.http.traced import TracedHandler
from custody.ops.access_log import AccessLog
from custody.ops.alarms import Alarms
from custody.ops.health import Health
from custody.ops.metrics import Metrics
from custody.ops.refused_tokens import RefusedTokens
from custody.ops.tracing import OpenTelemetry
from custody.sockets.addresses import Listener
from custody.sockets.connections import connections_of_vault
from custody.vault.canaries import Canaries
from custody.vault.errors import Unavailable
from custody.vault.model import Caller
from custody.vault.service import VaultService

REQUEST_SECONDS = 10.0


class Frontend:
    """Turns a request into a use case: who, from where, until when, with which body.

    Proxies and limit may be replaced while it serves.

    Args:
        vault: the use cases.
        verifier: of tokens.
        step_up: how the user must have logged in, for the routes that need it.
        refused_tokens: counts them.
        health: shuts the routes while the database is not safe; hears of what requests fail for.
        proxies: whose X-Forwarded-For is believed.
        limit: requests a second and user.
        shares: requests at once, of a user and of all.
        canaries: users whom nobody should ask for.
        alarms: ring where somebody does.
    """

    def __init__(
        self,
        *,
        vault: VaultService,
        verifier: TokenVerifier,
        step_up: StepUp,
        refused_tokens: RefusedTokens,
        health: Health,
        proxies: TrustedProxies,
        limit: RateLimit,
        shares: Shares,
        canaries: Canaries,
        alarms: Alarms,
    ) -> None:
        self._vault = vault
        self._verifier = verifier
        self._step_up = step_up
        self._refused_tokens = refused_tokens
        self._health = health
        self.proxies = proxies
        self.limit = limit
        self._shares = shares
        self._canaries = canaries
        self._alarms = alarms

    def endpoint(self, route: Route) -> Endpoint:
        """Return the endpoint of a route."""

        async def respond(request: web.BaseRequest) -> Response:
            request[ROUTE] = route.name
            connection = connection_of(request)
            caller = await self._caller(request, route, connection)
            self._shares.take(caller.user_id)
            connection.begin()
            try:
                asked: Any = None
                if route.body is not None:
                    asked = await read_json(request, route.body, caller.deadline)
                elif route.is_paged:
                    asked = parse_page(request)
                if not self._health.database_is_safe:
                    raise problems.unavailable(
                        "DATABASE_UNAVAILABLE", "The database can't be used now: try again later."
                    )
                return await route.handler(self._vault, caller, asked)
            except Unavailable as error:
                self._health.met(error)
                raise
            finally:
                connection.end()
                self._shares.give_back(caller.user_id)

        return respond

    def is_proxy(self, peer: str) -> bool:
        """Return whether a peer, an address or nothing for a unix socket, is a trusted proxy."""
        return self.proxies.trust(peer)

    async def _caller(
        self, request: web.BaseRequest, route: Route, connection: Connection
    ) -> Caller:
        """Identify the caller; a request that fails here never gets to the database."""
        deadline = Deadline.after(REQUEST_SECONDS)
        tokens = request.headers.getall(hdrs.AUTHORIZATION, [])
        try:
            if len(tokens) > 1:
                raise InvalidToken(Reason.SEVERAL)
            with tracing.span("token check"):
                principal = await self._verifier.verify(tokens[0] if tokens else None)
        except InvalidToken as error:
            self._refused_tokens.count(error.reason)
            raise problems.unauthorized(
                "A valid access token is needed.", had_token=bool(tokens)
            ) from None
        except IssuerUnavailable:
            raise problems.unavailable(
                "ISSUER_UNAVAILABLE", "Tokens can't be checked now: the issuer's keys are missing."
            ) from None
        connection.know()
        if seconds := self.limit.seconds_to_wait(principal.user_id):
            raise problems.rate_limited(seconds)
        address = self.proxies.client_address(request)
        if principal.user_id in self._canaries.users:
            # Whatever becomes of the request: the token is good.
            self._alarms.canary_touched(route.name, principal.user_id, address)
        if route.needs_step_up:
            self._require_step_up(principal, route)
        return Caller(
            user_id=principal.user_id,
            event_id=event_id(),
            ip_address=address,
            user_agent=user_agent(request),
            deadline=deadline,
            if_match=parse_if_match(request) if route.takes_if_match else None,
        )

    def _require_step_up(self, principal: Principal, route: Route) -> None:
        step_up = self._step_up
        if route.needs_fresh_login:
            step_up = step_up.with_fresh_login
        try:
            step_up.check(principal.auth_time, principal.acr)
        except StepUpRequired as error:
            self._refused_tokens.count(error.reason)
            raise problems.step_up_required(step_up.max_age, step_up.acr_values) from None


def vault_server(
    frontend: Frontend,
    cors: Cors,
    metrics: Metrics,
    listeners: Sequence[Listener],
    tls: ssl.SSLContext | None = None,
    *,
    development: bool = False,
    tracer: OpenTelemetry | None = None,
    with_reset: bool = False,
    more: Table | None = None,
) -> AbstractAsyncContextManager[HttpServer]:
    """Return the vault's server: it serves inside ``async with``.

    Args:
        frontend: of the routes.
        cors: which origins may call them from a browser.
        metrics: count the requests.
        listeners: at least one.
        tls: context of the server's certificate, or None for plain HTTP.
        development: whether it serves the OpenAPI document, too.
        tracer: makes a span of each request; None: nobody asked for traces.
        with_reset: whether users may begin again.
        more: endpoints that look after who is let in by themselves: the page of ``custody dev``.
    """
    routes = _table(frontend, development=development, with_reset=with_reset)
    router = Router(routes | (more or {}))
    connections = connections_of_vault(frontend.is_proxy, metrics.connections.closed)
    options = router, cors, AccessLog(metrics)
    handler = TopHandler(*options)
    if tracer is not None:
        paths = {route.name: (route.method, BASE_PATH + route.path) for route in ROUTES}
        handler = TracedHandler(tracer, frontend.is_proxy, paths, *options)
    return http_server(handler, listeners, connections, tls)


def _table(frontend: Frontend, *, development: bool, with_reset: bool) -> Table:
    # A route takes its own method only: HEAD must not read a key.
    routes = {
        (route.method, BASE_PATH + route.path): frontend.endpoint(route)
        for route in ROUTES
        if with_reset or not route.is_opt_in
    }
    return routes | readable("/openapi.json", _show_document) if development else routes


async def _show_document(_request: web.BaseRequest) -> Response:
    return Response(json.dumps(document()).encode())
