"""The admin listener: /livez, /readyz, /metrics, /version. Not for the public network.

With a token all but the two probes want it, and /readyz names failing parts without a reason.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from importlib.metadata import version

from aiohttp import web

from custody import DISTRIBUTION
from custody.http.access import Access
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
        access: lets requests in.
    """

    def __init__(self, health: Health, metrics: Metrics, gauges: Gauges, access: Access) -> None:
        self._health = health
        self._metrics = metrics
        self._gauges = gauges
        self._access = access

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
        told = self._access.lets_in(request)
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
            self._access.check(request)
            return await endpoint(request)

        return respond


def admin_server(
    health: Health,
    metrics: Metrics,
    gauges: Gauges,
    listeners: Sequence[Listener],
    *,
    access: Access,
    more: Table,
) -> AbstractAsyncContextManager[HttpServer]:
    """Return the admin server: it serves inside ``async with``. Its requests leave no log line.

    Args:
        health: asked by /readyz.
        metrics: shown by /metrics.
        gauges: brought up to date for that.
        listeners: at least one.
        access: lets requests in.
        more: endpoints that look after that by themselves: the console's.
    """
    router = Router(Admin(health, metrics, gauges, access).table() | more)
    connections = connections_of_admin(metrics.connections.closed)
    return http_server(TopHandler(router), listeners, connections)


def _json(body: object, status: int = HTTPStatus.OK) -> Response:
    return Response(json.dumps(body).encode(), status=status, media_type=_JSON)
