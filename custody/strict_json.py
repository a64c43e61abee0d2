"""JSON as RFC 8259 means it: UTF-8, no duplicate names, no NaN. For all that comes from outside."""

import json
from typing import NoReturn


def decode_object(document: bytes) -> dict[str, object]:
    """Decode a JSON object in UTF-8, without duplicate names at any depth.

    Args:
        document: the text; bound its size first.

    Raises:
        ValueError: anything else, NaN and Infinity and too deep a nesting included. Its text may
            quote the document: do not pass it on.
    """
    try:
        value = _JSON.decode(document.decode())
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one error for all malformed input
    return value


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member name")
    return members


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("not a JSON number")


_JSON = json.JSONDecoder(object_pairs_hook=_unique_members, parse_constant=_no_constant)
