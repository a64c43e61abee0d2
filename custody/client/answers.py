"""What the daemon says of a vault without its key."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from custody.client.errors import BadAnswer
from custody.client.exchange import Response

T = TypeVar("T")


@dataclass(frozen=True)
class Status:
    """What there is."""

    vault_exists: bool
    has_recovery_wrap: bool
    zero_knowledge: bool
    recovery_set_at: datetime | None


@dataclass(frozen=True)
class AuditEvent:
    """One action on the vault, refused ones included.

    ``at`` is None where no daemon wrote the row. Address and user agent are of whoever did it.
    """

    id: str
    at: datetime | None
    action: str
    context: str | None
    status: int
    ip_address: str | None = field(repr=False)
    user_agent: str | None = field(repr=False)


@dataclass(frozen=True)
class AuditPage:
    """Some of them, the newest first; ``next`` asks for those before, None: there are no more."""

    events: tuple[AuditEvent, ...]
    next: str | None


def require_ok(response: Response, **members: bool) -> None:
    """Make sure that the daemon has said that it is done: others answer 200 as well.

    Args:
        response: of a route that gives nothing back.
        members: what else it says.

    Raises:
        BadAnswer: it has not.
    """
    said = _object(response)
    for name, value in {"ok": True, **members}.items():
        if said.get(name) is not value:
            raise BadAnswer


def status_of(response: Response) -> Status:
    """Read an answer of ``/status``.

    Raises:
        BadAnswer: it is none.
    """
    said = _object(response)
    return Status(
        _is(bool, said.get("vaultExists")),
        _is(bool, said.get("hasRecoveryWrap")),
        _is(bool, said.get("zeroKnowledge")),
        _moment(said.get("recoverySetAt")),
    )


def page_of(response: Response) -> AuditPage:
    """Read an answer of ``/audit``.

    Raises:
        BadAnswer: it is none.
    """
    said = _object(response)
    events = tuple(_event(_is(dict, one)) for one in _is(list, said.get("events")))
    return AuditPage(events, _maybe(said.get("next")))


def _event(said: dict[str, Any]) -> AuditEvent:
    return AuditEvent(
        _is(str, said.get("id")),
        _moment(said.get("at")),
        _is(str, said.get("action")),
        _maybe(said.get("context")),
        _is(int, said.get("status")),
        _maybe(said.get("ipAddress")),
        _maybe(said.get("userAgent")),
    )


def _object(response: Response) -> dict[str, Any]:
    try:
        return _is(dict, json.loads(response.body))
    except (ValueError, RecursionError):
        raise BadAnswer from None


def _is(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise BadAnswer
    return value


def _maybe(value: Any) -> str | None:
    return None if value is None else _is(str, value)


def _moment(value: Any) -> datetime | None:
    try:
        at = None if value is None else datetime.fromisoformat(_is(str, value))
    except ValueError:
        raise BadAnswer from None
    if at is not None and at.tzinfo is None:
        raise BadAnswer
    return at
