"""An audit row as it leaves the database: the columns, as JSON has them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

# As timestamptz_send counts: microseconds, from here.
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AHEAD = (_EPOCH - _UNIX_EPOCH) // timedelta(milliseconds=1)


def time_of(row: Mapping[str, Any]) -> datetime | None:
    """Return when a row was written; None: PostgreSQL alone has such a time.

    Args:
        row: with ``created_at`` as ``timestamptz_send`` has it.
    """
    try:
        return _EPOCH + timedelta(microseconds=_microseconds(row))
    except OverflowError:
        return None


def milliseconds_of(row: Mapping[str, Any]) -> int:
    """Return when a row was written, in milliseconds since 1970.

    Args:
        row: as for :func:`time_of`; any time is a number here.
    """
    return _microseconds(row) // 1000 + _AHEAD


def as_object(row: Mapping[str, Any]) -> dict[str, object]:
    """Return a row as JSON shows it.

    Args:
        row: its columns, whatever they hold.
    """
    at, seal = time_of(row), row["seal"]
    return {
        "number": row["number"],
        "id": row["id"],
        "at": None if at is None else iso(at),
        "user": row["user_id"],
        "action": row["action"],
        "context": row["context"],
        "status": row["status"],
        "ipAddress": row["ip_address"],
        "userAgent": row["user_agent"],
        "state": row["state"],
        "seal": None if seal is None else seal.hex(),
    }


def as_row(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row that :func:`as_object` has shown, as ``read_audit_rows`` reads it.

    Args:
        given: an object; what it says is not believed.

    Raises:
        KeyError, TypeError, ValueError: no row is shown so.
    """
    at = (datetime.fromisoformat(given["at"]) - _EPOCH) // _MICROSECOND
    seal = given["seal"]
    return {
        "number": given["number"],
        "id": given["id"],
        "user_id": given["user"],
        "action": given["action"],
        "context": given["context"],
        "status": given["status"],
        "created_at": at.to_bytes(8, "big", signed=True),
        "state": given["state"],
        "seal": None if seal is None else bytes.fromhex(seal),
        "ip_address": given["ipAddress"],
        "user_agent": given["userAgent"],
    }


def iso(at: datetime) -> str:
    """Return a time in UTC, to the microsecond, as ISO 8601 has it."""
    return f"{at.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _microseconds(row: Mapping[str, Any]) -> int:
    return int.from_bytes(row["created_at"], "big", signed=True)
