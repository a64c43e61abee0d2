"""The URI that names a KEK: ``scheme:path?parameters``."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlencode

from kek_backends.errors import Misconfigured

_SCHEME = re.compile(r"[a-z][a-z0-9-]*")
_KEK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}")
# What a scheme takes beside ?id= and ?mode=: where its KMS is, on this host.
_OPTIONS = {"pkcs11": ("module-path", "pin-source")}
# What the ids of data keys begin with, and of no KEK.
DATA_KEY_PREFIX = "dk-"


class Mode(StrEnum):
    """What a KEK that is active wraps: users' keys themselves, or data keys that wrap them."""

    DIRECT = "direct"
    ENVELOPE = "envelope"


@dataclass(frozen=True, slots=True)
class KekUri:
    """A parsed KEK URI. It names a place and holds no secret, so it may be logged.

    Args:
        text: the URI as the operator wrote it.
        scheme: which backend, for example ``env``.
        path: what the backend calls its key, for example a variable's name.
        kek_id: the value of ``?id=``, or None for the backend's own default.
        mode: the value of ``?mode=``. It says nothing of the KEK, only of its use while it is the
            active one.
        options: names and values of what its scheme alone takes.
    """

    text: str
    scheme: str
    path: str
    kek_id: str | None = None
    mode: Mode = Mode.DIRECT
    options: tuple[tuple[str, str], ...] = ()

    @property
    def key_text(self) -> str:
        """The URI of the key alone, without a mode: the same for all who use it."""
        named = [*self.options, *([("id", self.kek_id)] if self.kek_id else [])]
        query = f"?{urlencode(named, safe='/:', quote_via=quote)}" if named else ""
        return f"{self.scheme}:{self.path}{query}"

    def in_mode(self, mode: Mode) -> Self:
        """Return the URI of the same key in another mode."""
        text = self.key_text
        if mode is not Mode.DIRECT:
            text += f"{'&' if '?' in text else '?'}mode={mode}"
        return replace(self, text=text, mode=mode)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URI.

        Raises:
            Misconfigured: it has no scheme or path, an unknown parameter, or a bad value of one.
        """
        if any(looks_like_a_key(part) for part in re.split("[:?=]", text, maxsplit=2)):
            # Not even quoted: the line goes to logs.
            raise Misconfigured(
                "CUSTODY_KEK, CUSTODY_OLD_KEKS or CUSTODY_SECOND_KEK holds what looks like a key, "
                "and not the name of one: put the key into a variable, and name that: env:VARIABLE"
            )
        if "pin-value" in unquote(text):
            # Not quoted either.
            raise Misconfigured(
                "CUSTODY_KEK, CUSTODY_OLD_KEKS or CUSTODY_SECOND_KEK holds a PIN (pin-value): put "
                "the PIN into a file that nobody else may read, and name that: pin-source=file:PATH"
            )
        scheme, colon, rest = text.partition(":")
        path, _, query = rest.partition("?")
        if not (colon and path and _SCHEME.fullmatch(scheme)):
            raise Misconfigured(
                f"KEK {text!r} is not a KEK URI: write scheme:name, for example env:MANA_AUTH_KEK"
            )
        own = _OPTIONS.get(scheme, ())
        parameters: dict[str, str] = {}
        # A plus sign is one: the path of a file may have it.
        for name, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
            if name not in {"id", "mode", *own} or name in parameters:
                raise Misconfigured(_unknown(text, f"{scheme}:{path}", name, own))
            parameters[name] = value
        kek_id, mode = parameters.get("id"), parameters.get("mode", Mode.DIRECT)
        if kek_id is not None and not _KEK_ID.fullmatch(kek_id):
            raise Misconfigured(
                f"KEK {text!r}: an id has 1 to 255 letters, digits and any of . _ : / -"
            )
        if kek_id is not None and kek_id.startswith(DATA_KEY_PREFIX):
            # Rows under it would pass for those under a data key.
            raise Misconfigured(f"KEK {text!r}: an id may not begin with {DATA_KEY_PREFIX}")
        if mode not in set(Mode):
            raise Misconfigured(f"KEK {text!r}: mode is {' or '.join(Mode)}")
        options = tuple((name, parameters[name]) for name in own if name in parameters)
        return cls(text, scheme, path, kek_id, Mode(mode), options)


def _unknown(text: str, key: str, name: str, own: tuple[str, ...]) -> str:
    """Return what is said of a parameter that is not known, or is there twice."""
    if own:
        # What is misspelt may be a PIN: its name is shown, and no value.
        known = ", ".join((*own, "id", "mode"))
        return f"KEK {key!r}: no parameter {name!r}, or it is there twice; known: {known}"
    return f"KEK {text!r}: two parameters are known, each once: ?id=KEK_ID&mode=envelope"


def looks_like_a_key(text: str) -> bool:
    """Say whether a text is 32 bytes in base64, of either alphabet, or in hex."""
    text = text.strip().rstrip("=")
    if re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        return True
    return re.fullmatch(r"[A-Za-z0-9+/_-]{43}", text) is not None
