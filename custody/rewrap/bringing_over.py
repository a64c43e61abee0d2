"""One batch of rows that are not sealed: opened by their old format, wrapped anew, and sealed."""

import hmac
from collections.abc import Sequence

from custody.datakeys.data_key import DataKey
from custody.datakeys.ring import Ring
from custody.rewrap.batch import chosen, sort_out, wrong_wrap
from custody.rewrap.options import Verify
from custody.rewrap.rows import UnsealedRow
from custody.rewrap.storing import Done, Sealed
from custody.vault.key_check import is_master_key, key_check_value
from kek_backends.base import OwnedWrap, Wrap
from kek_backends.errors import KekError, Tampered, Transient
from kek_backends.keyring import Keyring

_ANOTHER_KEY = "the wrap opens to another key than this user's"


async def bring_over(
    keyring: Keyring, ring: Ring, rows: Sequence[UnsealedRow], target: str, verify: Verify | None
) -> tuple[Done, KekError | None]:
    """Wrap and seal rows that are not sealed; those without a wrap are only sealed.

    What the rows say is believed, this once; but a key must fit the key check value, where there is
    one.

    Args:
        keyring: all KEKs.
        ring: the data keys; the newest one seals.
        rows: to bring over.
        target: the kek_id that the new wraps must carry.
        verify: which new wraps are unwrapped again; None: all where that costs no call of a KMS,
            else a sample.

    Returns:
        What became of them, and why some were left, if any were.

    Raises:
        WrongWrap: a new wrap does not open to the key that it was made of.
        TargetMoved: the key of the KMS has moved on.
        KekError: no data key is open, or a new wrap could not be verified now.
    """
    data_key = ring.current
    if data_key is None:
        raise Transient(f"rows can't be sealed now: {ring.problem}")
    if verify is None:
        verify = Verify.ALL if keyring.active.in_process else Verify.SAMPLE
    seen = {row.user_id: _SeenKey(row) for row in rows}
    wrapping = [row for row in rows if row.wrap is not None]
    results = await keyring.rewrap([seen[row.user_id].item for row in wrapping])
    wrapped, set_aside, reason = sort_out(wrapping, results, target)
    sealed = [_sealed(data_key, row, None, row.state.key_check) for row in rows if not row.wrap]
    # One that was re-wrapped inside a KMS shows its key only here.
    unseen = [(row, wrap) for row, wrap in wrapped if seen[row.user_id].key_check is None]
    for row, wrap in unseen:
        if not await seen[row.user_id].is_in(keyring, wrap):
            wrapped.remove((row, wrap))
            set_aside.append((row, _ANOTHER_KEY))
    for row, wrap in chosen(wrapped, verify):
        if (row, wrap) not in unseen and not await seen[row.user_id].is_in(keyring, wrap):
            raise wrong_wrap(target)
    sealed += [_sealed(data_key, row, wrap, seen[row.user_id].key_check) for row, wrap in wrapped]
    left = len(rows) - len(sealed) - len(set_aside)
    return Done((), set_aside, left, sealed), reason


class _SeenKey:
    """Whether a row's key was seen on its way, and its key check value.

    Args:
        row: one with a wrap.
    """

    def __init__(self, row: UnsealedRow) -> None:
        self._row = row
        self.key_check: str | None = None

    @property
    def item(self) -> OwnedWrap:
        """The row's wrap, as a keyring takes it."""
        row = self._row
        if row.wrap is None:
            raise ValueError("a row without a wrap is not re-wrapped")
        return OwnedWrap(row.binding, row.wrap, self._is_right)

    async def is_in(self, keyring: Keyring, wrap: Wrap) -> bool:
        """Say whether a new wrap opens to the user's key; to the one that was seen, if any was.

        Args:
            keyring: all KEKs.
            wrap: the new one.
        """
        try:
            key = await keyring.unwrap(self._row.binding, wrap)
        except Tampered:
            return False
        if self.key_check is not None:
            return is_master_key(self._row.user_id, key, self.key_check)
        return self._is_right(key)

    def _is_right(self, key: bytes) -> bool:
        made, known = key_check_value(self._row.user_id, key), self._row.state.key_check
        # As bytes: a row may hold any text.
        if known is not None and not hmac.compare_digest(known.encode(), made.encode()):
            return False
        self.key_check = made
        return True


def _sealed(
    data_key: DataKey, row: UnsealedRow, wrap: Wrap | None, key_check: str | None
) -> Sealed:
    # The database counts this change, too: it is the serial that the row has then.
    state = row.state._replace(serial=row.state.serial + 1, key_check=key_check)
    return Sealed(row, wrap, key_check, state.seal(data_key, row.user_id))
