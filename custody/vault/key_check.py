"""The key check value: recognises a user's master key, and reveals nothing about it.

HMAC-SHA-256 (RFC 2104) keyed with the master key itself: who does not have its 256 random bits can
neither compute nor invert it. It needs no KEK, so it outlives every re-wrap and holds in
zero-knowledge mode. The user id is part of it, so it also catches a wrap moved between rows.
"""

import hmac

_LABEL = b"custody key check v1\x00"


def key_check_value(user_id: str, master_key: bytes) -> str:
    """Return the key check value of a user's master key.

    Args:
        user_id: whose key it is.
        master_key: 32 bytes.

    Returns:
        64 hexadecimal digits.
    """
    return hmac.digest(master_key, _LABEL + user_id.encode(), "sha256").hex()


def is_master_key(user_id: str, master_key: bytes, key_check: str) -> bool:
    """Say whether a key is the one that a key check value was made of, in constant time."""
    # compare_digest refuses text beyond ASCII, which a tampered row may hold.
    expected = key_check_value(user_id, master_key)
    return key_check.isascii() and hmac.compare_digest(expected, key_check)
