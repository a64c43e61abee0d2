"""A KEK's 32 bytes as an operator keeps them: which forms are one, and what another one is.

What is said of a wrong form names what was seen, so that it can be mended, and never the text.
"""

import base64
import binascii
import re

from kek_backends import aead
from kek_backends.errors import Misconfigured
from kek_backends.uri import KekUri

MAX_SIZE = 1024

_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_HEX = re.compile(rb"(?:0x)?[0-9a-fA-F]{64}")
# Rows that were wrapped need the very key: a new one would never open them.
CURE = (
    "restore the key that wrapped the rows there are; only where there are none yet, make a new "
    "one with: openssl rand -base64 32"
)


def parse_key(uri: KekUri, content: bytes, *, raw: bool = False) -> bytes:
    """Read a KEK from what a variable or a file holds.

    Args:
        uri: for the message.
        content: standard base64 of 32 bytes; white space around it is ignored.
        raw: whether 32 bytes as they are will do, too, also with a newline behind them. 32
            bytes of text, in UTF-8, are none: a random key is text once in twenty thousand million.

    Raises:
        Misconfigured: it is anything else. The message never holds the content.
    """
    if raw and not _is_text(content) and (key := _raw_key(content)) is not None:
        return key
    if len(content) <= MAX_SIZE and (key := _decode(content.strip())) is not None:
        return key
    # Out of any "except": an exception's context could show the text.
    forms = f"base64 of {aead.KEY_SIZE} bytes" + (" nor 32 raw ones" if raw else "")
    raise Misconfigured(
        f"KEK {uri.text}: what is there is not {forms}: {_seen(content, raw=raw)}; {CURE}"
    )


def _raw_key(content: bytes) -> bytes | None:
    if len(content) == aead.KEY_SIZE + 1 and content.endswith(b"\n"):
        return content[:-1]
    return content if len(content) == aead.KEY_SIZE else None


def _seen(content: bytes, *, raw: bool) -> str:
    """Say what it is instead, and the cure where it has one of its own."""
    text = content.strip()
    if not text:
        return "it is empty"
    if len(content) > MAX_SIZE:
        return f"it is longer than {MAX_SIZE} bytes"
    if content.startswith(_BYTE_ORDER_MARKS):
        return "it begins with a byte order mark: save it as plain ASCII text"
    if not _is_text(content):
        if not raw and _raw_key(content) is not None:
            return "it is 32 raw bytes: write them as base64 (base64 -w0 FILE)"
        return f"it is {len(content)} bytes that are no text"
    return _seen_text(text)


def _seen_text(text: bytes) -> str:
    if text[:1] in (b"'", b'"') or text[-1:] in (b"'", b'"'):
        return "it has quotes around it: take them away"
    if _HEX.fullmatch(text):
        return "it is 64 hex characters: write the same bytes as base64 (xxd -r -p | base64)"
    if (seen := _seen_base64(text)) is not None:
        return seen
    if len(text) == aead.KEY_SIZE:
        return "32 printable characters are text, not a raw key"
    size = _size_of(text)
    return "it is text of another kind" if size is None else f"it is base64 of {size} bytes"


def _seen_base64(text: bytes) -> str | None:
    """Say what is wrong with base64 of a key that is written otherwise."""
    padding = b"=" * (-len(text) % 4)
    if _decode(b"".join(text.split())) is not None:
        return "it has white space in it: write it in one piece"
    if _decode(text + padding) is not None:
        return "it lacks the = at its end: write it there"
    if _decode(text.translate(bytes.maketrans(b"-_", b"+/")) + padding) is not None:
        return "it is url-safe base64: write + for each - and / for each _, and = at its end"
    return None


def _is_text(content: bytes) -> bool:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    return all(one.isprintable() or one.isspace() for one in text)


def _decode(text: bytes) -> bytes | None:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == aead.KEY_SIZE else None


def _size_of(text: bytes) -> int | None:
    try:
        return len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return None
