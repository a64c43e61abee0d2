"""The last hour, from the metrics that are counted anyhow: one sample every ten seconds."""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric

SAMPLE_SECONDS = 10.0
MINUTES = 60
_SAMPLES = int(MINUTES * 60 / SAMPLE_SECONDS)

# Of each counter, the labels that are told apart here; the others are added up.
_COUNTED = {
    "custody_requests_total": ("code",),
    "custody_request_seconds_bucket": ("le",),
    "custody_kms_calls_total": ("kek", "outcome"),
    "custody_kms_call_seconds_sum": ("kek",),
    "custody_kms_call_seconds_count": ("kek",),
    "custody_tampered_rows_total": (),
    "custody_audit_alarms_total": (),
    "custody_canary_requests_total": (),
    "custody_unwrap_refusals_total": (),
}
_SHOWN = frozenset(
    {
        "custody_kms_breaker_open",
        "custody_kek_max_age_seconds",
        "custody_kek_activated_timestamp_seconds",
        "custody_oldest_wrap_timestamp_seconds",
        "custody_data_key_seconds_left",
        "custody_data_key_opened_timestamp_seconds",
        "custody_data_key_coasting",
        "custody_jwks_fetched_timestamp_seconds",
        "custody_audit_sealed_timestamp_seconds",
        "custody_audit_unsealed_rows",
    }
)

# A metric's name, and the values of those labels that are told apart.
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    """What was counted between two samples.

    Args:
        at: its end, in seconds since 1970.
        seconds: its length.
        counts: what grew, and by how much.
    """

    at: float
    seconds: float
    counts: Mapping[Key, float]


class History:
    """Keeps an hour of intervals, and the states of the last sample.

    Args:
        collect: returns the metrics as they are.
        every: seconds from one sample to the next.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        collect: Callable[[], Iterable[Metric]],
        every: float = SAMPLE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._collect = collect
        self._every = every
        self._clock = clock
        self._at: float | None = None
        self._totals: Mapping[Key, float] = {}
        self.intervals: deque[Interval] = deque(maxlen=_SAMPLES)
        self.states: Mapping[Key, float] = {}

    def sample(self) -> None:
        """Take a sample now."""
        totals: Counter[Key] = Counter()
        states: dict[Key, float] = {}
        for metric in self._collect():
            for name, labels, value, *_ in metric.samples:
                if (told_apart := _COUNTED.get(name)) is not None:
                    totals[(name, *(labels[one] for one in told_apart))] += value  # type: ignore[assignment]
                elif name in _SHOWN:
                    states[(name, *labels.values())] = value
        now = self._clock()
        if self._at is not None and now > self._at:
            grown = {
                key: value - self._totals.get(key, 0.0)
                for key, value in totals.items()
                if value > self._totals.get(key, 0.0)
            }
            self.intervals.append(Interval(now, now - self._at, grown))
        self._at, self._totals, self.states = now, totals, states

    def state(self, *key: str) -> float:
        """Return a state as of the last sample; 0 where there is none."""
        return self.states.get(key, 0.0)

    def totals(self) -> Counter[Key]:
        """Return what was counted in the last hour."""
        totals: Counter[Key] = Counter()
        for interval in self.intervals:
            totals.update(interval.counts)
        return totals

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Take samples for the length of the block."""
        task = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep(self) -> None:
        while True:
            self.sample()
            await asyncio.sleep(self._every)
