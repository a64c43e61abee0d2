"""The leaf of an audit row in the Merkle tree, byte for byte as the database computes it."""

from collections.abc import Mapping
from hashlib import sha256
from struct import Struct
from typing import Any

# A composite as PostgreSQL sends it (record_send): the number of its fields, then each with the
# id of its type and its length, which is -1 for NULL.
_head = Struct(">Ii").pack
_BIGINT, _TEXT, _INTEGER, _TIMESTAMPTZ, _BYTEA = 20, 25, 23, 1184, 17
_NO_TEXT, _NO_BYTEA = _head(_TEXT, -1), _head(_BYTEA, -1)
_NO_CLIENT = _NO_TEXT + _NO_TEXT
_TIME = _head(_TIMESTAMPTZ, 8)

# The byte of zero is RFC 6962's: no leaf is ever an inner node.
_begin = Struct(">xIIIq").pack
_FIELDS = 11
_status = Struct(">IIi").pack


def leaf_of(row: Mapping[str, Any]) -> bytes:
    """Return the leaf hash of a row, 32 bytes, as ``auth.custody_audit_leaves`` does.

    Args:
        row: its columns, whatever they hold; ``created_at`` as ``timestamptz_send`` has it, which
            knows more times than Python.
    """
    seal: bytes | None = row["seal"]
    # By their keyed hash, which is in the seal: so they can be taken out of the row one day.
    client = _NO_CLIENT if seal is not None else _text(row["ip_address"]) + _text(row["user_agent"])
    return sha256(
        b"".join(
            (
                _begin(_FIELDS, _BIGINT, 8, row["number"]),
                _text(row["id"]),
                _text(row["user_id"]),
                _text(row["action"]),
                _text(row["context"]),
                _status(_INTEGER, 4, row["status"]),
                _TIME,
                row["created_at"],
                _text(row["state"]),
                _NO_BYTEA if seal is None else _head(_BYTEA, len(seal)) + seal,
                client,
            )
        )
    ).digest()


def _text(value: str | None) -> bytes:
    if value is None:
        return _NO_TEXT
    encoded = value.encode()
    return _head(_TEXT, len(encoded)) + encoded
