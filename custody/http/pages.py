"""Pages of a list: which one a query asks for, and the cursor that names the next."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from urllib.parse import parse_qsl

from aiohttp import web

from custody.http import problems
from custody.http.problems import Problem
from custody.vault.model import Page

MAX_LIMIT = 200
DEFAULT_LIMIT = 50

# Of any 64 bits exactly one text (RFC 4648, section 5, without padding), and each text is of some.
CURSOR_PATTERN = r"[A-Za-z0-9_-]{10}[AEIMQUYcgkosw048]"
_CURSOR = re.compile(CURSOR_PATTERN)
_LIMIT = re.compile(r"[1-9][0-9]{0,2}")


def cursor_of(number: int) -> str:
    """Return the cursor of the page that goes on before a row's number."""
    return urlsafe_b64encode(number.to_bytes(8, signed=True)).rstrip(b"=").decode()


def parse_page(request: web.BaseRequest) -> Page:
    """Return the page that a request asks for: by ``limit`` and ``before``, each once at most.

    Raises:
        Problem: 400, something else was asked.
    """
    query = request.rel_url.raw_query_string
    try:
        pairs = (
            parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
            if query
            else []
        )
    except ValueError:
        raise _misfit("it is not a list of name=value in UTF-8") from None
    asked = dict(pairs)
    if not asked.keys() <= {"limit", "before"}:
        raise _misfit("it has an unknown parameter; there are limit and before")
    if len(asked) < len(pairs):
        raise _misfit("it has a parameter twice")
    return Page(_limit(asked.get("limit")), _before(asked.get("before")))


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not _LIMIT.fullmatch(text) or int(text) > MAX_LIMIT:
        raise _misfit(f"limit must be a number from 1 to {MAX_LIMIT}, in digits")
    return int(text)


def _before(text: str | None) -> int | None:
    if text is None:
        return None
    if not _CURSOR.fullmatch(text):
        raise _misfit("before must be the next of another page, as it was answered")
    return int.from_bytes(urlsafe_b64decode(text + "="), signed=True)


def _misfit(reason: str) -> Problem:
    return problems.bad_request(f"The query does not fit: {reason}.")
