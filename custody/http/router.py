"""Matches requests to endpoints: the one place where a method and a path are compared."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import hdrs, web

from custody.http.response import Response

Endpoint: TypeAlias = Callable[[web.BaseRequest], Awaitable[Response]]
# By method and path.
Table: TypeAlias = dict[tuple[str, str], Endpoint]


class Router:
    """Finds the endpoint of a request.

    Args:
        table: all endpoints of a listener.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        methods: dict[str, list[str]] = {}
        for method, path in sorted(self._table):
            methods.setdefault(path, []).append(method)
        self._methods = methods

    def match(self, request: web.BaseRequest) -> Endpoint | None:
        """Return the endpoint of a request, or None where its path or method has none."""
        endpoint = self._table.get((request.method, request.raw_path))
        if endpoint is None:
            endpoint = self._table.get((request.method, _path(request)))
        return endpoint

    def methods(self, request: web.BaseRequest) -> list[str]:
        """Return the methods that a path takes, sorted: none if the path is not ours."""
        return self._methods.get(_path(request), [])


def readable(path: str, endpoint: Endpoint) -> Table:
    """Return the entries of a path that takes GET and HEAD."""
    return {(hdrs.METH_GET, path): endpoint, (hdrs.METH_HEAD, path): endpoint}


def _path(request: web.BaseRequest) -> str:
    """Return the path that a request target means, without percent-encoding, query and host.

    An encoded slash stays encoded: it separates nothing.
    """
    return request.rel_url.path_safe
