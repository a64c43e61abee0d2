"""Tokens that were refused, and how fresh the issuer's keys are."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class Tokens:
    """Of the way from a token to a user.

    Args:
        registry: of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            "custody_refused_tokens",
            "Tokens that were refused, by the first reason",
            ("reason",),
            registry=registry,
        )
        self._fetched = Gauge(
            "custody_jwks_fetched_timestamp_seconds",
            "When the JWKS in use was fetched, in the process where it is the oldest; 0: never",
            registry=registry,
            multiprocess_mode="livemin",
        )

    def refused(self, reason: str) -> None:
        """Count a token that was refused.

        Args:
            reason: one of a fixed set.
        """
        self._refused.labels(reason).inc()

    def show_jwks(self, fetched_at: float) -> None:
        """Show when the JWKS in use was fetched; 0 where there is none."""
        self._fetched.set(fetched_at)
