"""The URI that names a KEK: ``scheme:path?parameters``."""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl

from kek_backends.errors import Misconfigured

_SCHEME = re.compile(r"[a-z][a-z0-9-]*")
_KEK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}")


@dataclass(frozen=True, slots=True)
class KekUri:
    """A parsed KEK URI. It names a place and holds no secret, so it may be logged.

    Args:
        text: the URI as the operator wrote it.
        scheme: which backend, for example ``env``.
        path: what the backend calls its key, for example a variable's name.
        kek_id: the value of ``?id=``, or None for the backend's own default.
    """

    text: str
    scheme: str
    path: str
    kek_id: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URI.

        Raises:
            Misconfigured: it has no scheme or path, an unknown parameter, or a bad ``id``.
        """
        if any(_is_key(part) for part in re.split("[:?=]", text, maxsplit=2)):
            # Not even quoted: the line goes to logs.
            raise Misconfigured(
                "CUSTODY_KEK, CUSTODY_OLD_KEKS or CUSTODY_SECOND_KEK holds what looks like a key, "
                "and not the name of one: put the key into a variable, and name that: env:VARIABLE"
            )
        scheme, colon, rest = text.partition(":")
        path, _, query = rest.partition("?")
        if not (colon and path and _SCHEME.fullmatch(scheme)):
            raise Misconfigured(
                f"KEK {text!r} is not a KEK URI: write scheme:name, for example env:MANA_AUTH_KEK"
            )
        kek_id = None
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name != "id" or kek_id is not None:
                raise Misconfigured(f"KEK {text!r}: only one parameter is known, ?id=KEK_ID")
            kek_id = value
        if kek_id is not None and not _KEK_ID.fullmatch(kek_id):
            raise Misconfigured(
                f"KEK {text!r}: an id has 1 to 255 letters, digits and any of . _ : / -"
            )
        return cls(text=text, scheme=scheme, path=path, kek_id=kek_id)


def _is_key(text: str) -> bool:
    """Say whether a text is 32 bytes in base64, of either alphabet, or in hex."""
    text = text.strip().rstrip("=")
    if re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        return True
    return re.fullmatch(r"[A-Za-z0-9+/_-]{43}", text) is not None
