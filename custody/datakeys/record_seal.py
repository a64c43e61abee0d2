"""What the seal of a data key's record says: which key it is, and who vouches for it."""

import re
from typing import NamedTuple, Self

_MAC = "[0-9a-f]{64}"
_BY_ITSELF = re.compile(rf"1\.({_MAC})")
_VOUCHED = re.compile(rf"2\.(dk-[0-9a-f]{{32}})\.({_MAC})\.({_MAC})")


class RecordSeal(NamedTuple):
    """The seal of a record, taken apart; nothing of it is believed yet.

    Args:
        own: the MAC of the record under the data key itself: it says which key it is.
        voucher: id of the data key that vouches for it; None: it vouches for itself.
        word: that one's MAC, of the id and of the own MAC; empty where there is none.
    """

    own: str
    voucher: str | None = None
    word: str = ""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Take a seal apart; None where it is none.

        Args:
            text: whatever the database holds.
        """
        if (by_itself := _BY_ITSELF.fullmatch(text)) is not None:
            return cls(by_itself[1])
        if (vouched := _VOUCHED.fullmatch(text)) is not None:
            voucher, own, word = vouched.groups()
            return cls(own, voucher, word)
        return None

    def __str__(self) -> str:
        """Return it as the database has it."""
        return (
            f"1.{self.own}" if self.voucher is None else f"2.{self.voucher}.{self.own}.{self.word}"
        )
