"""The access log: a line and two metrics for each completed request."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import structlog

from custody.ops.logging import default_lines, timestamp
from custody.ops.metrics import Metrics

log = structlog.get_logger()


class AccessRecord(NamedTuple):
    """A completed request.

    Args:
        method: of HTTP, where a route took it.
        route: the operation's name, or ``none``.
        status: HTTP status.
        code: of the problem, or ``OK``.
        seconds: it took.
        request_id: letters, digits, dots, dashes and underscores.
        quiet: of interest at debug level only, as one that no route took.
        trace: its place in a trace, where there is one; hexadecimal digits.
    """

    method: str | None
    route: str
    status: int
    code: str
    seconds: float
    request_id: str
    quiet: bool
    trace: Mapping[str, str]


class AccessLog:
    """Counts and logs completed requests, at the end of a turn of the event loop.

    Responses come in bursts, as batches are committed. Recorded one after the other they cost a
    third of what they do in between: the processor's caches have what it needs.

    Args:
        metrics: count the requests.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._completed: list[AccessRecord] = []

    def record(self, completed: AccessRecord) -> None:
        """Add a completed request."""
        self._completed.append(completed)
        if len(self._completed) == 1:
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Count and log what was added, now."""
        completed, self._completed = self._completed, []
        count_request = self._metrics.requests.count_request
        for one in completed:
            count_request(one.route, one.status, one.code, one.seconds)
        log_requests(completed)


def log_requests(completed: Iterable[AccessRecord]) -> None:
    """Log completed requests, as of now.

    To build the line of any other event takes a tenth of all that is done for a request. So in the
    format and at the level that are the default these lines are formatted by hand; no value in them
    can need an escape.
    """
    if (lines := default_lines()) is not None:
        end = f'"event": "request", "level": "info", "timestamp": "{timestamp()}"}}'
        lines.info(
            *(
                f'{{"method": "{one.method}", "route": "{one.route}", '
                f'"status": {one.status}, "code": "{one.code}", '
                f'"milliseconds": {one.seconds * 1000:.2f}, "request_id": "{one.request_id}", '
                + "".join(f'"{name}": "{value}", ' for name, value in one.trace.items())
                + end
                for one in completed
                if not one.quiet
            )
        )
        return
    bound = log.bind()
    for one in completed:
        (bound.debug if one.quiet else bound.info)(
            "request",
            method=one.method,
            route=one.route,
            status=one.status,
            code=one.code,
            milliseconds=round(one.seconds * 1000, 2),
            request_id=one.request_id,
            **one.trace,
        )
