"""Rotations that stay pending: their users' clients have not come back to end them."""

from prometheus_client import CollectorRegistry, Gauge


class Rotations:
    """Of the rows, as the last look found them.

    Args:
        registry: of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pending = Gauge(
            "custody_pending_rotations",
            "Rotations of users' master keys that are pending, counted to 1,001",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._oldest = Gauge(
            "custody_oldest_pending_rotation_timestamp_seconds",
            "When the oldest of them began; 0: none is pending",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )

    def show(self, rotations: int, oldest: float) -> None:
        """Show how many are pending, and when the oldest began."""
        self._pending.set(rotations)
        self._oldest.set(oldest)
