"""If-Match (RFC 9110, section 13.1.1), strictly parsed."""

import re

from aiohttp import web

from custody.http import problems
from custody.vault.model import IfMatch

# RFC 9110, section 8.8.3: entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE
_ENTITY_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\uffff]*"'
# Linear: a blank or comma can be matched in one way only (RFC 9110, section 5.6.1, lists may have
# empty elements).
_LIST = re.compile(rf"[ \t,]*{_ENTITY_TAG}(?:[ \t]*,[ \t,]*{_ENTITY_TAG})*[ \t,]*")
_TAG = re.compile(_ENTITY_TAG)


def parse_if_match(request: web.BaseRequest) -> IfMatch | None:
    """Return the precondition of a request, or None where there is none.

    Weak tags never match in the strong comparison that If-Match asks for, so they are dropped.

    Raises:
        Problem: 400, the header is malformed.
    """
    if "If-Match" not in request.headers:
        return None
    value = ",".join(request.headers.getall("If-Match")).strip(" \t")
    if value == "*":
        return IfMatch(any_vault=True)
    if not _LIST.fullmatch(value):
        raise problems.bad_request('If-Match must be * or a list of entity tags such as "3".')
    tags = (match.group() for match in _TAG.finditer(value))
    return IfMatch(
        any_vault=False, tags=frozenset(tag[1:-1] for tag in tags if not tag.startswith("W/"))
    )
