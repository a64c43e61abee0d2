"""What a row's seal vouches for, and the bytes that it is made of.

Not the wrap: format 3 binds it to user, generation, purpose and KEK, and the key that comes out of
it must fit the key check value, which is sealed. So a re-wrap needs no new seal.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple, Self

from custody.datakeys.data_key import DataKey
from custody.datakeys.encoding import field, fields

# While no rotation is pending, both fields of the key before are empty.
_NULL = field(None)
_NO_PREVIOUS = _NULL + _NULL
_YES, _NO = field("1"), field("0")


class SealedState(NamedTuple):
    """All of a row that is believed, but for its wrap.

    Args:
        generation: of the master key.
        serial: how often what is sealed has changed, as the database counts it.
        zero_knowledge: whether the server has given up its wrap.
        key_check: the key check value, or None where a row of before has none.
        recovery_digest: of the recovery wrap, see :func:`digest_of`; None where there is
            none.
        recovery_format_version: of the same; it has one also where there is none.
        recovery_set_at: when it was set, in seconds since 1970 with six decimals, as PostgreSQL
            writes them.
        has_wrap: whether a server wrap belongs here.
        previous_generation: of the master key before, while a rotation is pending.
        previous_digest: of its wrap, see :func:`digest_of`.
    """

    generation: int
    serial: int
    zero_knowledge: bool
    key_check: str | None
    recovery_digest: str | None
    recovery_format_version: int
    recovery_set_at: str | None
    has_wrap: bool
    previous_generation: int | None = None
    previous_digest: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return what is sealed of a row that was read with digests of its two other wraps.

        Args:
            row: columns as the database has them, the time as text.
        """
        return cls(
            row["generation"],
            row["seal_serial"],
            row["zero_knowledge"],
            row["key_check"],
            row["recovery_digest"],
            row["recovery_format_version"],
            row["recovery_set_at"],
            row["wrapped_mk"] is not None,
            row["previous_generation"],
            row["previous_digest"],
        )

    def seal(self, key: DataKey, user_id: str) -> str:
        """Return the seal of a row in this state, of 102 characters.

        Args:
            key: the data key to seal with.
            user_id: whose row it is.
        """
        return key.prefix + key.row_seal.of(self.message(user_id))

    def seal_next(self, key: DataKey, user_id: str) -> str:
        """Return the seal of a row that is in this state, but that its seal is made anew.

        The database counts that change, too.

        Args:
            key: the data key to seal with.
            user_id: whose row it is.
        """
        return key.prefix + key.row_seal.of(self.message(user_id, more=1))

    def message(self, user_id: str, more: int = 0) -> bytes:
        """Return what is sealed of a row in this state.

        Args:
            user_id: whose row it is.
            more: so many changes later that have left it as it is.
        """
        return sealed_message(
            user_id,
            generation=self.generation,
            serial=self.serial + more,
            zero_knowledge=self.zero_knowledge,
            key_check=self.key_check,
            recovery_digest=self.recovery_digest,
            recovery_format_version=self.recovery_format_version,
            recovery_set_at=self.recovery_set_at,
            has_wrap=self.has_wrap,
            previous_generation=self.previous_generation,
            previous_digest=self.previous_digest,
        )


def state_digest(user_id: str, state: SealedState) -> str:
    """Return what an audit row says of the state in which a change has left a vault.

    In 64 hexadecimal digits. Not of the serial, which a re-wrap run moves on as well.

    Args:
        user_id: whose row it is.
        state: of the row.
    """
    message = state._replace(serial=0).message(user_id)
    return sha256(fields("custody vault state v1") + message).hexdigest()


def sealed_message(
    user_id: str,
    *,
    generation: int,
    serial: int,
    zero_knowledge: bool,
    key_check: str | None,
    recovery_digest: str | None,
    recovery_format_version: int,
    recovery_set_at: str | None,
    has_wrap: bool,
    previous_generation: int | None,
    previous_digest: str | None,
) -> bytes:
    """Return what is sealed of a row, in one encoding for one state (docs/adr, 17).

    The label and the data key's id, which come first, have been absorbed by the key's MAC.

    Args:
        user_id: whose row it is: by the verified token, or the primary key.
        generation, serial, zero_knowledge, key_check, recovery_digest, recovery_format_version,
            recovery_set_at, has_wrap, previous_generation, previous_digest: as in
            :class:`SealedState`.
    """
    # On the way of each request for a key: one f-string, and nothing called for what is not there.
    number, count, version = str(generation), str(serial), str(recovery_format_version)
    previous = _NO_PREVIOUS
    if previous_generation is not None or previous_digest is not None:
        before = None if previous_generation is None else str(previous_generation)
        previous = field(before) + field(previous_digest)
    return (
        f"{field(user_id)}{len(number)}:{number}{len(count)}:{count}"
        f"{_YES if zero_knowledge else _NO}{_NULL if key_check is None else field(key_check)}"
        f"{_NULL if recovery_digest is None else field(recovery_digest)}{len(version)}:{version}"
        f"{_NULL if recovery_set_at is None else field(recovery_set_at)}"
        f"{previous}{_YES if has_wrap else _NO}"
    ).encode()


def digest_of(wrapped_mk: str, iv: str) -> str:
    """Return the SHA-256 of a wrap and its nonce, as they are stored, in hexadecimal.

    ``auth.custody_load_sealed_before`` computes the same.
    """
    return sha256(fields(wrapped_mk, iv)).hexdigest()
