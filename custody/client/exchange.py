"""One call of a route without its I/O: what to send, wait for and ask, as a generator."""

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

from custody.client import errors

TRIES: Final = 4
FIRST_PAUSE: Final = 0.5
LONGEST_WAIT: Final = 30.0
_OK, _UNAUTHORIZED, _CONFLICT, _STALE = 200, 401, 409, 412
_LATER: Final = (429, 503)


@dataclass(frozen=True)
class Request:
    """What is sent. ``repeatable``: to do it twice is to do it once."""

    method: str
    path: str
    body: bytes | None = field(default=None, repr=False)
    if_match: str | None = None
    token: str = field(default="", repr=False)
    repeatable: bool = True


@dataclass(frozen=True)
class Response:
    """What came; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Wait:
    """Seconds until the next try."""

    seconds: float


@dataclass(frozen=True)
class Ask:
    """A callback of the application; its answer, or what its awaitable gives, comes back."""

    callback: Callable[..., Any] = field(repr=False)
    arguments: tuple[Any, ...] = field(default=(), repr=False)


T = TypeVar("T")
Steps: TypeAlias = Generator[Request | Wait | Ask, Any, T]


def call(request: Callable[[str], Request], token: Callable[[], Any]) -> Steps[Response]:
    """Send a request until there is an answer that counts; a refused token is replaced once.

    Args:
        request: makes it, for a token.
        token: the application's; asked again after a 401.

    Raises:
        errors.CustodyError: as the answer says, or none came.
    """
    sent = request((yield Ask(token)))
    renewed = False
    for left in reversed(range(TRIES)):
        pause = FIRST_PAUSE * 2 ** (TRIES - 1 - left)
        try:
            response: Response = yield sent
        except errors.Unreachable:
            if not left or not sent.repeatable:
                raise
            yield Wait(pause)
            continue
        if response.status == _OK:
            return response
        error = _error(response)
        if isinstance(error, errors.SignInAgain) and not renewed and left:
            # A 401 never reaches the vault: any call may be sent again.
            renewed = True
            sent = request((yield Ask(token)))
        elif isinstance(error, errors.Unavailable) and left and sent.repeatable:
            pause = pause if error.retry_after is None else error.retry_after
            if pause > LONGEST_WAIT:
                raise error
            yield Wait(pause)
        else:
            raise error
    raise AssertionError("the last try returns or raises")


def _error(response: Response) -> errors.CustodyError:
    try:
        problem = json.loads(response.body)
        code = problem["code"] if isinstance(problem["code"], str) else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        code = ""
    kinds: dict[int, type[errors.CustodyError]] = {
        _UNAUTHORIZED: errors.StepUpRequired if code == "STEP_UP_REQUIRED" else errors.SignInAgain,
        _CONFLICT: errors.Conflict,
        _STALE: errors.StaleGeneration,
        **dict.fromkeys(_LATER, errors.Unavailable),
    }
    after = response.headers.get("retry-after", "")
    return kinds.get(response.status, errors.Failed)(
        code[:64],
        request_id=response.headers.get("x-request-id"),
        retry_after=float(after) if after.isascii() and after.isdigit() else None,
    )
