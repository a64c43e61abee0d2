"""Why tokens were refused: counted by reason, and logged in bounded number."""

import time
from collections.abc import Callable

import structlog

from custody.auth.refusals import Reason
from custody.bounded import Bounded
from custody.ops.metrics import Metrics

log = structlog.get_logger()


class RefusedTokens:
    """Counts refused tokens, and logs each reason once a minute at most, with its count since then.

    Args:
        metrics: show the counts.
        clock: monotonic seconds.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._lines: Bounded[Reason] = Bounded(clock)

    def count(self, reason: Reason) -> None:
        """Take note of a token that was refused."""
        self._metrics.tokens.refused(reason.label)
        if number := self._lines.count(reason):
            log.info("tokens_refused", reason=reason.label, why=reason.text, tokens=number)
