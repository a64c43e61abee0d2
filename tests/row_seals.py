"""The seal of a row as others would compute it: by docs/adr/0017 alone, and none of our code."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

LABEL = b"custody row seal v1"


def row_seal(data_key: bytes, key_id: str, row: Mapping[str, Any]) -> str:
    """Return the seal of a row.

    Args:
        data_key: 32 bytes.
        key_id: its id.
        row: columns as PostgreSQL has them, ``set_at`` being ``extract(epoch FROM
            recovery_set_at)::text``.
    """
    # RFC 5869: one block, no salt.
    extracted = hmac.digest(bytes(32), data_key, hashlib.sha256)
    key = hmac.digest(extracted, LABEL + b"\x01", hashlib.sha256)
    mac = hmac.digest(key, row_message(key_id, row), hashlib.sha256)
    return f"1.{key_id}.{mac.hex()}"


def row_message(key_id: str, row: Mapping[str, Any]) -> bytes:
    """Return what is sealed: thirteen fields."""
    recovery = None
    if row["recovery_wrapped_mk"] is not None:
        wrap = _field(row["recovery_wrapped_mk"]) + _field(row["recovery_iv"])
        recovery = hashlib.sha256(wrap).hexdigest()
    previous = None
    if row["previous_wrapped_mk"] is not None:
        wrap = _field(row["previous_wrapped_mk"]) + _field(row["previous_wrap_iv"])
        previous = hashlib.sha256(wrap).hexdigest()
    values = [
        LABEL.decode(),
        key_id,
        row["user_id"],
        str(row["generation"]),
        str(row["seal_serial"]),
        "1" if row["zero_knowledge"] else "0",
        row["key_check"],
        recovery,
        str(row["recovery_format_version"]),
        row["set_at"],
        None if row["previous_generation"] is None else str(row["previous_generation"]),
        previous,
        "0" if row["wrapped_mk"] is None else "1",
    ]
    return b"".join(_field(value) for value in values)


def _field(value: str | None) -> bytes:
    if value is None:
        return b"-"
    data = value.encode("utf-8")
    return str(len(data)).encode("ascii") + b":" + data
