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

    def message(self, user_id: str) -> bytes:
        """Return what is sealed of a row in this state, in one encoding (docs/adr, 17).

        The label and the data key's id, which come first, have been absorbed by the key's MAC.

        Args:
            user_id: whose row it is: by the verified token, or the primary key.
        """
        before, after = self._around_serial(user_id)
        return _with_serial(before, self.serial, after)

    def message_and_next(self, user_id: str) -> tuple[bytes, bytes]:
        """Return the same, and what is sealed of it once its seal was made anew.

        The database counts that change, too.

        Args:
            user_id: whose row it is.
        """
        before, after = self._around_serial(user_id)
        sealed = _with_serial(before, self.serial, after)
        return sealed, _with_serial(before, self.serial + 1, after)

    def _around_serial(self, user_id: str) -> tuple[str, str]:
        """Return what is sealed before the serial, and after it."""
        # On the way of each request for a key: nothing is called for what is not there.
        generation, _, is_zk, check, digest, version, set_at, has_wrap, number, old_digest = self
        its_generation, its_version = str(generation), str(version)
        previous = _NO_PREVIOUS
        if number is not None or old_digest is not None:
            previous = field(None if number is None else str(number)) + field(old_digest)
        return f"{field(user_id)}{len(its_generation)}:{its_generation}", (
            f"{_YES if is_zk else _NO}{_NULL if check is None else field(check)}"
            f"{_NULL if digest is None else field(digest)}{len(its_version)}:{its_version}"
            f"{_NULL if set_at is None else field(set_at)}{previous}{_YES if has_wrap else _NO}"
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


def digest_of(wrapped_mk: str, iv: str) -> str:
    """Return the SHA-256 of a wrap and its nonce, as they are stored, in hexadecimal.

    ``auth.custody_load_sealed_before`` computes the same.
    """
    return sha256(fields(wrapped_mk, iv)).hexdigest()


def _with_serial(before: str, serial: int, after: str) -> bytes:
    count = str(serial)
    return f"{before}{len(count)}:{count}{after}".encode()
