"""Goes through rows, judges each, and looks again at what seems wrong: users may be changing it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.envelope import UserKeyring
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.db.errors import NO_ANSWER, DatabaseError
from custody.keks.proof import judge as judge_record
from custody.keks.proof import read_record, refuse_other_material
from custody.keks.trust import tell_what_is_known
from custody.verify.judge import Judge
from custody.verify.report import Fault, Kind, Report, Seen
from custody.verify.rows import PAGE, Group, RowReader
from kek_backends.errors import Misconfigured

# A row that is another each time is looked at so often; then what was seen last is said.
_LOOKS = 5
# How many rows in a row are judged before a signal is heard.
_YIELD_EVERY = 25


class Verification:
    """One look at rows.

    Args:
        engine: connections of the schema's owner, or of custody_verify.
        keyring: all that users' keys are wrapped under.
        ring: the data keys, loaded.
        stop: ends it early.
        legacy: whether rows that were never sealed are accepted.
        rate: calls a second that a KMS gets at most; 0: as many as its backend makes at once.
        begin: told how many rows will be looked at.
        advance: told how many rows were looked at, each time.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        keyring: UserKeyring,
        ring: Ring,
        stop: asyncio.Event,
        *,
        legacy: bool,
        rate: int = 0,
        begin: Callable[[int], None] = lambda _total: None,
        advance: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._engine, self._keyring, self._ring, self._stop = engine, keyring, ring, stop
        self._rows = RowReader(engine)
        self._legacy, self._rate = legacy, rate
        self._begin, self._advance = begin, advance
        self._next_at = 0.0
        self._unsealed = 0

    async def run(self, sample: int | None, seed: int) -> Report:
        """Look at rows.

        Args:
            sample: how many of each kek_id, chosen at random; None: all rows.
            seed: chooses them.

        Raises:
            DatabaseError: the database can't be asked now, and no row was seen.
        """
        report = Report(None if sample is None else seed)
        groups = await self._rows.choose(sample or 0, seed)
        report.keks.update({group.kek_id: Seen(group.rows) for group in groups})
        self._begin(report.rows if sample is None else sum(len(one.users) for one in groups))
        others = await self._others([one.kek_id for one in groups if one.kek_id is not None])
        for kek_id, why in others.items():
            report.note(Fault(Kind.KEK_OTHER, kek_id, why))
        judge = Judge(self._keyring, self._ring, self._turn, others, legacy=self._legacy)
        try:
            async for users in self._users(groups, report.rows, everything=sample is None):
                await self._take(judge, await self._rows.read(users), report)
                self._advance(len(users))
                if self._stop.is_set():
                    break
            report.is_finished = not self._stop.is_set()
        except DatabaseError as error:
            report.failure = str(error) or NO_ANSWER
        if self._unsealed:
            report.notices.append(
                f"{self._unsealed} rows were never sealed, and open while CUSTODY_LEGACY_ROWS is "
                "accept: custody rewrap run seals them"
            )
        return report

    async def _users(
        self, groups: Sequence[Group], count: int, *, everything: bool
    ) -> AsyncIterator[Sequence[str]]:
        """Return those whose rows are to be looked at, in pages."""
        if not everything:
            for page in _pages([user for group in groups for user in group.users]):
                yield page
            return
        async for users in self._rows.users(count):
            for page in _pages(users):
                yield page

    async def _others(self, in_rows: Collection[str]) -> dict[str, str]:
        """Return the kek_ids that stand for other key material than is configured, and why."""
        sealer = Sealer(self._ring)
        await tell_what_is_known(self._engine, self._keyring.keks, sealer, legacy=self._legacy)
        own = {one.kek_id for one in self._keyring.keks if one.kek_id is not None}
        found = {}
        for kek_id in sorted({*in_rows, *own}):
            backend = self._keyring.keks.find(kek_id)
            fingerprint = None if backend is None else backend.fingerprint(kek_id)
            if backend is None or fingerprint is None:
                continue
            known = await read_record(self._engine, kek_id)
            # One that no data key vouches for counts as none, as it does for a daemon.
            if known is None or judge_record(sealer, kek_id, known) is False:
                continue
            try:
                refuse_other_material(backend, kek_id, fingerprint, known, sealer)
            except Misconfigured as error:
                found[kek_id] = str(error)
        return found

    async def _take(self, judge: Judge, page: Sequence[Any], report: Report) -> None:
        """Judge a page; what seems wrong is read again until it is the same twice."""
        judged = await self._judge(judge, page)
        for _ in range(_LOOKS):
            doubted = {
                user: row for user, (row, fault) in judged.items() if fault and not fault.kind.waits
            }
            if not doubted or self._stop.is_set():
                break
            now = await self._rows.read(list(doubted))
            # After the rows: a data key that one of them names is known by then.
            with contextlib.suppress(DatabaseError):
                await self._ring.load(anew=True)
            again = await self._judge(judge, now)
            for user in doubted.keys() - {row["user_id"] for row in now}:
                del judged[user]
            judged.update(again)
            if all(dict(row) == dict(doubted[user]) for user, (row, _) in again.items()):
                break
        for user, (row, fault) in judged.items():
            self._record(report, user, row, fault)

    def _record(self, report: Report, user: str, row: Any, fault: Fault | None) -> None:
        kek_id = None if row["wrapped_mk"] is None else row["kek_id"]
        seen = report.keks.setdefault(kek_id, Seen())
        seen.looked_at += 1
        if fault is not None:
            report.add(fault, user)
            return
        seen.good += 1
        self._unsealed += row["seal"] is None

    async def _judge(
        self, judge: Judge, rows: Sequence[Any]
    ) -> dict[str, tuple[Any, Fault | None]]:
        """Judge rows, as many at once as the slowest KEK has use for; fewer where it is stopped."""
        queue = iter(rows)
        judged = {}

        async def work() -> None:
            for count, row in enumerate(queue):
                if self._stop.is_set():
                    return
                judged[row["user_id"]] = row, await judge.judge(row)
                if count % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)

        async def work_all() -> None:
            at_once = max(backend.concurrency for backend in self._keyring)
            await asyncio.gather(*(work() for _ in range(min(at_once, len(rows)))))

        working = asyncio.create_task(work_all())
        stopping = asyncio.create_task(self._stopped())
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if working.done():
            working.result()
        else:
            # A KMS may take its time; what was judged by then is kept.
            working.cancel()
            await asyncio.wait((working,))
        return judged

    async def _stopped(self) -> None:
        await self._stop.wait()

    async def _turn(self) -> None:
        """Keep to the rate."""
        if not self._rate:
            return
        now = asyncio.get_running_loop().time()
        turn = max(now, self._next_at)
        self._next_at = turn + 1 / self._rate
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), turn - now)


def _pages(users: Sequence[str]) -> Iterator[Sequence[str]]:
    return (users[at : at + PAGE] for at in range(0, len(users), PAGE))
