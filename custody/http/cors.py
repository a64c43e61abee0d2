"""Cross-origin requests of browsers (the Fetch standard's CORS protocol)."""

from collections.abc import Iterable, Sequence

from aiohttp import hdrs, web

from custody.http.response import Response

_ALLOW_HEADERS = "Authorization, Content-Type, If-Match"
_EXPOSE_HEADERS = "ETag, Retry-After, WWW-Authenticate, X-Request-Id"
_MAX_AGE_SECONDS = "600"


class Cors:
    """Which origins may call the vault from a browser.

    Args:
        origins: exact origins; none by default, so that no page can call the vault.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)

    def allow(self, origins: Sequence[str]) -> None:
        """Let these origins call from now on, and no others."""
        self._origins = frozenset(origins)

    def mark(self, request: web.BaseRequest, response: Response) -> None:
        """Say to the browser whether the page may read the response."""
        if not self._origins:
            return
        response.fields[hdrs.VARY] = "Origin"
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in self._origins:
            response.fields[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.fields[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
            response.fields[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSE_HEADERS

    def preflight(self, request: web.BaseRequest, methods: Iterable[str]) -> Response | None:
        """Respond to a preflight.

        Args:
            request: one that no route takes.
            methods: what its path takes, in the order to be shown.

        Returns:
            The response, or None: it is no preflight, or of an origin that is not allowed.
        """
        if (
            request.method != hdrs.METH_OPTIONS
            or request.headers.get(hdrs.ORIGIN) not in self._origins
            or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers
        ):
            return None
        return Response(
            b"",
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(methods),
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _ALLOW_HEADERS,
                hdrs.ACCESS_CONTROL_MAX_AGE: _MAX_AGE_SECONDS,
            },
        )
