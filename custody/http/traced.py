"""The span of each request, where requests are traced."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from custody.http.middleware import REQUEST_ID, ROUTE, TopHandler
from custody.http.response import Response
from custody.ops.tracing import OpenTelemetry


class TracedHandler(TopHandler):
    """Responds to every request of a listener, each in a span.

    A trace that a client names is joined only where a trusted proxy sends the request: who could
    name one from anywhere would decide what is sampled, and into whose trace it goes. Its
    tracestate and baggage are not read.

    Args:
        tracer: makes the spans.
        is_proxy: whether a peer is a trusted proxy.
        paths: of the routes, by name.
        options: as for :class:`TopHandler`.
    """

    def __init__(
        self,
        tracer: OpenTelemetry,
        is_proxy: Callable[[str], bool],
        paths: Mapping[str, tuple[str, str]],
        *options: Any,
    ) -> None:
        super().__init__(*options)
        self._tracer = tracer
        self._is_proxy = is_proxy
        self._paths = paths

    async def handle(self, request: web.BaseRequest) -> Response:
        """Respond to a request."""
        with self._tracer.request(self._traceparent(request)) as span:
            response = await super().handle(request)
            # What a client has chosen is in none of it, but for a plain request id.
            method, path = self._paths.get(request.get(ROUTE, ""), ("", ""))
            if path:
                span.update_name(f"{method} {path}")
                span.set_attributes({"http.request.method": method, "http.route": path})
            span.set_attribute("http.response.status_code", response.status)
            span.set_attribute("custody.request_id", response.fields[REQUEST_ID])
            if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                self._tracer.failed(span)
            return response

    def _traceparent(self, request: web.BaseRequest) -> str | None:
        given = request.headers.getall("traceparent", ())
        peer = request.remote
        if len(given) != 1 or peer is None or not self._is_proxy(peer):
            return None
        return given[0]
