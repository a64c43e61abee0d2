"""KEKs and data keys: calls of a KMS, the breaker, ages."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.005, 0.025, 0.1, 0.5, 2, 5)


class Keks:
    """Of all that keys are wrapped under.

    Args:
        registry: of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "custody_kms_calls",
            "Calls of a KMS, retries included, by how they ended",
            ("kek", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "custody_kms_call_seconds",
            "How long a call of a KMS took, retries included",
            ("kek",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._breaker = Gauge(
            "custody_kms_breaker_open",
            "1 where the last calls of a KMS failed and it is tried once a second, in any process",
            ("kek",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._max_age = Gauge(
            "custody_kek_max_age_seconds",
            "CUSTODY_KEK_MAX_AGE; 0: no KEK is too old",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._second_root = Gauge(
            "custody_second_root",
            "1 where CUSTODY_SECOND_KEK is set: then drills are due",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._activated = Gauge(
            "custody_kek_activated_timestamp_seconds",
            "When the active KEK, in its present version, became the active one; 0: not known",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._oldest = Gauge(
            "custody_oldest_wrap_timestamp_seconds",
            "When the oldest KEK or data key that has rows was recorded: no wrap is older; "
            "0: not known",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._left = Gauge(
            "custody_data_key_seconds_left",
            "How long the data key is kept without being opened again, in the process where that "
            "is the least; 0 where none is open",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._opened = Gauge(
            "custody_data_key_opened_timestamp_seconds",
            "When the data key was opened last, in the process where that is the longest ago; "
            "0 where none is open",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._coasting = Gauge(
            "custody_data_key_coasting",
            "1 where a data key could not be opened again and is kept meanwhile, in any process",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._shown: set[str] = set()

    def called(self, kek: str) -> Callable[[str, float], None]:
        """Return what takes, for each call of a KMS, how it ended and its seconds.

        Args:
            kek: the URI without its parameters.
        """
        seconds = self._seconds.labels(kek)

        def take(outcome: str, took: float) -> None:
            self._calls.labels(kek, outcome).inc()
            seconds.observe(took)

        return take

    def show_breakers(self, are_open: Mapping[str, bool]) -> None:
        """Show which breakers are open.

        Args:
            are_open: by KEK; one that is not there any more is not shown as open for ever.
        """
        for kek in self._shown - are_open.keys():
            self._breaker.labels(kek).set(0)
        self._shown |= are_open.keys()
        for kek, is_open in are_open.items():
            self._breaker.labels(kek).set(is_open)

    def show_max_age(self, seconds: float) -> None:
        """Show how old the active KEK may become; 0: that is not watched."""
        self._max_age.set(seconds)

    def show_second_root(self, *, is_set: bool) -> None:
        """Show whether there is a second root, which drills are due of."""
        self._second_root.set(is_set)

    def show_ages(self, activated_at: float, oldest_at: float) -> None:
        """Show since when the active KEK is the active one, and how old a wrap may be."""
        self._activated.set(activated_at)
        self._oldest.set(oldest_at)

    def show_data_key(self, seconds_left: float, opened_at: float, *, is_coasting: bool) -> None:
        """Show how fresh the data key is.

        Args:
            seconds_left: how long it is kept without being opened again.
            opened_at: when it was opened last; 0 where none is open.
            is_coasting: whether one could not be opened again.
        """
        self._left.set(seconds_left)
        self._opened.set(opened_at)
        self._coasting.set(is_coasting)
