"""The data keys of a process: each is opened once, kept fresh, and dropped when it is too old."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.clock import boot_time
from custody.datakeys.data_key import DataKey, id_of
from custody.datakeys.errors import DataKeyLost, DataKeyUnavailable, NoSuchDataKey
from custody.datakeys.open_keys import OpenKey, OpenKeys, pause
from custody.datakeys.records import Opened, Record, open_record, read_records
from custody.datakeys.standing import is_promoted, stands, vouches_for_itself
from custody.datakeys.unopened import NOT_READ, Unopened
from custody.db.errors import NO_ANSWER, DatabaseError
from kek_backends.keyring import Keyring
from kek_backends.wrap import Wrap

_LOOK_SECONDS = 0.5
# Rows may name data keys that nobody has: the database is not asked for each of them.
_AGAIN_SECONDS = 5.0

RESTORE = "restore auth.encryption_data_keys and auth.encryption_data_key_wraps from a backup"
_GONE = f"its record is gone: {RESTORE}"
_TOUCHED = f"its record has the seal of another key now, or none: {RESTORE}"
_LOST = "its record is marked as lost"

log = structlog.get_logger()


class Ring:
    """The data keys that are open in this process, and why others are not.

    There is one current data key, which vouches for itself: of two that do, the second is not used,
    and none where both are met at once. Others are open only while the current one vouches for
    them: a successor, until it is promoted, and a predecessor, until it is ended. What was current
    once and is not any more never is again in this process, whatever the records say.

    Args:
        engine: connections of a runtime role.
        keyring: the configured KEKs.
        ttl: seconds after which a data key is opened again, a little ahead.
        max_age: seconds after which one that could not be opened again is dropped.
        clock: seconds, those in suspension counted.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        keyring: Keyring,
        ttl: float,
        max_age: float,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._clock = clock
        self._open = OpenKeys(ttl, max_age, clock)
        self._unopened = Unopened()
        # Id of the current one; and of the latest that was.
        self._current: str | None = None
        self._floor = ""
        # Those that had no record any more: never opened again in this process.
        self._gone: set[str] = set()
        # Why the records could not be read, the last time.
        self._failure: str | None = None
        self._read_at = self._retry_at = float("-inf")
        self._loading: asyncio.Task[None] | None = None

    def find(self, prefix: str) -> DataKey | None:
        """Return the data key that a seal names, if it is open; looks at nothing but a dict.

        Args:
            prefix: the first 38 characters of the seal.
        """
        return self._open.find(prefix)

    def find_by_hint(self, hint: str) -> DataKey | None:
        """Return the data key that the seal of an audit row names, if it is open.

        Args:
            hint: 8 hexadecimal digits.
        """
        return self._open.find_by_hint(hint)

    def source(self, key_id: str) -> tuple[DataKey, Wrap] | None:
        """Return a data key and the wrap that it came out of; None where it is not open.

        Args:
            key_id: which.
        """
        if (held := self._open.get(key_id)) is None:
            return None
        by_kek = {wrap.kek_id: wrap for wrap in held.record.wraps}
        return held.key, by_kek[held.opened.kek_id]

    @property
    def current(self) -> DataKey | None:
        """The data key that new seals are made with, or None where it is not open."""
        held = self._open.get(self._current)
        return None if held is None else held.key

    @property
    def successors(self) -> tuple[Record, ...]:
        """The records that the current data key vouches for, and that come after it."""
        return tuple(record for record in self._vouched_for() if record.id > self._floor)

    @property
    def predecessors(self) -> tuple[Record, ...]:
        """The records that the current data key vouches for, and that were before it."""
        return tuple(record for record in self._vouched_for() if record.id < self._floor)

    def record(self, key_id: str) -> Record | None:
        """Return a record as it was read last; None where there was none.

        Args:
            key_id: of which data key.
        """
        return self._unopened.record(key_id)

    @property
    def open_ids(self) -> tuple[str, ...]:
        """The ids of the data keys that are open, the oldest first."""
        return self._open.ids

    @property
    def open_keys(self) -> tuple[DataKey, ...]:
        """The data keys that are open, the oldest first."""
        return tuple(held.key for held in self._open)

    @property
    def is_on_record(self) -> bool:
        """Whether the current data key is on record: what is wrapped under it opens again."""
        record = None if self._current is None else self.record(self._current)
        return record is not None and not self._unopened.is_refused(record)

    async def get(self, prefix: str) -> DataKey:
        """Return the data key that a seal names; wait for it where it is just being opened.

        Where it could not be opened the last time, nobody waits for the next.

        Args:
            prefix: as for :meth:`find`.

        Raises:
            DataKeyLost: no KEK opens it any more, by the owner's word.
            DataKeyUnavailable: it can't be opened now.
            NoSuchDataKey: there is none.
        """
        key_id = id_of(prefix)
        if key_id is None:
            raise NoSuchDataKey("it is no seal")
        if self.find(prefix) is None and not self._unopened.is_settled(key_id) and self._may_read():
            try:
                await self.load()
            except DatabaseError as error:
                raise DataKeyUnavailable(str(error) or NO_ANSWER) from None
        if (key := self.find(prefix)) is not None:
            return key
        if self._unopened.is_lost(key_id):
            raise DataKeyLost(f"the data key {key_id} is lost")
        if (reason := self.reason(key_id)) is not None:
            raise DataKeyUnavailable(reason)
        raise NoSuchDataKey(f"there is no data key {key_id}")

    def reason(self, key_id: str) -> str | None:
        """Return why a data key that there may be is not open; None where there is none of ours."""
        if self._unopened.records is None:
            return self._failure or NOT_READ
        return self._unopened.reason(key_id)

    async def load(self, *, anew: bool = False) -> None:
        """Read the records, open what is not open yet, and open again what is due.

        Whoever comes meanwhile waits for the same.

        Args:
            anew: whether to begin after one that is under way already, and may have read too early.

        Raises:
            DatabaseError: the database can't be asked now; what is open stays so.
        """
        if anew and self._loading is not None:
            with contextlib.suppress(DatabaseError):
                await asyncio.shield(self._loading)
        await asyncio.shield(self._begin())

    def follow(self) -> None:
        """See anew what the configured KEKs open: others are configured now."""
        self._unopened.forget_refusals()
        self._retry_at = float("-inf")
        self._open.make_due()
        self._begin()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep the data keys fresh for the length of the block, and drop what is too old."""
        task = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            ending = [one for one in (task, self._loading) if one is not None]
            for one in ending:
                one.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    def tend(self) -> None:
        """Drop what is too old, and begin to open again what is due.

        Nothing is waited for: a KEK that hangs must not keep an old key alive.
        """
        for key_id, reason in self._open.drop_old().items():
            if key_id == self._current:
                self._current = None
            self._unopened.unavailable[key_id] = f"the data key {key_id}: {reason}"
            self._retry_at = self._clock()
        if self._is_due():
            self._begin()

    @property
    def problem(self) -> str | None:
        """Why no data key, or not the right one, can be used; None when one can, however old."""
        current = self.current
        if doubled := self._unopened.doubled([current.id] if current else []):
            return doubled
        if current is not None:
            return None
        if self._unopened.records is None:
            return self._failure or NOT_READ
        return "; ".join(self._unopened.unavailable.values()) or (
            f"no data key vouches for itself: {RESTORE}"
            if self._unopened.unvouched
            else "there is no data key yet"
        )

    @property
    def degraded(self) -> str | None:
        """What is not as it should be while requests are answered all the same."""
        if not (ids := self._open.ids):
            return None
        return "; ".join((*self._open.failures(), *self._unopened.remarks(ids))) or None

    @property
    def seconds_left(self) -> float:
        """How long the data key of new seals is kept without being opened again; 0 without one."""
        return self._open.seconds_left(self._current)

    @property
    def age(self) -> float | None:
        """How many seconds ago the data key of new seals was opened; None where it is not."""
        return self._open.age(self._current)

    @property
    def is_coasting(self) -> bool:
        """Whether a data key is open that could not be opened again."""
        return bool(self._open.failures())

    @property
    def bad(self) -> tuple[Record, ...]:
        """The records that hold no data key of ours, by what the configured KEKs say."""
        bad = self._unopened.bad | self._unopened.unvouched
        return tuple(sorted(bad, key=lambda record: record.id))

    @property
    def is_empty(self) -> bool:
        """Whether no data key is open, and none of the records can be that of one."""
        return not self._open.ids and self._unopened.is_empty()

    @property
    def is_doubled(self) -> bool:
        """Whether more than one data key vouches for itself."""
        return bool(self._unopened.rivals)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.tend()

    def _begin(self) -> "asyncio.Task[None]":
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
            self._loading.add_done_callback(self._ended)
        return self._loading

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._loading = None
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, DatabaseError):
            log.error("data_keys_failed", error=type(error).__name__)

    async def _load(self) -> None:
        now = self._clock()
        # A KMS that is down is asked by the retries alone.
        retry = self._retry_at <= now
        try:
            records = await read_records(self._engine)
        except DatabaseError as error:
            self._failure = str(error) or NO_ANSWER
            self._retry_at = now + pause()
            for held in self._open:
                if held.due_at <= now:
                    self._open.coast(held, self._failure)
            raise
        self._failure, self._read_at = None, now
        there = self._unopened.take(records)
        self._promote(there)
        self._see(there, now)
        roots = [record for record in records if self._may_be_current(record)]
        self._hold_roots(await self._open_fresh(roots, now, retry=retry), there)
        if self._promote(there):
            self._see(there, now)
        others = [record for record in records if self._is_vouched(record)]
        for record, opened in await self._open_fresh(others, now, retry=retry):
            self._open.hold(record, opened)
        if retry:
            self._retry_at = self._clock() + pause()

    def _promote(self, there: dict[str, Record]) -> bool:
        """Take a successor for the current one where the records do; say whether it was done."""
        current = self.current
        if current is None:
            return False
        for key in self.open_keys:
            if is_promoted(current, key, there):
                self._current = self._floor = key.id
                log.info("data_key_promoted", data_key=key.id, before=current.id)
                return True
        return False

    def _see(self, there: dict[str, Record], now: float) -> None:
        """See whether the records of the keys that are open are still what they were."""
        for held in self._open:
            key_id = held.key.id
            record = there.get(key_id)
            if record is None:
                self._miss(held)
                continue
            if key_id != self._current and self.current and vouches_for_itself(record):
                self._unopened.rivals.add(record)
            if self._unopened.is_refused(record):
                self._open.coast(held, _LOST if record.is_lost else held.failure or _TOUCHED)
            elif not stands(held.key, record, self.current):
                # That of the current one may name its successor, which is not open here yet.
                if key_id != self._current or vouches_for_itself(record):
                    self._unopened.refuse(record)
                self._open.coast(held, _TOUCHED)
            elif record.wraps != held.record.wraps:
                if held.failure is None:
                    held.due_at = now
            else:
                # Another seal, by the right one: no KEK needs to be asked.
                held.record = record
                if held.failure == _TOUCHED:
                    held.failure = None

    def _miss(self, held: OpenKey) -> None:
        """Do without a record: the current data key goes on, any other one was ended."""
        key_id = held.key.id
        if key_id == self._current or self.current is None:
            self._open.coast(held, _GONE)
            return
        self._open.drop(key_id)
        self._gone.add(key_id)
        log.info("data_key_ended", data_key=key_id)

    def _may_be_current(self, record: Record) -> bool:
        if not vouches_for_itself(record):
            return False
        if record.id >= self._floor and record.id not in self._gone:
            return True
        self._unopened.refuse(record)
        return False

    def _is_vouched(self, record: Record) -> bool:
        """Say whether the current data key vouches for a record; note why not."""
        if vouches_for_itself(record) or record.id == self._current:
            return False
        current = self.current
        if current is None and self._unopened.may_have_current():
            if self._open.get(record.id) is None:
                self._unopened.wait(record)
            return False
        self._unopened.wait_no_more(record)
        is_gone = record.id in self._gone
        if current and not is_gone and current.vouches_for(record.id, record.seal):
            return True
        self._unopened.refuse(record)
        return False

    def _vouched_for(self) -> list[Record]:
        current = self.current
        return [
            record
            for record in (self._unopened.records or {}).values()
            if current is not None
            and record.id not in self._gone
            and not self._unopened.is_refused(record)
            and current.vouches_for(record.id, record.seal)
        ]

    async def _open_fresh(
        self, records: list[Record], now: float, *, retry: bool
    ) -> list[tuple[Record, Opened]]:
        return [
            (record, opened)
            for record in records
            if self._is_to_open(record, now, retry=retry)
            and (opened := await self._open_one(record)) is not None
        ]

    def _is_to_open(self, record: Record, now: float, *, retry: bool) -> bool:
        if self._unopened.is_refused(record):
            return False
        if (held := self._open.get(record.id)) is not None:
            return held.due_at <= now
        return retry or record.id not in self._unopened.unavailable

    async def _open_one(self, record: Record) -> Opened | None:
        """Open a data key, or open it again; return it where it is not open."""
        try:
            opened = await open_record(self._keyring, record)
        except (DataKeyUnavailable, NoSuchDataKey) as error:
            self._note_failure(record, error)
            return None
        self._unopened.unavailable.pop(record.id, None)
        # Only now: meanwhile it may have become too old.
        held = self._open.get(record.id)
        if held is None:
            return opened
        if not opened.key.is_of(held.key.own_seal):
            # Whoever may encrypt under the KEK has made it. Nobody's seals are judged by it.
            self._unopened.bad.add(record)
            self._open.coast(held, _TOUCHED)
            return None
        self._open.hold(record, opened)
        return None

    def _note_failure(self, record: Record, error: DataKeyUnavailable | NoSuchDataKey) -> None:
        unavailable, held = self._unopened.unavailable, self._open.get(record.id)
        # What has opened before does not now: the KEK is at fault, and may be right in a moment.
        is_known = self._open.has_opened(record)
        if isinstance(error, NoSuchDataKey) and not is_known:
            self._unopened.bad.add(record)
            unavailable.pop(record.id, None)
            log.error("data_key_record_bad", data_key=record.id)
        if held is not None:
            self._open.coast(held, str(error))
        elif isinstance(error, DataKeyUnavailable) or is_known:
            if record.id not in unavailable:
                log.warning("data_key_unavailable", data_key=record.id, reason=str(error))
            unavailable[record.id] = str(error)

    def _hold_roots(self, fresh: list[tuple[Record, Opened]], there: dict[str, Record]) -> None:
        """Use a data key that vouches for itself, unless there is another one that does."""
        current = self.current
        if current is not None:
            taken = [one for one in fresh if is_promoted(current, one[1].key, there)]
        else:
            taken = fresh if len(fresh) == 1 else []
        for record, opened in taken:
            self._open.hold(record, opened)
            if current is None:
                self._current = self._floor = record.id
        if rivals := {record for record, _ in fresh} - {record for record, _ in taken}:
            self._unopened.rivals |= rivals
            named = sorted({record.id for record in rivals}.union([current.id] if current else []))
            log.error("data_keys_doubled", data_keys=named)

    def _may_read(self) -> bool:
        """Say whether a request may have the records read, or wait for it: not again and again."""
        if self._unopened.records is None:
            return self._failure is None
        return self._loading is not None or self._clock() - self._read_at >= _AGAIN_SECONDS

    def _is_due(self) -> bool:
        if self._open.is_any_due():
            return True
        waits = self._failure is not None or bool(self._unopened.unavailable)
        return waits and self._retry_at <= self._clock()
