"""One batch: re-wrapped, verified, and checked row by row. No transaction is open meanwhile."""

import random
from collections.abc import Sequence
from typing import TypeVar

from custody.rewrap.options import Verify
from custody.rewrap.rows import Row, UnsealedRow
from custody.rewrap.storing import Done
from custody.vault.key_check import is_master_key
from kek_backends.base import FORMAT_CURRENT, OwnedWrap, Rewrapped, Wrap
from kek_backends.errors import KekError, Tampered
from kek_backends.keyring import Keyring

# Of each batch: one row in so many, and at least one.
_SAMPLE_EVERY = 50
_OLD_FORMAT = "a row that is sealed has a wrap of an old format"

RowT = TypeVar("RowT", Row, UnsealedRow)


class WrongWrap(Exception):
    """A new wrap does not open to the user's key: the target KEK can't be trusted. Nothing of the
    batch was stored."""


class TargetMoved(Exception):
    """The KMS now wraps under another kek_id than the run's target."""


async def rewrap(
    keyring: Keyring, rows: Sequence[Row], target: str, verify: Verify | None
) -> tuple[Done, KekError | None]:
    """Re-wrap rows to the active KEK.

    Args:
        keyring: all KEKs.
        rows: to re-wrap.
        target: the kek_id that the new wraps must carry.
        verify: which of them are unwrapped again; None: a sample.

    Returns:
        What became of them, and why some were left, if any were.

    Raises:
        WrongWrap: a new wrap does not open to the user's key.
        TargetMoved: the key of the KMS has moved on.
        KekError: a new wrap could not be verified now.
    """
    # Nobody seals such a row: its wrap was put there.
    old = [row for row in rows if row.wrap.format_version < FORMAT_CURRENT]
    current = [row for row in rows if row.wrap.format_version >= FORMAT_CURRENT]
    results = await keyring.rewrap([_item(row) for row in current])
    wrapped, set_aside, reason = sort_out(current, results, target)
    for row, wrap in chosen(wrapped, verify or Verify.SAMPLE):
        if not await _is_right(keyring, row, wrap):
            if await _was_right(keyring, row):
                raise wrong_wrap(target)
            wrapped.remove((row, wrap))
            set_aside.append((row, "the wrap opens to another key than this user's"))
    set_aside += [(row, _OLD_FORMAT) for row in old]
    left = len(rows) - len(wrapped) - len(set_aside)
    return Done(wrapped, set_aside, left), reason


def sort_out(
    rows: Sequence[RowT], results: Sequence[Rewrapped], target: str
) -> tuple[list[tuple[RowT, Wrap]], list[tuple[RowT, str]], KekError | None]:
    """Return rows with their new wraps, those to set aside and for what, and why some are left.

    Args:
        rows: as they were read.
        results: for each, in order, what the keyring has made of it.
        target: the kek_id that the new wraps must carry.

    Raises:
        TargetMoved: the key of the KMS has moved on.
    """
    wrapped: list[tuple[RowT, Wrap]] = []
    set_aside: list[tuple[RowT, str]] = []
    reason = None
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, Wrap):
            if result.kek_id != target:
                raise TargetMoved
            wrapped.append((row, result))
        elif isinstance(result, Tampered):
            set_aside.append((row, str(result)))
        else:
            reason = result
    return wrapped, set_aside, reason


def chosen(wrapped: Sequence[tuple[RowT, Wrap]], verify: Verify) -> list[tuple[RowT, Wrap]]:
    """Return those of the new wraps that are unwrapped again."""
    if verify is Verify.NONE:
        return []
    if verify is Verify.ALL:
        return list(wrapped)
    count = min(len(wrapped), 1 + len(wrapped) // _SAMPLE_EVERY)
    return random.sample(wrapped, count)  # no secret depends on which


def wrong_wrap(target: str) -> WrongWrap:
    """Return the error of a new wrap that does not open to the key that it was made of."""
    return WrongWrap(f"a wrap under {target} does not open to the key that it was made of")


def _item(row: Row) -> OwnedWrap:
    check = row.key_check
    if check is None:
        return OwnedWrap(row.binding, row.wrap)
    return OwnedWrap(row.binding, row.wrap, lambda key: is_master_key(row.user_id, key, check))


async def _is_right(keyring: Keyring, row: Row, wrap: Wrap) -> bool:
    """Whether the new wrap opens to the user's key, by its check value or else by the old wrap."""
    try:
        key = await keyring.unwrap(row.binding, wrap)
    except Tampered:
        return False
    if row.key_check is not None:
        return is_master_key(row.user_id, key, row.key_check)
    return key == await keyring.unwrap(row.binding, row.wrap)


async def _was_right(keyring: Keyring, row: Row) -> bool:
    """Whether the old wrap opened to the user's key: else the row was damaged before."""
    try:
        key = await keyring.unwrap(row.binding, row.wrap)
    except Tampered:
        return False
    return row.key_check is None or is_master_key(row.user_id, key, row.key_check)
