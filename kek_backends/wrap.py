"""A wrap: a key encrypted under a KEK, as its row has it."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from kek_backends.binding import Binding
from kek_backends.errors import KekError

# A data key has as many.
MASTER_KEY_SIZE = 32
# Not bound to anything; bound to its user; bound to all that a binding says. The first two are read
# and never written.
FORMAT_UNBOUND, FORMAT_USER, FORMAT_CURRENT = 1, 2, 3


class Wrap(NamedTuple):
    """A wrapped key, as the columns of its row hold it.

    Args:
        wrapped_mk: the ciphertext, in the text form of its backend (local KEKs: base64).
        wrap_iv: the nonce in base64, or the empty string where the KMS needs none.
        format_version: 3 (bound to its binding and its KEK); 1 (bound to nothing) and 2 (bound to
            its user) are read only.
        kek_id: which KEK made it.
    """

    wrapped_mk: str
    wrap_iv: str
    format_version: int
    kek_id: str

    def __repr__(self) -> str:
        """Show nothing that is stored of a key."""
        return f"Wrap(format_version={self.format_version!r}, kek_id={self.kek_id!r})"


class OwnedWrap(NamedTuple):
    """A wrap and what it is bound to: one item of a re-wrap.

    Args:
        binding: the user and the generation of its row, or the data key's.
        wrap: the row's columns.
        is_right: says whether a key of 32 bytes is the one that belongs here, where that is known.
            It is asked wherever the key passes through this process: a format 1 wrap that was
            copied from another user must not come out bound to the wrong one.
    """

    binding: Binding
    wrap: Wrap
    is_right: Callable[[bytes], bool] | None = None


# What became of one item of a re-wrap: the new wrap, or why there is none.
Rewrapped: TypeAlias = Wrap | KekError
