"""The audit's log: how far it is sealed."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class Audit:
    """Of the sealer, whichever process it is in.

    Args:
        registry: of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._sealed_at = Gauge(
            "custody_audit_sealed_timestamp_seconds",
            "Every audit row that was committed before this moment is under a checkpoint, as the "
            "process says that looked last; 0: not known",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._interval = Gauge(
            "custody_audit_seal_interval_seconds",
            "CUSTODY_AUDIT_SEAL_INTERVAL; 0: this daemon does not seal",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._waiting = Gauge(
            "custody_audit_unsealed_rows",
            "Audit rows that the last look found to be behind the last checkpoint",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._sealed = Counter(
            "custody_audit_sealed_rows",
            "Audit rows that this daemon has brought under a checkpoint",
            registry=registry,
        )

    def show_interval(self, seconds: float) -> None:
        """Show how often the audit is to be sealed; 0: never, by this daemon."""
        self._interval.set(seconds)

    def waiting(self, rows: int) -> None:
        """Show how many rows, at most, are not under a checkpoint."""
        self._waiting.set(rows)

    def sealed(self, rows: int) -> None:
        """Count rows that were brought under a checkpoint."""
        self._sealed.inc(rows)

    def sealed_until(self, moment: float) -> None:
        """Show the moment up to which every row is under a checkpoint."""
        self._sealed_at.set(moment)
