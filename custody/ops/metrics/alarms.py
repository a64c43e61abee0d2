"""What says that a thief is at work: the brake, canaries, tampered rows, a tampered audit."""

from prometheus_client import CollectorRegistry, Counter

# Shown from the beginning: else a query for an increase misses the first one.
_OF_ROWS = ("seal", "data-key", "format", "key-check", "wrap", "previous", "columns")
_OF_AUDIT = ("checkpoint", "shorter")


class Alarms:
    """Counts of what :class:`custody.ops.alarms.Alarms` rings for.

    Args:
        registry: of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._newcomers = Counter(
            "custody_unwrap_newcomers",
            "Users who got at their vaults and were not seen in the day before",
            registry=registry,
        )
        self._unwrap_refusals = Counter(
            "custody_unwrap_refusals",
            "Requests that were refused since CUSTODY_UNWRAP_LIMIT was reached",
            registry=registry,
        )
        self._canary_requests = Counter(
            "custody_canary_requests",
            "Requests for one of CUSTODY_CANARY_USERS",
            registry=registry,
        )
        self._tampered_rows = Counter(
            "custody_tampered_rows",
            "Requests that met a row which is not what was sealed",
            ("reason",),
            registry=registry,
        )
        self._audit = Counter(
            "custody_audit_alarms",
            "Looks at the audit's log that found it not to be what it was",
            ("reason",),
            registry=registry,
        )
        for reason in _OF_ROWS:
            self._tampered_rows.labels(reason)
        for reason in _OF_AUDIT:
            self._audit.labels(reason)
        self._legacy_refusals = Counter(
            "custody_legacy_row_refusals",
            "Requests that were refused since the row was never sealed",
            registry=registry,
        )

    def newcomer(self) -> None:
        """Count a user who got at a vault and was not seen lately."""
        self._newcomers.inc()

    def unwrap_refused(self) -> None:
        """Count a request that the brake refused."""
        self._unwrap_refusals.inc()

    def canary_requested(self) -> None:
        """Count a request for a canary."""
        self._canary_requests.inc()

    def row_tampered(self, reason: str) -> None:
        """Count a request that met a tampered row.

        Args:
            reason: one of a fixed set.
        """
        self._tampered_rows.labels(reason).inc()

    def audit_tampered(self, reason: str) -> None:
        """Count a look at the audit's log that found it not to be what it was.

        Args:
            reason: one of a fixed set.
        """
        self._audit.labels(reason).inc()

    def legacy_row_refused(self) -> None:
        """Count a request that was refused since its row was never sealed."""
        self._legacy_refusals.inc()
