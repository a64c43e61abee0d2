"""This host's clock, against the database's and the issuer's."""

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.queries import query
from custody.db.scope import transaction
from kek_backends.findings import Finding, Verdict

_PART = "clock"
_CURE = "timedatectl set-ntp true"
# A token is checked with a leeway of 30 s; what is near to it is refused now and then.
_WARNING_SECONDS, _ERROR_SECONDS = 5.0, 25.0
# What an HTTP date, and a cache's Age, leave open.
_RESOLUTION = 1.0


async def examine_database_clock(
    engine: AsyncEngine, now: Callable[[], float] = time.time
) -> Finding:
    """Compare with the database's clock.

    Args:
        engine: connections of a runtime role.
        now: a clock, in seconds since 1970.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine) as connection:
        before = now()
        theirs = await connection.fetchval(query("read_clock"))
        after = now()
    return _finding("the database's", theirs - (before + after) / 2, (after - before) / 2)


def examine_issuer_clock(
    headers: Mapping[str, str], now: Callable[[], float] = time.time
) -> Finding:
    """Compare with the clock of whoever served the JWKS.

    Args:
        headers: of the answer that came just now.
        now: a clock, in seconds since 1970.
    """
    try:
        date = parsedate_to_datetime(headers["Date"]).timestamp() + int(headers.get("Age", "0"))
    except (KeyError, ValueError, TypeError):
        message = "the issuer's clock was not seen: its answer has no Date that can be read"
        return Finding(Verdict.UNSEEN, message, _PART)
    return _finding("the issuer's", date - now(), _RESOLUTION)


def _finding(whose: str, ahead: float, unsure: float) -> Finding:
    """Judge how far another clock is ahead of ours."""
    off = max(0.0, abs(ahead) - unsure)
    if off < _WARNING_SECONDS:
        return Finding(
            Verdict.OK, f"it agrees with {whose}, to {max(0.1, off + unsure):.1f} s", _PART
        )
    side = "behind" if ahead > 0 else "ahead of"
    verdict = Verdict.FINDING if off >= _ERROR_SECONDS else Verdict.WARNING
    message = (
        f"this host's clock is {abs(ahead):.0f} s {side} {whose}: tokens are refused from 30 s on, "
        "and ages are wrong; one of the two is not synchronised"
    )
    return Finding(verdict, message, _PART, _CURE)
