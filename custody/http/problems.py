"""Problems (RFC 9457): the only mapping from an error to what a client sees."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from custody.http.response import Response
from custody.vault.errors import VaultError

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_SECONDS = "2"


@dataclass(slots=True)
class Problem(Exception):
    """A response that is an error.

    Args:
        status: HTTP status.
        code: stable, upper case; what a client decides by.
        detail: one sentence for a developer; holds nothing that the client sent.
        headers: to send along.
    """

    status: int
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.status} {self.code}"

    def response(self) -> Response:
        """Return the response that is sent."""
        title = HTTPStatus(self.status).phrase
        body = {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "error": title,
        }
        return Response(
            json.dumps(body).encode(),
            status=self.status,
            media_type=MEDIA_TYPE,
            headers=self.headers,
        )


def bad_request(detail: str) -> Problem:
    """Return a 400: the client must change the request."""
    return Problem(400, "BAD_REQUEST", detail)


def not_found() -> Problem:
    """Return a 404: the path is not ours."""
    return Problem(404, "NOT_FOUND", "There is nothing at this path.")


def method_not_allowed(methods: Iterable[str]) -> Problem:
    """Return a 405.

    Args:
        methods: what the path takes.
    """
    allow = ", ".join(methods)
    return Problem(405, "METHOD_NOT_ALLOWED", f"This path takes {allow}.", {"Allow": allow})


def unauthorized(detail: str, *, had_token: bool) -> Problem:
    """Return a 401 with its challenge (RFC 6750, section 3)."""
    challenge = 'Bearer error="invalid_token"' if had_token else "Bearer"
    return Problem(401, "UNAUTHORIZED", detail, {"WWW-Authenticate": challenge})


def step_up_required(max_age: int | None, acr_values: Sequence[str]) -> Problem:
    """Return a 401 that sends the user to log in again (RFC 9470, section 3).

    Args:
        max_age: seconds since that login at most, if that is asked for.
        acr_values: in ASCII without quotes and backslashes; the login must reach one of them.
    """
    detail = "The user must log in again for this."
    parameters = {"error": "insufficient_user_authentication", "error_description": detail}
    if acr_values:
        parameters["acr_values"] = " ".join(acr_values)
    if max_age is not None:
        parameters["max_age"] = str(max_age)
    challenge = ", ".join(f'{name}="{value}"' for name, value in parameters.items())
    return Problem(401, "STEP_UP_REQUIRED", detail, {"WWW-Authenticate": f"Bearer {challenge}"})


def payload_too_large(limit: int) -> Problem:
    """Return a 413."""
    return Problem(413, "PAYLOAD_TOO_LARGE", f"A body may have {limit} bytes at most.")


def unsupported_media_type() -> Problem:
    """Return a 415."""
    return Problem(
        415, "UNSUPPORTED_MEDIA_TYPE", "The body must be application/json in UTF-8, uncompressed."
    )


def rate_limited(seconds: int) -> Problem:
    """Return a 429.

    Args:
        seconds: until the next request will be taken.
    """
    return Problem(
        429, "RATE_LIMITED", "Too many requests of this user.", {"Retry-After": str(seconds)}
    )


def too_many_attempts(seconds: int) -> Problem:
    """Return a 429.

    Args:
        seconds: until the next token will be looked at.
    """
    detail = "Too many wrong tokens from this address."
    return Problem(429, "RATE_LIMITED", detail, {"Retry-After": str(seconds)})


def unavailable(code: str, detail: str) -> Problem:
    """Return a 503 that may be retried."""
    return Problem(503, code, detail, {"Retry-After": _RETRY_AFTER_SECONDS})


def internal() -> Problem:
    """Return the opaque 500: what went wrong is in the log, under the request's id."""
    return Problem(500, "INTERNAL", "Something went wrong here; the log knows it by X-Request-Id.")


def of_vault(error: VaultError) -> Problem:
    """Return what a refusal or failure of the vault looks like."""
    detail = (type(error).__doc__ or "").strip()
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return unavailable(error.code, detail)
    return Problem(error.status, error.code, detail)
