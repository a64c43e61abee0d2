"""A data key that is open: it is used by what is derived from it alone."""

import hashlib
import hmac
import os
import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from custody.datakeys.encoding import fields
from custody.datakeys.mac import KEY_SIZE, Mac, derive
from custody.datakeys.record_seal import RecordSeal
from kek_backends.aead import XaesKey

# What a seal begins with: its version, and the id of the data key that it was made with.
PREFIX_SIZE = 38

_ROW_SEAL = "custody row seal v1"
_WRAPPING = "custody master key wrap v1"
_RECORD_SEAL = "custody record seal v1"
_OWN_RECORD = "custody data key record v1"
_VOUCHED_RECORD = "custody data key vouched for v1"
_AUDIT_ROW = "custody audit row v1"
_AUDIT_NOTE = "custody audit note v1"

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
        own: MAC of its own record: it says which key it is, and nothing of it.
        wrapping: wraps users' keys, in envelope mode.
        audit_hint: names it in the seals of audit rows: 8 hexadecimal digits.
        audit_row: MAC of audit rows; it has absorbed the label and the id already.
        audit_signer: signs checkpoints of the audit (Ed25519, RFC 8032).
    """

    id: str
    prefix: str
    row_seal: Mac = field(repr=False)
    record_seal: Mac = field(repr=False)
    own: str = field(repr=False)
    wrapping: XaesKey = field(repr=False)
    audit_hint: str
    audit_row: Mac = field(repr=False)
    audit_signer: Ed25519PrivateKey = field(repr=False)

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
            own=record_seal.of(fields(_OWN_RECORD, key_id)),
            wrapping=XaesKey(derive(key, _WRAPPING)),
            audit_hint=hint_of(key_id),
            audit_row=Mac(key, _AUDIT_ROW, fields(_AUDIT_ROW, key_id)),
            audit_signer=Ed25519PrivateKey.from_private_bytes(derive(key, _AUDIT_NOTE)),
        )

    @property
    def own_seal(self) -> str:
        """The seal of its record where it vouches for itself: it is the current one."""
        return str(RecordSeal(self.own))

    def is_of(self, seal: str) -> bool:
        """Say whether this is the key of the record that has this seal, whoever vouches for it.

        Args:
            seal: of a record, whatever it holds.
        """
        said = RecordSeal.parse(seal)
        return said is not None and hmac.compare_digest(said.own, self.own)

    def vouch(self, key_id: str, own: str) -> RecordSeal:
        """Return the seal of another data key's record: this one, the current one, vouches for it.

        Args:
            key_id: its id.
            own: its own MAC.
        """
        word = self.record_seal.of(fields(_VOUCHED_RECORD, self.id, key_id, own))
        return RecordSeal(own, self.id, word)

    def vouches_for(self, key_id: str, seal: str) -> bool:
        """Say whether a record of another data key has the seal that this one has made.

        Args:
            key_id: its id.
            seal: of the record, whatever it holds.
        """
        said = RecordSeal.parse(seal)
        if said is None or said.voucher != self.id:
            return False
        message = fields(_VOUCHED_RECORD, self.id, key_id, said.own)
        return self.record_seal.is_mac(said.word, message)


def new_id(after: str = "") -> str:
    """Return an id for a new data key: a UUID of version 7, so that ids grow with time.

    Args:
        after: an id that it must be greater than, also where the clock was set back.
    """
    milliseconds = time.time_ns() // 1_000_000
    if after:
        milliseconds = max(milliseconds, made_at(after) + 1)
    random = os.urandom(10).hex()
    variant = "89ab"[int(random[3], 16) & 0b11]
    return f"dk-{milliseconds:012x}7{random[:3]}{variant}{random[4:19]}"


def made_at(key_id: str) -> int:
    """Return when a data key was made, in milliseconds since 1970: its id says so.

    Args:
        key_id: which.
    """
    return int(key_id[3:15], 16)


@lru_cache(maxsize=64)  # asked of each wrap, and there are but a few data keys
def is_id(text: str) -> bool:
    """Say whether a text is the id of a data key."""
    return _ID.fullmatch(text) is not None


def hint_of(key_id: str) -> str:
    """Return what names a data key in the seal of an audit row: 8 hexadecimal digits.

    Args:
        key_id: of a data key.
    """
    return hashlib.sha256(key_id.encode()).hexdigest()[:8]


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
