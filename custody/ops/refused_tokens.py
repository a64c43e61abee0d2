"""Why tokens were refused: counted by reason, and logged in bounded number."""

import time
from collections import Counter
from collections.abc import Callable

import structlog

from custody.auth.refusals import Reason
from custody.ops.metrics import Metrics

# A caller chooses how many tokens are refused, and not how many lines there are of it.
_LINE_SECONDS = 60.0

log = structlog.get_logger()


class RefusedTokens:
    """Counts refused tokens, and logs each reason once a minute at most, with its count since then.

    Args:
        metrics: show the counts.
        clock: monotonic seconds.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._unlogged: Counter[Reason] = Counter()
        self._logged_at: dict[Reason, float] = {}

    def count(self, reason: Reason) -> None:
        """Take note of a token that was refused."""
        self._metrics.token_refused(reason.label)
        self._unlogged[reason] += 1
        now = self._clock()
        if now - self._logged_at.get(reason, float("-inf")) >= _LINE_SECONDS:
            self._logged_at[reason] = now
            number = self._unlogged.pop(reason)
            log.info("tokens_refused", reason=reason.label, why=reason.text, tokens=number)
