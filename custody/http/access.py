"""Who may see what the admin listener shows: who brings its token, or a session made with it.

A session is a cookie that says until when it is good, and a MAC over that. Its key is derived from
the token, so each of several processes takes what another one has made, and a new token ends all
of them. The cookie never holds the token.
"""

import hmac
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import structlog
from aiohttp import hdrs, web
from pydantic import SecretStr

from custody.bounded import Bounded
from custody.http import problems
from custody.http.attempts import Attempts
from custody.sockets.connections import network_of

SESSION_SECONDS = 8 * 60 * 60
COOKIE = "custody_session"
_LABEL = b"custody admin session v1"

log = structlog.get_logger()


class Access:
    """Lets requests in.

    Args:
        token: what is asked for; None: nothing is.
        clock: seconds since 1970.
        attempts: bounds the guesses of an address.
    """

    def __init__(
        self,
        token: SecretStr | None,
        clock: Callable[[], float] = time.time,
        attempts: Attempts | None = None,
    ) -> None:
        self._token = None if token is None else token.get_secret_value().encode()
        self._key = b"" if self._token is None else hmac.digest(self._token, _LABEL, "sha256")
        self._clock = clock
        self._attempts = attempts or Attempts()
        self._lines: Bounded[str] = Bounded()

    @property
    def is_asked_for(self) -> bool:
        """Whether there is a token that requests must bring."""
        return self._token is not None

    def check(self, request: web.BaseRequest) -> None:
        """Let a request in, or refuse it.

        Raises:
            Problem: 401, it has no token or a wrong one; 429, its address had too many.
        """
        if self._token is None or self.has_session(request):
            return
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        if not given:
            raise problems.unauthorized("The admin token is needed.", had_token=False)
        scheme, _, token = given[0].partition(" ")
        is_one = len(given) == 1 and scheme.lower() == "bearer"
        if not self.try_token(request, token.strip(" ") if is_one else ""):
            raise problems.unauthorized("The admin token is needed.", had_token=True)

    def lets_in(self, request: web.BaseRequest) -> bool:
        """Say whether a request may see what is shown to who has the token."""
        try:
            self.check(request)
        except problems.Problem:
            return False
        return True

    def try_token(self, request: web.BaseRequest, token: str) -> bool:
        """Say whether a token is the right one, and count it where it is not.

        Args:
            request: whose address is counted.
            token: as it came.

        Raises:
            Problem: 429, the address had too many wrong ones; this one was not looked at.
        """
        address = network_of(request.remote or "")
        if seconds := self._attempts.seconds_to_wait(address):
            raise problems.too_many_attempts(seconds)
        # As bytes: of text that is not ASCII the comparison in constant time would make an error.
        sent = token.encode(errors="surrogateescape")
        if self._token is not None and hmac.compare_digest(sent, self._token):
            return True
        self._attempts.failed(address)
        if times := self._lines.count("wrong"):
            log.warning("admin_token_wrong", times=times, address=address)
        return False

    def new_session(self) -> str:
        """Return the value of the cookie of a new session."""
        until = str(int(self._clock()) + SESSION_SECONDS)
        return f"{until}.{self._mac(until)}"

    def has_session(self, request: web.BaseRequest) -> bool:
        """Say whether a request brings the cookie of a session that has not ended."""
        until, _, mac = request.cookies.get(COOKIE, "").partition(".")
        if self._token is None or not until.isascii() or not until.isdigit():
            return False
        sent = mac.encode(errors="surrogateescape")
        return hmac.compare_digest(sent, self._mac(until).encode()) and (
            self._clock() < int(until) <= self._clock() + SESSION_SECONDS
        )

    def _mac(self, until: str) -> str:
        return hmac.digest(self._key, until.encode(), "sha256").hex()


def cookie(value: str, *, secure: bool) -> str:
    """Return the ``Set-Cookie`` of a session; of an empty value, what ends it in the browser.

    Args:
        value: of the cookie.
        secure: whether the browser came by HTTPS: then it sends the cookie by nothing else.
    """
    age = SESSION_SECONDS if value else 0
    said = f"{COOKIE}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict"
    return f"{said}; Secure" if secure else said


def came_by_https(request: web.BaseRequest) -> bool:
    """Say whether the browser that sent a form had its page by HTTPS, from a proxy then."""
    return request.headers.get(hdrs.ORIGIN, "").startswith("https://")


def is_of_our_page(request: web.BaseRequest) -> bool:
    """Say whether a form was sent by a page of ours, and not by one of another site.

    Browsers say so themselves, and no page can have them say anything else: ``Sec-Fetch-Site``
    where the page is trustworthy (HTTPS, localhost), else ``Origin``.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in {"same-origin", "none"}
    return urlsplit(request.headers.get(hdrs.ORIGIN, "")).netloc == request.headers.get(
        hdrs.HOST, ""
    )
