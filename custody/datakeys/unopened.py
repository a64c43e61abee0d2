"""The records of data keys that are not open here, and why."""

from collections.abc import Collection

from custody.datakeys.records import Record

NOT_READ = "the data keys were not read yet"


class Unopened:
    """What is known of the records beside the keys that are open."""

    def __init__(self) -> None:
        # None before they were read for the first time.
        self.records: tuple[Record, ...] | None = None
        # Not asked again while the same bytes are there: what is no data key of ours, and what
        # vouches for itself beside another one.
        self.bad: set[Record] = set()
        self.rivals: set[Record] = set()
        # Why those that may be ours can't be opened now.
        self.unavailable: dict[str, str] = {}

    def take(self, records: tuple[Record, ...]) -> dict[str, Record]:
        """Take what was read; forget what was known of records that are others now.

        Returns:
            The records by their ids.
        """
        self.records = records
        self.bad &= set(records)
        if not self.rivals <= set(records):
            self.rivals.clear()
        there = {record.id: record for record in records}
        for key_id in self.unavailable.keys() - there.keys():
            del self.unavailable[key_id]
        return there

    def forget_refusals(self) -> None:
        """Have all of them tried again: other KEKs are configured now."""
        self.bad.clear()
        self.rivals.clear()

    def is_refused(self, record: Record) -> bool:
        """Say whether a record is not to be opened, whatever the KMS would say."""
        return record.is_lost or record in self.bad or record in self.rivals

    def is_settled(self, key_id: str) -> bool:
        """Say whether the records read last say all there is to say of a data key."""
        return key_id in self.unavailable or any(
            self.is_refused(record) for record in self.records or () if record.id == key_id
        )

    def is_lost(self, key_id: str) -> bool:
        """Say whether a data key is one that the owner has called lost."""
        return any(record.is_lost for record in self.records or () if record.id == key_id)

    def reason(self, key_id: str) -> str | None:
        """Return why a data key is not open; None where there is none of ours."""
        if key_id in self.unavailable:
            return self.unavailable[key_id]
        for record in self.records or ():
            if record.id == key_id and record not in self.bad:
                return f"the data key {key_id} is lost" if record.is_lost else self.doubled([])
        return None

    def is_empty(self) -> bool:
        """Say whether the records are known, and none of them can be that of a data key."""
        return self.records is not None and all(
            record.is_lost or record in self.bad for record in self.records
        )

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
            for record in self.records or ()
            if record.id not in held and (record.is_lost or record in self.bad)
        )
        return (*self.unavailable.values(), *odd)
