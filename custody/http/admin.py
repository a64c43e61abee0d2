"""The admin listener: /livez, /readyz, /metrics, /version. Not for the public network."""

from collections.abc import Awaitable, Callable
from importlib.metadata import version

from aiohttp import web

from custody import DISTRIBUTION
from custody.http import problems
from custody.http.middleware import REQUEST_ID, new_request_id
from custody.http.response import SAFE_HEADERS
from custody.ops.health import Health
from custody.ops.metrics import Metrics


def build_admin(health: Health, metrics: Metrics) -> web.Application:
    """Return the admin application.

    Args:
        health: asked by /readyz.
        metrics: shown by /metrics.
    """

    async def livez(_request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def readyz(_request: web.Request) -> web.Response:
        parts = health.parts()
        ready = not any(parts.values())
        body = {"ready": ready, "parts": {name: what or "ok" for name, what in parts.items()}}
        return web.json_response(body, status=200 if ready else 503)

    async def show_metrics(_request: web.Request) -> web.Response:
        body = metrics.render(health.parts())
        return web.Response(body=body, headers={"Content-Type": metrics.content_type})

    async def show_version(_request: web.Request) -> web.Response:
        return web.json_response({"name": "custody", "version": version(DISTRIBUTION)})

    app = web.Application(middlewares=[_problems])
    app.on_response_prepare.append(_protect)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/version", show_version)
    return app


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        answer = problems.of_http(error).answer()
        answer.lines[REQUEST_ID] = new_request_id()
        return answer


async def _protect(_request: web.Request, response: web.StreamResponse) -> None:
    """Set what an Answer has by itself."""
    response.headers.update(SAFE_HEADERS)
    response.headers[REQUEST_ID] = new_request_id()
