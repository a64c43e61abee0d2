"""Requests, refusals and latency of the last hour, minute by minute."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from custody.console.history import MINUTES, Interval, Key

_OK = "OK"
_REQUESTS = "custody_requests_total"
_BUCKETS = "custody_request_seconds_bucket"


@dataclass(frozen=True, slots=True)
class Series:
    """A value for each minute of the last hour, the oldest first; None: nothing is known.

    Args:
        values: of the minutes.
    """

    values: tuple[float | None, ...]

    @property
    def last(self) -> float | None:
        """The newest one that is known."""
        return next((value for value in reversed(self.values) if value is not None), None)

    @property
    def most(self) -> float:
        """The greatest one."""
        return max((value for value in self.values if value is not None), default=0.0)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What users did and met.

    Args:
        requests: a second.
        refusals: a second.
        median: seconds to answer.
        slowest: seconds in which 99 of 100 were answered.
        codes: what was refused in the hour, by the problem's code, the most frequent first.
        answered: requests of the hour.
    """

    requests: Series
    refusals: Series
    median: Series
    slowest: Series
    codes: tuple[tuple[str, int], ...]
    answered: int

    @property
    def refused(self) -> int:
        """Refusals of the hour."""
        return sum(number for _, number in self.codes)


def traffic(intervals: Iterable[Interval], now: float) -> Traffic:
    """Add up what was sampled.

    Args:
        intervals: of the last hour.
        now: seconds since 1970.
    """
    first = int(now // 60) - MINUTES + 1
    seconds = [0.0] * MINUTES
    counts: list[Counter[Key]] = [Counter() for _ in range(MINUTES)]
    codes: Counter[str] = Counter()
    for interval in intervals:
        minute = int(interval.at // 60) - first
        if not 0 <= minute < MINUTES:
            continue
        seconds[minute] += interval.seconds
        counts[minute].update(interval.counts)
        for (name, *labels), number in interval.counts.items():
            if name == _REQUESTS:
                codes[labels[0]] += int(number)
    answered = codes.total()
    del codes[_OK]
    both = [_requests(one) for one in counts]
    sorted_buckets = [_buckets(one) for one in counts]
    return Traffic(
        requests=_rates((all_ for all_, _ in both), seconds),
        refusals=_rates((refused for _, refused in both), seconds),
        median=Series(tuple(quantile(0.5, one) for one in sorted_buckets)),
        slowest=Series(tuple(quantile(0.99, one) for one in sorted_buckets)),
        codes=tuple(codes.most_common()),
        answered=answered,
    )


def _rates(numbers: Iterable[float], seconds: Sequence[float]) -> Series:
    return Series(
        tuple(
            number / length if length else None
            for number, length in zip(numbers, seconds, strict=True)
        )
    )


def _requests(counts: Counter[Key]) -> tuple[float, float]:
    """Return how many requests there were, and how many of them were refused."""
    of_requests = [(key[1], number) for key, number in counts.items() if key[0] == _REQUESTS]
    refused = sum(number for code, number in of_requests if code != _OK)
    return sum(number for _, number in of_requests), refused


def _buckets(counts: Counter[Key]) -> list[tuple[float, float]]:
    """Return the cumulative buckets of a histogram, each with its upper bound."""
    return sorted((float(key[1]), number) for key, number in counts.items() if key[0] == _BUCKETS)


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """Return a quantile of a histogram as Prometheus reckons it; None where nothing was counted.

    Args:
        share: from 0 to 1.
        buckets: upper bound and what is at most that, from the least bound to infinity; those in
            which nothing is may lack.
    """
    if not buckets:
        return None
    wanted = share * buckets[-1][1]
    below, lower = 0.0, 0.0
    for bound, number in buckets:
        if number >= wanted and number > below:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (wanted - below) / (number - below)
        below, lower = number, bound
    return lower
