"""A wrap: a master key encrypted under a KEK, as its row has it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from kek_backends.errors import KekError

MASTER_KEY_SIZE = 32
FORMAT_UNBOUND = 1
FORMAT_BOUND = 2


@dataclass(frozen=True, slots=True)
class Wrap:
    """A wrapped master key, as the columns of its row hold it.

    Args:
        wrapped_mk: the ciphertext, in the text form of its backend (local KEKs: base64).
        wrap_iv: the nonce in base64, or the empty string where the KMS needs none.
        format_version: 1 (not bound to a user, read only) or 2 (bound to its user).
        kek_id: which KEK made it.
    """

    wrapped_mk: str = field(repr=False)
    wrap_iv: str = field(repr=False)
    format_version: int
    kek_id: str


@dataclass(frozen=True, slots=True)
class OwnedWrap:
    """A wrap and whose it is: one item of a re-wrap.

    Args:
        user_id: of the row's key column.
        wrap: the row's columns.
        is_right: says whether a master key of 32 bytes is this user's, where that is known. It
            is asked wherever the key passes through this process: a format 1 wrap that was copied
            from another user must not come out bound to the wrong one.
    """

    user_id: str
    wrap: Wrap
    is_right: Callable[[bytes], bool] | None = field(default=None, repr=False)


# What became of one item of a re-wrap: the new wrap, or why there is none.
Rewrapped: TypeAlias = Wrap | KekError
