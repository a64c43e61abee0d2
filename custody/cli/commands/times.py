"""How commands show a time: in UTC, to the second."""

from datetime import UTC, datetime


def shown(at: datetime) -> str:
    """Return a time as ISO 8601 has it, such as 2026-03-02T16:02:41Z."""
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"
