"""One batch of rows sealed with a predecessor: judged, re-wrapped where stale, sealed anew."""

import contextlib
from collections.abc import Sequence

from custody.datakeys.data_key import PREFIX_SIZE, DataKey
from custody.datakeys.ring import Ring
from custody.db.errors import DatabaseError
from custody.rewrap import batch
from custody.rewrap.options import Verify
from custody.rewrap.rows import Row, SealedRow
from custody.rewrap.runs import Run
from custody.rewrap.storing import Done, Resealed
from kek_backends.errors import KekError, Transient
from kek_backends.keyring import Keyring
from kek_backends.wrap import FORMAT_CURRENT

_TAMPERED = "the row is not what was sealed"


async def reseal(
    keyring: Keyring, ring: Ring, rows: Sequence[SealedRow], run: Run, verify: Verify | None
) -> tuple[Done, KekError | None]:
    """Seal rows with the current data key.

    The seal that is there is judged first: what does not hold is never sealed anew, but set aside
    and left as it is. A wrap that does not open sets its row aside as well, but the seal says
    nothing of the wrap, so it is made anew: else the predecessor could never be ended.

    Args:
        keyring: all KEKs.
        ring: the data keys.
        rows: sealed with a predecessor.
        run: where they go.
        verify: which new wraps are unwrapped again before they are stored; None: a sample.

    Returns:
        What became of them, and why some were left, if any were.

    Raises:
        WrongWrap, TargetMoved, KekError: as :func:`custody.rewrap.batch.rewrap`; or the run's data
            key is not the current one here.
    """
    current = await _current(ring, run)
    good, bad = _judge(ring, current, rows)
    stale = _stale(keyring, good, run)
    wrapping, reason = await batch.rewrap(keyring, stale, run.target, verify)
    wraps = {row.user_id: wrap for row, wrap in wrapping.wrapped}
    damaged = {row.user_id: why for row, why in wrapping.set_aside}
    left = {row.user_id for row in stale} - wraps.keys() - damaged.keys()
    sealed = [
        Resealed(row, wraps.get(row.user_id), seal, damaged.get(row.user_id))
        for row, seal in good
        if row.user_id not in left
    ]
    waiting = len(rows) - len(good) - len(bad)
    if waiting and reason is None:
        reason = Transient("the data key that rows are sealed with can't be opened now")
    return Done((), (), len(left) + waiting, resealed=(*sealed, *bad)), reason


async def _current(ring: Ring, run: Run) -> DataKey:
    """Return the run's data key; it may have been promoted since this process has looked."""
    if ring.current is None or ring.current.id != run.data_key:
        with contextlib.suppress(DatabaseError):
            await ring.load(anew=True)
    current = ring.current
    if current is None or current.id != run.data_key:
        raise Transient(f"rows can't be sealed now: {ring.problem or 'the data key is another'}")
    return current


def _judge(
    ring: Ring, current: DataKey, rows: Sequence[SealedRow]
) -> tuple[list[tuple[SealedRow, str]], list[Resealed]]:
    """Return rows that are what was sealed, each with its new seal, and those that are not.

    In neither is one that can't be judged now.
    """
    good, bad = [], []
    for row in rows:
        user_id, seal, state, *_ = row
        key = ring.find(seal[:PREFIX_SIZE])
        if key is None and ring.reason(seal[2 : PREFIX_SIZE - 1]) is not None:
            continue
        sealed, next_sealed = state.message_and_next(user_id)
        if key is not None and key.row_seal.is_mac(seal[PREFIX_SIZE:], sealed):
            good.append((row, current.prefix + current.row_seal.of(next_sealed)))
        else:
            bad.append(Resealed(row, None, None, _TAMPERED))
    return good, bad


def _stale(keyring: Keyring, rows: Sequence[tuple[SealedRow, str]], run: Run) -> list[Row]:
    """Return those that get a new wrap: none that was set aside, and none that we can't open."""
    here = run.target, FORMAT_CURRENT
    holders = {row.wrap.kek_id for row, _ in rows if row.wrap is not None}
    held = {kek_id for kek_id in holders if _holds_kek(keyring, kek_id)}
    return [
        Row(row.user_id, row.state.generation, wrap, row.state.key_check, row.row_version)
        for row, _ in rows
        if (wrap := row.wrap) is not None
        and not row.is_set_aside
        and (run.everything or (wrap.kek_id, wrap.format_version) != here)
        and wrap.kek_id in held
    ]


def _holds_kek(keyring: Keyring, kek_id: str) -> bool:
    backend = keyring.find(kek_id)
    return backend is not None and backend.refusal(kek_id) is None
