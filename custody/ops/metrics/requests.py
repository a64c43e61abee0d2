"""Requests: the one subject that is counted for each of them, so in as little time as can be."""

from prometheus_client import CollectorRegistry, Counter, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Requests:
    """What was answered, and how fast.

    Args:
        registry: of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "custody_requests",
            "Requests answered",
            ("route", "status", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "custody_request_seconds",
            "Time to answer",
            ("route",),
            buckets=_BUCKETS,
            registry=registry,
        )
        # What labels() returns: to find it takes longer than to count.
        self._children: dict[tuple[str, int, str], tuple[Counter, Histogram]] = {}

    def count_request(self, route: str, status: int, code: str, seconds: float) -> None:
        """Count a completed request.

        Args:
            route: the operation's name, or ``none`` for a path that is not ours.
            status: HTTP status.
            code: of the problem, or ``OK``.
            seconds: from the end of the request's headers to the response.
        """
        labels = route, status, code
        children = self._children.get(labels)
        if children is None:
            children = self._requests.labels(route, str(status), code), self._seconds.labels(route)
            self._children[labels] = children
        count, duration = children
        count.inc()
        duration.observe(seconds)
