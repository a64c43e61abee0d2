"""The admin listener: /livez, /readyz, /metrics, /version. Not for the public network."""

import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from importlib.metadata import version

from aiohttp import web

from custody import DISTRIBUTION
from custody.http.middleware import TopHandler
from custody.http.response import Response
from custody.http.router import Router, readable
from custody.http.server import HttpServer, http_server
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
    """

    def __init__(self, health: Health, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics

    async def live(self, _request: web.BaseRequest) -> Response:
        """GET /livez."""
        return _json({"live": True})

    async def ready(self, _request: web.BaseRequest) -> Response:
        """GET /readyz."""
        parts = self._health.parts()
        ready = not any(parts.values())
        body: dict[str, object] = {
            "ready": ready,
            "parts": {name: what or "ok" for name, what in parts.items()},
        }
        if degraded := self._health.degraded():
            body["degraded"] = degraded
        return _json(body, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    async def show_metrics(self, _request: web.BaseRequest) -> Response:
        """GET /metrics."""
        self._metrics.show_data_key(self._health.data_key_seconds_left)
        body = self._metrics.render(self._health.parts())
        return Response(body, media_type=self._metrics.content_type)

    async def show_version(self, _request: web.BaseRequest) -> Response:
        """GET /version."""
        return _json({"name": "custody", "version": version(DISTRIBUTION)})


def admin_server(
    health: Health, metrics: Metrics, listeners: Sequence[Listener]
) -> AbstractAsyncContextManager[HttpServer]:
    """Return the admin server: it serves inside ``async with``. Its requests leave no log line.

    Args:
        health: asked by /readyz.
        metrics: shown by /metrics.
        listeners: at least one.
    """
    admin = Admin(health, metrics)
    router = Router(
        {
            **readable("/livez", admin.live),
            **readable("/readyz", admin.ready),
            **readable("/metrics", admin.show_metrics),
            **readable("/version", admin.show_version),
        }
    )
    connections = connections_of_admin(metrics.connection_closed)
    return http_server(TopHandler(router), listeners, connections)


def _json(body: object, status: int = HTTPStatus.OK) -> Response:
    return Response(json.dumps(body).encode(), status=status, media_type=_JSON)
