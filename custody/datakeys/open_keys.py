"""The data keys that are open in this process: how old each is, and why it was not opened again."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

from custody.datakeys.data_key import DataKey
from custody.datakeys.records import Opened, Record

# A data key is opened again when so much of its TTL is over, in each process at another moment.
_AHEAD = 0.8
_SPREAD = 0.1
_RETRY_SECONDS = 2.0

log = structlog.get_logger()


@dataclass(slots=True)
class OpenKey:
    """A data key that is open.

    Args:
        opened: the key, and under which KEK.
        record: which it was opened from.
        opened_at: when that was last.
        due_at: when it is to be opened again.
        failure: why that failed; None: it did not.
        is_half_gone: it was said that half of its time is over.
    """

    opened: Opened
    record: Record
    opened_at: float
    due_at: float
    failure: str | None = None
    is_half_gone: bool = False

    @property
    def key(self) -> DataKey:
        """The data key itself."""
        return self.opened.key


class OpenKeys:
    """Holds data keys, each until it is dropped; what is not opened again in time is too old.

    Args:
        ttl: seconds after which a data key is to be opened again, a little ahead.
        max_age: seconds after which one that was not is too old.
        clock: seconds, those in suspension counted.
    """

    def __init__(self, ttl: float, max_age: float, clock: Callable[[], float]) -> None:
        self._ttl = ttl
        self._max_age = max_age
        self._clock = clock
        # By prefix: what requests look at. By id: the same keys, with what is known beside.
        self._by_prefix: dict[str, DataKey] = {}
        self._by_id: dict[str, OpenKey] = {}
        # What each came out of last, while it is open and after that.
        self._opened_from: dict[str, Record] = {}

    def __iter__(self) -> Iterator[OpenKey]:
        """Go through them, the oldest first; they may be dropped meanwhile."""
        return iter([self._by_id[key_id] for key_id in self.ids])

    @property
    def ids(self) -> tuple[str, ...]:
        """Their ids, the oldest first."""
        return tuple(sorted(self._by_id))

    def find(self, prefix: str) -> DataKey | None:
        """Return the data key that a seal names, if it is open; looks at nothing but a dict.

        Args:
            prefix: the first 38 characters of the seal.
        """
        return self._by_prefix.get(prefix)

    def find_by_hint(self, hint: str) -> DataKey | None:
        """Return the data key that the seal of an audit row names, if it is open.

        Args:
            hint: 8 hexadecimal digits.
        """
        return next((key for key in self._by_prefix.values() if key.audit_hint == hint), None)

    def get(self, key_id: str | None) -> OpenKey | None:
        """Return a data key with what is known of it; None where it is not open.

        Args:
            key_id: which; None: of none.
        """
        return None if key_id is None else self._by_id.get(key_id)

    def hold(self, record: Record, opened: Opened) -> None:
        """Have a data key open, for the first time or again.

        Args:
            record: what it was opened from.
            opened: the key.
        """
        before = self._by_id.get(record.id)
        if before is None:
            log.info("data_key_opened", data_key=record.id, kek_id=opened.kek_id)
        elif before.failure is not None:
            log.info("data_key_available", data_key=record.id)
        now = self._clock()
        ahead = self._ttl * _AHEAD * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311
        self._by_id[record.id] = OpenKey(opened, record, opened_at=now, due_at=now + ahead)
        self._by_prefix[opened.key.prefix] = opened.key
        self._opened_from[record.id] = record

    def drop(self, key_id: str) -> None:
        """Have a data key open no more.

        Args:
            key_id: which; it is open.
        """
        del self._by_prefix[self._by_id.pop(key_id).key.prefix]

    def coast(self, held: OpenKey, reason: str) -> None:
        """Keep a data key that could not be opened again, and have it tried again soon.

        Args:
            held: the data key.
            reason: why that could not be.
        """
        if held.failure is None:
            log.warning("data_key_coasting", data_key=held.key.id, reason=reason)
        held.failure = reason
        held.due_at = self._clock() + pause()

    def drop_old(self) -> dict[str, str]:
        """Drop what is too old, and say of which half of the time is over.

        Returns:
            Why each that was dropped had not been opened again, by id.
        """
        now, dropped = self._clock(), {}
        for held in self:
            key_id, age = held.key.id, now - held.opened_at
            if age > self._max_age:
                reason = held.failure or "it was not opened again in time"
                self.drop(key_id)
                dropped[key_id] = reason
                log.error("data_key_dropped", data_key=key_id, reason=reason)
            elif held.failure is not None and age > self._max_age / 2 and not held.is_half_gone:
                held.is_half_gone = True
                left = round(self._max_age - age)
                log.error(
                    "data_key_half_gone", data_key=key_id, seconds_left=left, reason=held.failure
                )
        return dropped

    def make_due(self) -> None:
        """Have all of them opened again now."""
        for held in self:
            held.due_at = float("-inf")

    def is_any_due(self) -> bool:
        """Say whether one is to be opened again."""
        now = self._clock()
        return any(held.due_at <= now for held in self._by_id.values())

    def has_opened(self, record: Record) -> bool:
        """Say whether a data key came out of these very wraps the last time it was opened.

        Args:
            record: whose they are.
        """
        before = self._opened_from.get(record.id)
        return before is not None and before.is_of_same_key(record)

    def age(self, key_id: str | None) -> float | None:
        """Return how many seconds ago a data key was opened; None where it is not open.

        Args:
            key_id: which; None: of none.
        """
        held = self.get(key_id)
        return None if held is None else self._clock() - held.opened_at

    def seconds_left(self, key_id: str | None) -> float:
        """Return how long a data key is kept without being opened again; 0 where it is not open.

        Args:
            key_id: which; None: of none.
        """
        return 0.0 if (age := self.age(key_id)) is None else max(0.0, self._max_age - age)

    def failures(self) -> tuple[str, ...]:
        """Say which could not be opened again, and why."""
        return tuple(
            f"the data key {held.key.id} could not be opened again: {held.failure}"
            for held in self
            if held.failure is not None
        )


def pause() -> float:
    """Return in how many seconds to try again, in each process at another moment."""
    return _RETRY_SECONDS * random.uniform(0.75, 1.25)  # noqa: S311
