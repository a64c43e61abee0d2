"""The records of data keys that are not open here, and why."""

from collections.abc import Collection

import structlog

from custody.datakeys.records import Record
from custody.datakeys.standing import vouches_for_itself

NOT_READ = "the data keys were not read yet"

log = structlog.get_logger()


class Unopened:
    """What is known of the records beside the keys that are open."""

    def __init__(self) -> None:
        # By id, the oldest first; None before they were read for the first time.
        self.records: dict[str, Record] | None = None
        # Not asked again while the same bytes are there: what is no data key of ours, and what
        # vouches for itself beside another one.
        self.bad: set[Record] = set()
        self.rivals: set[Record] = set()
        # Those that nobody vouches for as the records are now.
        self.unvouched: set[Record] = set()
        # Why those that may be ours can't be opened now; some of them wait for the current one.
        self.unavailable: dict[str, str] = {}
        self._waiting: set[str] = set()
        self._told: set[Record] = set()

    def take(self, records: tuple[Record, ...]) -> dict[str, Record]:
        """Take what was read; forget what was known of records that are others now.

        Returns:
            The records by their ids.
        """
        self.bad &= set(records)
        self._told &= set(records)
        self.unvouched.clear()
        if not self.rivals <= set(records):
            self.rivals.clear()
        there = self.records = {record.id: record for record in records}
        for key_id in self.unavailable.keys() - there.keys():
            del self.unavailable[key_id]
        return there

    def record(self, key_id: str) -> Record | None:
        """Return a record as it was read last; None where there was none.

        Args:
            key_id: of which data key.
        """
        return None if self.records is None else self.records.get(key_id)

    def forget_refusals(self) -> None:
        """Have all of them tried again: other KEKs are configured now."""
        self.bad.clear()
        self.rivals.clear()

    def is_refused(self, record: Record) -> bool:
        """Say whether a record is not to be opened, whatever the KMS would say."""
        # On the way of each new wrap: to look a record up takes longer than all else there.
        if not (self.bad or self.unvouched or self.rivals):
            return record.is_lost
        return record.is_lost or self._is_bad(record) or record in self.rivals

    def refuse(self, record: Record) -> None:
        """Count a record as none of ours, as long as the records are what they are now."""
        self.unvouched.add(record)
        self.unavailable.pop(record.id, None)
        if record not in self._told:
            self._told.add(record)
            log.error("data_key_record_bad", data_key=record.id)

    def wait(self, record: Record) -> None:
        """Leave a record until the data key is open that may vouch for it."""
        self._waiting.add(record.id)
        self.unavailable[record.id] = (
            f"the data key {record.id} waits for the one that vouches for it"
        )

    def wait_no_more(self, record: Record) -> None:
        """Have a record opened that waited for another one."""
        if record.id in self._waiting:
            self._waiting.discard(record.id)
            self.unavailable.pop(record.id, None)

    def may_have_current(self) -> bool:
        """Say whether a record may be that of the current data key, though it is not open."""
        return any(
            vouches_for_itself(record) and not record.is_lost and not self._is_bad(record)
            for record in (self.records or {}).values()
        )

    def is_settled(self, key_id: str) -> bool:
        """Say whether the records read last say all there is to say of a data key."""
        record = self.record(key_id)
        return key_id in self.unavailable or (record is not None and self.is_refused(record))

    def is_lost(self, key_id: str) -> bool:
        """Say whether a data key is one that the owner has called lost."""
        record = self.record(key_id)
        return record is not None and record.is_lost

    def reason(self, key_id: str) -> str | None:
        """Return why a data key is not open; None where there is none of ours."""
        if key_id in self.unavailable:
            return self.unavailable[key_id]
        record = self.record(key_id)
        if record is None or self._is_bad(record):
            return None
        return f"the data key {key_id} is lost" if record.is_lost else self.doubled([])

    def is_empty(self) -> bool:
        """Say whether the records are known, and none of them can be that of a data key."""
        return self.records is not None and all(
            record.is_lost or self._is_bad(record) for record in self.records.values()
        )

    def _is_bad(self, record: Record) -> bool:
        return record in self.bad or record in self.unvouched

    def doubled(self, held: Collection[str]) -> str | None:
        """Say that more than one data key vouches for itself, where that is so.

        Args:
            held: ids of those that are open.
        """
        if not self.rivals:
            return None
        named = ", ".join(sorted({record.id for record in self.rivals}.union(held)))
        return (
            f"more than one data key vouches for itself ({named}): "
            "run custody kek forget for those that are not yours"
        )

    def remarks(self, held: Collection[str]) -> tuple[str, ...]:
        """Say what is wrong with the records of others than those that are open.

        Args:
            held: ids of those that are open.
        """
        odd = (
            f"the record {record.id} "
            + ("is marked as lost" if record.is_lost else "holds no data key of ours")
            for record in (self.records or {}).values()
            if record.id not in held and (record.is_lost or self._is_bad(record))
        )
        return (*self.unavailable.values(), *odd)
