"""The tree of keys: KEKs, the data keys under each, and the rows under both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from custody.keks.records import NO_ROWS, RecordedDataKey, RegisteredKek, RowCount
from kek_backends.uri import DATA_KEY_PREFIX

# Whoever writes the database could make any number of records.
MOST_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows under one key.

    Args:
        total: those with a wrap under it.
        stale: of these, waiting for a re-wrap.
        quarantined: of these, set aside, as their wraps do not open.
    """

    total: int
    stale: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """A data key.

    Args:
        id: its name.
        since: when it was recorded.
        is_current: whether new seals are made with it.
        is_lost: whether the owner has given it up.
        also_under: the kek_ids of the other KEKs that it is wrapped under.
        rows: wrapped under it; None: not counted, or there are none.
    """

    id: str
    since: datetime
    is_current: bool
    is_lost: bool
    also_under: tuple[str, ...]
    rows: Rows | None


@dataclass(frozen=True, slots=True)
class Branch:
    """A KEK.

    Args:
        kek_id: the stamp.
        state: active, decrypt-only, retired or unregistered.
        uri: where it is; None: not known.
        since: when it came into its state, as far as that is known.
        is_active: whether this daemon wraps under it.
        data_keys: wrapped under it.
        rows: wrapped under it; None: not counted, or there are none.
    """

    kek_id: str
    state: str
    uri: str | None
    since: datetime | None
    is_active: bool
    data_keys: tuple[Leaf, ...]
    rows: Rows | None


@dataclass(frozen=True, slots=True)
class Tree:
    """All of it.

    Args:
        branches: the active KEK first, the retired ones last.
        total: rows with a wrap; None: not counted.
        stale: of these, waiting for a re-wrap.
        quarantined: of these, set aside.
        left_out: KEKs that are not shown, since there are so many.
    """

    branches: tuple[Branch, ...]
    total: int | None
    stale: int
    quarantined: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What this process wraps under.

    Args:
        active: kek_id of the active KEK; None: its KMS has not said it yet.
        target: kek_id of new wraps of users' keys: that one, or a data key's id.
        current: id of the current data key; None: it is not open.
    """

    active: str | None
    target: str | None
    current: str | None


_ORDER = {"active": 1, "decrypt-only": 2, "unregistered": 3, "retired": 4}


def grow(
    keks: Sequence[RegisteredKek],
    data_keys: Sequence[RecordedDataKey],
    counted: Mapping[str, RowCount] | None,
    standing: Standing,
) -> Tree:
    """Put the records together.

    Args:
        keks: of the registry.
        data_keys: on record.
        counted: rows by kek_id; None: not counted.
        standing: of this process.
    """
    by_kek: dict[str, list[RecordedDataKey]] = {}
    for key in data_keys[-MOST_SHOWN:]:
        for kek_id in key.kek_ids:
            by_kek.setdefault(kek_id, []).append(key)
    known = {kek.kek_id: kek for kek in keks}
    # A row's kek_id, or a data key's, that no record has is shown all the same.
    named = {*by_kek, *(kek_id for kek_id in counted or () if not _is_data_key(kek_id))}
    for kek_id in sorted(named - known.keys()):
        known[kek_id] = RegisteredKek(kek_id, "unregistered")
    branches = sorted(
        (_branch(kek, by_kek.get(kek.kek_id, ()), counted, standing) for kek in known.values()),
        key=lambda branch: (
            not branch.is_active,
            branch.state == "retired",
            -(_total_of(branch)),
            _ORDER.get(branch.state, 5),
        ),
    )
    branches = _once(branches)
    rows = [_rows(kek_id, count, standing) for kek_id, count in (counted or {}).items()]
    return Tree(
        branches=tuple(branches[:MOST_SHOWN]),
        total=None if counted is None else sum(one.total for one in rows),
        stale=sum(one.stale for one in rows),
        quarantined=sum(one.quarantined for one in rows),
        left_out=max(0, len(branches) - MOST_SHOWN),
    )


def _branch(
    kek: RegisteredKek,
    data_keys: Sequence[RecordedDataKey],
    counted: Mapping[str, RowCount] | None,
    standing: Standing,
) -> Branch:
    leaves = (
        Leaf(
            id=key.id,
            since=key.created_at,
            is_current=key.id == standing.current,
            is_lost=key.lost_at is not None,
            also_under=tuple(one for one in key.kek_ids if one != kek.kek_id),
            rows=_rows_of(key.id, counted, standing),
        )
        for key in data_keys
    )
    return Branch(
        kek_id=kek.kek_id,
        state=kek.state,
        uri=kek.locator,
        since=kek.retired_at or kek.activated_at or kek.recorded_at,
        is_active=kek.kek_id == standing.active,
        data_keys=tuple(sorted(leaves, key=lambda leaf: (not leaf.is_current, leaf.id))),
        rows=_rows_of(kek.kek_id, counted, standing),
    )


def _once(branches: Sequence[Branch]) -> list[Branch]:
    """Leave the rows of a data key under the first of its KEKs alone: they are not there twice."""
    seen: set[str] = set()
    kept = []
    for branch in branches:
        leaves = tuple(
            replace(leaf, rows=None) if leaf.id in seen else leaf for leaf in branch.data_keys
        )
        seen.update(leaf.id for leaf in leaves)
        kept.append(replace(branch, data_keys=leaves))
    return kept


def _rows_of(
    kek_id: str, counted: Mapping[str, RowCount] | None, standing: Standing
) -> Rows | None:
    count = (counted or {}).get(kek_id, NO_ROWS)
    return _rows(kek_id, count, standing) if count.wraps else None


def _rows(kek_id: str, count: RowCount, standing: Standing) -> Rows:
    here = max(count.old_format, count.legacy)
    stale = here if kek_id == standing.target else count.wraps
    return Rows(count.wraps, max(0, stale - count.quarantined), count.quarantined)


def _total_of(branch: Branch) -> int:
    return sum(
        rows.total for rows in (branch.rows, *(one.rows for one in branch.data_keys)) if rows
    )


def _is_data_key(kek_id: str) -> bool:
    return kek_id.startswith(DATA_KEY_PREFIX)
