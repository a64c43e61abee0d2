"""Metrics in OpenMetrics form. Labels hold route names and codes, never anything of a user."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "custody_requests",
            "Requests answered",
            ("route", "status", "code"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "custody_request_seconds",
            "Time to answer",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._ready = Gauge(
            "custody_ready", "1 where a part is ready", ("part",), registry=self._registry
        )

    def answered(self, route: str, status: int, code: str, seconds: float) -> None:
        """Count an answer.

        Args:
            route: the operation's name, or ``none`` for a path that is not ours.
            status: HTTP status.
            code: of the problem, or ``OK``.
            seconds: from the request's first byte after its headers to the answer.
        """
        self._requests.labels(route, str(status), code).inc()
        self._seconds.labels(route).observe(seconds)

    def render(self, readiness: dict[str, str | None]) -> bytes:
        """Return the exposition.

        Args:
            readiness: for each part its problem, or None where it is ready.
        """
        for part, problem in readiness.items():
            self._ready.labels(part).set(problem is None)
        exposition: bytes = generate_latest(self._registry)  # type: ignore[no-untyped-call]
        return exposition
