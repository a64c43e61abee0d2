"""What says that a thief is at work: the brake holds, a row is tampered with, a canary sings."""

import time
from collections.abc import Callable

import structlog

from custody.bounded import Bounded
from custody.ops.metrics import Metrics

log = structlog.get_logger()


class Alarms:
    """Rings in metrics and log.

    Args:
        metrics: show the counts.
        clock: monotonic seconds.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._lines: Bounded[str] = Bounded(clock)

    def newcomer(self) -> None:
        """Count a user who passed the brake and had not been seen lately; no alarm."""
        self._metrics.alarms.newcomer()

    def unwrap_refused(self, limit: int) -> None:
        """Ring since the brake refused a user: in the log once a minute, with their number.

        Args:
            limit: newcomers a minute.
        """
        self._metrics.alarms.unwrap_refused()
        if number := self._lines.count("refused"):
            log.error("unwrap_limit_reached", limit=limit, refused=number)

    def row_tampered(self, user_id: str, reason: str) -> None:
        """Ring since a row is not what was sealed: each time, as nobody but a thief writes one.

        Args:
            user_id: whose row.
            reason: what of it does not hold.
        """
        self._metrics.alarms.row_tampered(reason)
        log.error("row_tampered", user_id=user_id, reason=reason)

    def audit_tampered(self, reason: str) -> None:
        """Ring since the audit's log is not what it was: each time.

        Args:
            reason: a ``checkpoint`` is not what was signed, or the log is ``shorter``.
        """
        self._metrics.alarms.audit_tampered(reason)
        log.error("audit_tampered", reason=reason, cure="custody audit verify")

    def legacy_row_refused(self) -> None:
        """Ring since a row was never sealed: in the log once a minute, with their number."""
        self._metrics.alarms.legacy_row_refused()
        if number := self._lines.count("legacy"):
            log.warning("legacy_row_refused", refused=number)

    def canary_touched(self, route: str, user_id: str, address: str | None) -> None:
        """Ring since somebody asked for a canary: each time, as there is no innocent one.

        Args:
            route: the operation's name.
            user_id: which canary: made up by the operator, so nobody's.
            address: of the client.
        """
        self._metrics.alarms.canary_requested()
        log.error("canary_touched", route=route, user_id=user_id, address=address)
