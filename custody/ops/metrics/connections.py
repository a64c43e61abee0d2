"""Connections of clients, by listener."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class Connections:
    """How many there are, may be, and were closed.

    Args:
        registry: of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._open = Gauge(
            "custody_connections",
            "Connections of clients that are open",
            ("listener",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._bound = Gauge(
            "custody_connections_limit",
            "Connections of clients that there may be",
            ("listener",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._closed = Counter(
            "custody_closed_connections",
            "Connections closed to make room for others, or because responses were not read",
            ("reason",),
            registry=registry,
        )

        # Shown from the beginning: else a query for an increase misses the first one.
        for reason in ("room", "unread"):
            self._closed.labels(reason)

    def closed(self, reason: str) -> None:
        """Count a connection that the daemon closed on its client.

        Args:
            reason: one of a fixed set.
        """
        self._closed.labels(reason).inc()

    def show(self, listener: str, number: int, bound: int) -> None:
        """Show how many there are.

        Args:
            listener: ``vault`` or ``admin``.
            number: of open ones.
            bound: how many there may be.
        """
        self._open.labels(listener).set(number)
        self._bound.labels(listener).set(bound)
