"""Which data key is the current one, and what it says of the others: by records and MACs alone.

No KEK is asked: a promotion is seen, and believed, also while the KMS is away.
"""

from collections.abc import Mapping

from custody.datakeys.data_key import DataKey
from custody.datakeys.record_seal import RecordSeal
from custody.datakeys.records import Record


def vouches_for_itself(record: Record) -> bool:
    """Say whether a record claims to be that of the current data key.

    Args:
        record: as it was read.
    """
    said = RecordSeal.parse(record.seal)
    return said is not None and said.voucher is None


def stands(key: DataKey, record: Record, current: DataKey | None) -> bool:
    """Say whether a record is still that of an open data key.

    Args:
        key: the one that is open.
        record: as it was read now.
        current: the current data key; None: it is not open, and nothing can be judged.
    """
    if not key.is_of(record.seal):
        return False
    if current is None:
        return True
    if key.id == current.id:
        return vouches_for_itself(record)
    return current.vouches_for(key.id, record.seal)


def is_promoted(current: DataKey, successor: DataKey, there: Mapping[str, Record]) -> bool:
    """Say whether the records have made the successor the current one.

    Where the current one has a record, the successor must vouch for it. Where it has none any more,
    it was ended while this process stood still: then it is enough that the successor vouches for
    itself.

    Args:
        current: what is current in this process.
        successor: an open data key.
        there: the records by id.
    """
    # Ids grow with time, and are in the wraps: records of before never lead back.
    if successor.id <= current.id:
        return False
    before = there.get(current.id)
    if before is not None:
        return current.is_of(before.seal) and successor.vouches_for(current.id, before.seal)
    record = there.get(successor.id)
    return record is not None and vouches_for_itself(record) and successor.is_of(record.seal)
