"""The database as the daemon uses it: pools of connections, batches, and the time that was left."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge, Histogram

_WAITS = (0.001, 0.01, 0.1, 0.5, 1, 2, 3)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_SAMPLED = 8
_LEFT = (0.5, 1, 2, 4, 6, 8, 9, 9.5, 10)


class Database:
    """Of pools and batches.

    Args:
        registry: of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._connections = Gauge(
            "custody_database_connections",
            "Connections of a pool, by what they do",
            ("pool", "state"),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._limit = Gauge(
            "custody_database_connections_limit",
            "Connections that a pool may have",
            ("pool",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._waits = Histogram(
            "custody_database_wait_seconds",
            "How long a connection of a pool was waited for, a new one's making included",
            ("pool",),
            buckets=_WAITS,
            registry=registry,
        )
        self._sizes = Histogram(
            "custody_batch_requests",
            "Requests that shared a statement and its transaction",
            ("statement",),
            buckets=_SIZES,
            registry=registry,
        )
        self._left = Histogram(
            "custody_commit_deadline_left_seconds",
            "Time that the most urgent request of a batch of audit rows had left when it was "
            "committed",
            buckets=_LEFT,
            registry=registry,
        )

    def waited(self, pool: str) -> Callable[[float], None]:
        """Return what takes the seconds that one connection of a pool was waited for."""
        return self._waits.labels(pool).observe

    def served(self, statement: str) -> Callable[[int, float], None]:
        """Return what takes, for each batch, its size and the seconds that were left after it.

        One in eight is shown: where few requests share a batch, all would cost each of them more
        than it costs to count the request itself.

        Args:
            statement: ``read`` or ``record``; the time left is that of the second one, which
                commits.
        """
        size = self._sizes.labels(statement).observe
        left = self._left.observe if statement == "record" else None

        batches = 0

        def take(requests: int, seconds_left: float) -> None:
            nonlocal batches
            batches += 1
            if (batches - 1) % _SAMPLED:
                return
            size(requests)
            if left is not None:
                left(seconds_left)

        return take

    def show_pool(self, pool: str, in_use: int, idle: int, limit: int) -> None:
        """Show what a pool has.

        Args:
            pool: its name.
            in_use: connections that somebody has borrowed.
            idle: those that nobody has.
            limit: how many there may be.
        """
        self._connections.labels(pool, "in-use").set(in_use)
        self._connections.labels(pool, "idle").set(idle)
        self._limit.labels(pool).set(limit)
