"""A data key that is open: it is used by what is derived from it alone."""

import hmac
import os
import re
import time
from dataclasses import dataclass, field
from typing import Self

from custody.datakeys.encoding import fields
from custody.datakeys.mac import KEY_SIZE, Mac, derive
from kek_backends.aead import XaesKey

# What a seal begins with: its version, and the id of the data key that it was made with.
PREFIX_SIZE = 38

_ROW_SEAL = "custody row seal v1"
_WRAPPING = "custody master key wrap v1"
_RECORD_SEAL = "custody record seal v1"
_OWN_RECORD = "custody data key record v1"
# That a record is sealed by its own key. A successor's would be sealed by its predecessor.
_BY_ITSELF = "1."

_ID = re.compile(r"dk-[0-9a-f]{32}")
_PREFIX = re.compile(rf"1\.({_ID.pattern})\.")


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key. Its 32 bytes are not kept: what is derived from them is.

    Args:
        id: its name in the database.
        prefix: what seals made with it begin with, 38 characters.
        row_seal: MAC of rows; it has absorbed the label and the id already.
        record_seal: MAC of records, whose messages begin with a label of their own.
        own_seal: of its own record.
        wrapping: wraps users' keys, in envelope mode.
    """

    id: str
    prefix: str
    row_seal: Mac = field(repr=False)
    record_seal: Mac = field(repr=False)
    own_seal: str = field(repr=False)
    wrapping: XaesKey = field(repr=False)

    @classmethod
    def of(cls, key_id: str, key: bytes) -> Self:
        """Derive what a data key is used by.

        Args:
            key_id: ``dk-`` and 32 hexadecimal digits.
            key: 32 bytes.
        """
        if _ID.fullmatch(key_id) is None or len(key) != KEY_SIZE:
            raise ValueError("a data key has an id and 32 bytes")
        record_seal = Mac(key, _RECORD_SEAL)
        return cls(
            id=key_id,
            prefix=prefix_of(key_id),
            row_seal=Mac(key, _ROW_SEAL, fields(_ROW_SEAL, key_id)),
            record_seal=record_seal,
            own_seal=_BY_ITSELF + record_seal.of(fields(_OWN_RECORD, key_id)),
            wrapping=XaesKey(derive(key, _WRAPPING)),
        )

    def is_of(self, seal: str) -> bool:
        """Say whether this is the key of the record that has this seal.

        Args:
            seal: of a record, whatever it holds.
        """
        return seal.isascii() and hmac.compare_digest(seal, self.own_seal)


def new_id() -> str:
    """Return an id for a new data key: a UUID of version 7, so that ids grow with time."""
    random = os.urandom(10).hex()
    variant = "89ab"[int(random[3], 16) & 0b11]
    return f"dk-{time.time_ns() // 1_000_000:012x}7{random[:3]}{variant}{random[4:19]}"


def is_id(text: str) -> bool:
    """Say whether a text is the id of a data key."""
    return _ID.fullmatch(text) is not None


def prefix_of(key_id: str) -> str:
    """Return what the seals that a data key makes begin with; 38 characters.

    Args:
        key_id: of a data key.
    """
    return f"1.{key_id}."


def id_of(prefix: str) -> str | None:
    """Return the id of the data key that a seal names, or None where it is no seal.

    Args:
        prefix: the first 38 characters of a seal.
    """
    found = _PREFIX.fullmatch(prefix)
    return None if found is None else found[1]
