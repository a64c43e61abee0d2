"""The admin listener: /livez, /readyz, /metrics, /version. Not for the public network.

With a token all but the two probes want it, and /readyz names failing parts without a reason.
"""

import hmac
import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from importlib.metadata import version

from aiohttp import hdrs, web
from pydantic import SecretStr

from custody import DISTRIBUTION
from custody.http import problems
from custody.http.middleware import TopHandler
from custody.http.response import Response
from custody.http.router import Endpoint, Router, Table, readable
from custody.http.server import HttpServer, http_server
from custody.ops.gauges import Gauges
from custody.ops.health import Health
from custody.ops.metrics import Metrics
from custody.sockets.addresses import Listener
from custody.sockets.connections import connections_of_admin

_JSON = "application/json; charset=utf-8"


class Admin:
    """Its endpoints.

    Args:
        health: asked by /readyz.
        metrics: shown by /metrics.
        gauges: brought up to date for that.
        token: asked for; None: none is.
    """

    def __init__(
        self, health: Health, metrics: Metrics, gauges: Gauges, token: SecretStr | None = None
    ) -> None:
        self._health = health
        self._metrics = metrics
        self._gauges = gauges
        self._token = token

    def table(self) -> Table:
        """Return all endpoints: what is not named as open wants the token."""
        guarded = readable("/metrics", self.show_metrics) | readable("/version", self.show_version)
        return {
            **{place: self._guard(endpoint) for place, endpoint in guarded.items()},
            **readable("/livez", self.live),
            **readable("/readyz", self.ready),
        }

    async def live(self, _request: web.BaseRequest) -> Response:
        """GET /livez."""
        return _json({"live": True})

    async def ready(self, request: web.BaseRequest) -> Response:
        """GET /readyz."""
        parts = self._health.parts()
        ready = not any(parts.values())
        # What is wrong may name hosts and roles.
        told = self._is_let_in(request)
        shown = {
            name: (what if told else "failing") if what else "ok" for name, what in parts.items()
        }
        body: dict[str, object] = {"ready": ready, "parts": shown}
        if degraded := self._health.degraded():
            body["degraded"] = degraded if told else dict.fromkeys(degraded, "degraded")
        return _json(body, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def show_metrics(self, _request: web.BaseRequest) -> Response:
        """GET /metrics."""
        self._gauges.show()
        body = self._metrics.render(self._health.parts())
        return Response(body, media_type=self._metrics.content_type)

    async def show_version(self, _request: web.BaseRequest) -> Response:
        """GET /version."""
        return _json({"name": "custody", "version": version(DISTRIBUTION)})

    def _guard(self, endpoint: Endpoint) -> Endpoint:
        async def respond(request: web.BaseRequest) -> Response:
            if not self._is_let_in(request):
                had_token = hdrs.AUTHORIZATION in request.headers
                raise problems.unauthorized("The admin token is needed.", had_token=had_token)
            return await endpoint(request)

        return respond

    def _is_let_in(self, request: web.BaseRequest) -> bool:
        """Say whether a request has the token, where one is asked for."""
        if self._token is None:
            return True
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(" ")
        # As bytes: of text that is not ASCII the comparison in constant time would make an error.
        sent = token.strip(" ").encode(errors="surrogateescape")
        right = hmac.compare_digest(sent, self._token.get_secret_value().encode())
        return right and scheme.lower() == "bearer"


def admin_server(
    health: Health,
    metrics: Metrics,
    gauges: Gauges,
    listeners: Sequence[Listener],
    token: SecretStr | None = None,
) -> AbstractAsyncContextManager[HttpServer]:
    """Return the admin server: it serves inside ``async with``. Its requests leave no log line.

    Args:
        health: asked by /readyz.
        metrics: shown by /metrics.
        gauges: brought up to date for that.
        listeners: at least one.
        token: what all but the probes ask for; None: nothing is asked for.
    """
    router = Router(Admin(health, metrics, gauges, token).table())
    connections = connections_of_admin(metrics.connections.closed)
    return http_server(TopHandler(router), listeners, connections)


def _json(body: object, status: int = HTTPStatus.OK) -> Response:
    return Response(json.dumps(body).encode(), status=status, media_type=_JSON)
