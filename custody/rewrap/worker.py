"""The worker: moves the data keys, claims rows, re-wraps and stores them, until none is stale."""

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody import tracing
from custody.audit.row_seal import RowSeals
from custody.datakeys.ring import Ring
from custody.db.errors import DatabaseError, Refused, RetiredKek
from custody.keks.legacy import count_unsealed
from custody.keks.second import SecondRoot
from custody.rewrap import batch, claims, rows, runs, storing
from custody.rewrap.backoff import Backoff, sleep, stopped
from custody.rewrap.batch import TargetMoved, WrongWrap
from custody.rewrap.bringing_over import bring_over
from custody.rewrap.claims import Claim
from custody.rewrap.data_keys import DataKeyMove
from custody.rewrap.deep import DeepRotation
from custody.rewrap.left import Left
from custody.rewrap.options import Options
from custody.rewrap.resealing import reseal
from custody.rewrap.rows import SEALED_BEFORE, UNSEALED, Row, SealedRow, UnsealedRow, WrapKind
from custody.rewrap.runs import AnotherRun, Run, State
from custody.rewrap.storing import Counts, Done, LostClaim
from custody.rewrap.target import Blocked, Target
from kek_backends.errors import KekError
from kek_backends.keyring import Keyring

# One waits for the database while another waits for a KEK. More would take users' turns at a KMS:
# see RemoteKek.concurrency.
_AT_ONCE = 2
_TOUCH_SECONDS = 4.0
_IDLE_SECONDS = 0.5
# A KMS that hangs must not hold up the end of a process that is to stop.
_GRACE_SECONDS = 10.0

T = TypeVar("T")

log = structlog.get_logger()


class RewrapRun:
    """Brings data keys and rows to the active KEK, and seals rows that are not.

    Args:
        engine: connections of the role custody_rewrap.
        keyring: all that users' keys are wrapped under.
        ring: the data keys; they seal what was not.
        options: how.
        progress: called after each stored claim.
        second: the second root; None: there is none.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        keyring: Keyring,
        ring: Ring,
        options: Options,
        progress: Callable[[Run, Counts], None] = lambda _run, _counts: None,
        *,
        second: SecondRoot | None = None,
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._ring = ring
        self._seals = RowSeals(ring)
        self._options = options
        self._progress = progress
        self._target = Target(engine, keyring, ring, legacy=options.legacy)
        self._data_keys = DataKeyMove(engine, keyring.keks, ring, second)
        self.moved_data_keys: tuple[str, ...] = ()
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        # One for each task: who has lost a claim must not store beside its new owner.
        self._owners = tuple(f"{self._owner}:{number}" for number in range(_AT_ONCE))
        self._stop = asyncio.Event()
        # Set when one of our claims is done: what the other task waits for may be there now.
        self._freed = asyncio.Event()
        self._deep = DeepRotation(engine, keyring.keks, ring, self._stop)
        self._announces = options.deep
        self._unended: tuple[str, ...] = ()
        self._backoff = Backoff(options.give_up_after, self._stop)
        self._next_at = 0.0
        self._released = not options.quarantined
        # Of a key that keeps its kek_id, data keys are wrapped anew once.
        self._anew = options.everything

    @property
    def ended_data_keys(self) -> Mapping[str, tuple[str, ...]]:
        """Ids of the data keys that were ended, each with the KEKs that it was wrapped under."""
        return self._deep.ended

    def stop(self) -> None:
        """End after the batches at hand: what they have done is stored."""
        self._stop.set()
        self._freed.set()

    async def run(self) -> Run:
        """Run until no row is stale, or it is stopped.

        Returns:
            The run's record at its end.

        Raises:
            Blocked: see :meth:`Target.ready`.
            AnotherRun: a run with another aim is going on.
            NotFinished: it was stopped, or nothing could be done for too long.
            WrongWrap: the target KEK can't be trusted.
            KekError, DatabaseError: it could not begin.
        """
        while True:
            target = await self._target.ready()
            if self._stop.is_set():
                raise stopped()
            if not self._released:
                await runs.release_quarantined(self._engine)
                self._released = True
            try:
                data_key = await self._renew_data_key(self._target.kek_id)
                if data_key is not None:
                    # Wraps of users' keys may be made with the new one.
                    target = await self._target.ready()
                run = await runs.join(
                    self._engine,
                    target,
                    everything=self._options.everything,
                    started_by=self._owner,
                    legacy=self._options.legacy,
                    data_key=data_key,
                    before=self._deep.before,
                    seals=self._seals,
                )
            except AnotherRun as another:
                if data_key is None:
                    raise
                # One that began before the promotion: it notices, or is soon done.
                await self._backoff.pause(str(another))
                continue
            except TargetMoved:
                continue
            try:
                await self._move_data_keys(self._target.kek_id)
                ended = await self._work(run)
            except TargetMoved:
                log.info("rewrap_target_moved", run=run.id, target=target)
                await self._give_up(run, State.STOPPED)
            except WrongWrap:
                await self._give_up(run, State.FAILED)
                raise
            except (Exception, asyncio.CancelledError):
                # Where the database is down, too, our claims expire and are reclaimed.
                with contextlib.suppress(DatabaseError):
                    await runs.leave(self._engine, run.id, self._owners, self._seals)
                raise
            else:
                if ended.state is not State.STOPPED and data_key in {None, ended.data_key}:
                    return ended
            # Stopped by us or another process, because its aim is not the right one any more.
            await sleep(self._stop, _IDLE_SECONDS)

    async def left(self, run: Run) -> Left:
        """Return what this run leaves.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        kinds = await rows.kinds(self._engine, run)
        unreadable = {kind.kek_id for kind in kinds if not self._holds(kind)}
        return Left(
            kek_ids=tuple(sorted(unreadable)),
            unsealed=None if self._options.legacy else await count_unsealed(self._engine),
            data_keys=(
                *await self._data_keys.problems(),
                *self._deep.doubtful,
                *self._unended,
            ),
        )

    async def _renew_data_key(self, target: str) -> str | None:
        """Bring in a new data key, where one is wanted or was announced.

        Returns:
            The one that rows are to be sealed with, as long as there is one before it.
        """
        if self._announces:
            await self._deep.announce()
            self._announces = False
        # It is under every KEK that it is to be under before anything is sealed with it.
        if self._ring.successors:
            await self._retried(lambda: self._data_keys.give_wraps(target, anew=False))
            await self._retried(lambda: self._data_keys.give_second_wraps(target, anew=False))
        await self._deep.promote()
        return self._deep.data_key

    async def _move_data_keys(self, target: str) -> None:
        """Bring them to the active KEK; the one that they leave can then be retired."""
        anew = self._anew
        while True:
            try:
                given = await self._retried(lambda: self._data_keys.give_wraps(target, anew=anew))
                break
            except KekError as error:
                await self._backoff.pause(str(error) or type(error).__name__)
        self._backoff.renew()
        given += await self._retried(lambda: self._data_keys.give_second_wraps(target, anew=anew))
        self._anew = False
        self.moved_data_keys = tuple(dict.fromkeys((*self.moved_data_keys, *given)))
        # A daemon that was started meanwhile may not read the target.
        await self._retried(self._target.check_instances)
        await self._retried(lambda: self._data_keys.drop_others(target))

    async def _work(self, run: Run) -> Run:
        """Work on a run until it has ended, by us or by another process."""
        before, backoff = run, Backoff(self._options.give_up_after, self._stop)
        while True:
            await self._participate_all(run)
            if self._stop.is_set():
                raise stopped()
            now = await self._retried(lambda: runs.read(self._engine, run.id))
            if now.state is not State.RUNNING:
                return now
            if await self._is_over(run):
                left = await self._retried(lambda: self.left(run))
                state = State.FAILED if left else State.DONE
                now = await self._end(run, state)
                if now.state is not State.RUNNING:
                    return now
                continue  # somebody has claimed rows meanwhile
            # Rows that were locked or changed, or became stale behind the cursor.
            if (now.done, now.failed) != (before.done, before.failed):
                before = now
                backoff.renew()
            await backoff.pause("rows are left that others hold, or change again and again")
            await self._retried(lambda: claims.rewind(self._engine, run))

    async def _is_over(self, run: Run) -> bool:
        """Say whether no row is left that can be done here; then the data key before is ended, too.

        Whether a row is sealed with it, only a look through all of them shows. The database takes
        that look before it ends one, so it is asked to first.
        """
        if await self._is_any_left(run, sealed_before=False):
            return False
        if run.data_key is None:
            return True
        problem = await self._retried(self._deep.finish)
        self._unended = () if problem is None else (problem,)
        return problem is None or not await self._is_any_left(run, sealed_before=True)

    async def _is_any_left(self, run: Run, *, sealed_before: bool) -> bool:
        def is_ours(kind: WrapKind) -> bool:
            return self._can_read(kind) and (sealed_before or kind != SEALED_BEFORE)

        return await self._retried(lambda: rows.any_left(self._engine, run, is_ours))

    async def _give_up(self, run: Run, state: State) -> None:
        await self._end(run, state, even_at_work=True)

    async def _end(self, run: Run, state: State, *, even_at_work: bool = False) -> Run:
        return await self._retried(
            lambda: runs.end(
                self._engine, run.id, state, even_at_work=even_at_work, seals=self._seals
            )
        )

    async def _participate_all(self, run: Run) -> None:
        """Do all claims. Where one fails, end the others and raise what it raised."""
        tasks = [asyncio.create_task(self._participate(run, owner)) for owner in self._owners]
        grace = asyncio.create_task(self._grace_is_over())
        try:
            working = asyncio.gather(*tasks)
            await asyncio.wait((working, grace), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            else:
                log.warning("rewrap_cut_off", seconds=_GRACE_SECONDS)
        finally:
            for task in (grace, *tasks):
                task.cancel()
            await asyncio.gather(grace, *tasks, return_exceptions=True)

    async def _grace_is_over(self) -> None:
        await self._stop.wait()
        await asyncio.sleep(_GRACE_SECONDS)

    async def _participate(self, run: Run, owner: str) -> None:
        """Do claim after claim, until none is left and nobody else has one."""
        while not self._stop.is_set():
            claim = await self._retried(lambda: self._claim(run, owner))
            if claim is not None:
                await self._do(run, owner, claim)
                self._freed.set()
                continue
            self._freed.clear()
            if await self._retried(lambda: claims.others_at_work(self._engine, run)):
                await sleep(self._freed, _IDLE_SECONDS)
            else:
                return

    async def _claim(self, run: Run, owner: str) -> Claim | None:
        size = self._options.batch
        if self._options.rate:
            size = min(size, self._options.rate)
        return await claims.claim(self._engine, run, owner, size, self._can_read)

    async def _do(self, run: Run, owner: str, claim: Claim) -> None:
        touching = asyncio.create_task(self._keep_touching(claim, owner))
        try:
            await self._wait_for_turn(len(claim.rows))
            with tracing.span("rewrap batch", custody__run=run.id, custody__rows=len(claim.rows)):
                done, reason = await self._rewrap(run, claim)
                # The same results again, if the database fails: the guards make that harmless.
                counts = await self._retried(
                    lambda: storing.store(self._engine, run, owner, claim, done, seals=self._seals)
                )
        except LostClaim:
            # Stored already (the answer to the COMMIT was lost), or another process does it.
            return
        finally:
            touching.cancel()
            await asyncio.gather(touching, return_exceptions=True)
        if counts.done or counts.failed:
            self._backoff.renew()
        if counts.done or counts.moved or counts.failed:
            self._progress(run, counts)
        if reason is not None:
            await self._backoff.pause(str(reason) or type(reason).__name__)

    async def _rewrap(self, run: Run, claim: Claim) -> tuple[Done, KekError | None]:
        nothing = Done((), (), left=len(claim.rows))
        if not claim.rows or self._stop.is_set():
            return nothing, None
        try:
            done, reason = await self._make(run, claim)
            if done.set_aside or any(row.reason for row in done.resealed):
                # Rows of a key that was replaced in its KMS look damaged, and are not.
                await self._retried(self._target.see_unchanged)
        except KekError as error:
            return nothing, error
        return done, reason

    async def _make(self, run: Run, claim: Claim) -> tuple[Done, KekError | None]:
        verify = self._options.verify
        before = [row for row in claim.rows if isinstance(row, SealedRow)]
        if before:
            return await reseal(self._keyring, self._ring, before, run, verify)
        unsealed = [row for row in claim.rows if isinstance(row, UnsealedRow)]
        if unsealed:
            return await bring_over(self._keyring, self._ring, unsealed, run.target, verify)
        sealed = [row for row in claim.rows if isinstance(row, Row)]
        return await batch.rewrap(self._keyring, sealed, run.target, verify)

    async def _retried(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it again while the database is down, until the backoff gives up."""
        backoff = Backoff(self._options.give_up_after, self._stop)
        while True:
            try:
                return await work()
            except Refused:
                raise
            except RetiredKek:
                raise Blocked(
                    "the active KEK was retired meanwhile: set CUSTODY_KEK to another KEK"
                ) from None
            except DatabaseError as error:
                await backoff.pause(str(error) or type(error).__name__)

    async def _keep_touching(self, claim: Claim, owner: str) -> None:
        """Renew a claim while a KMS takes its time."""
        while True:
            await asyncio.sleep(_TOUCH_SECONDS)
            with contextlib.suppress(DatabaseError):
                await claims.touch(self._engine, claim, owner)

    async def _wait_for_turn(self, count: int) -> None:
        """Keep to the rate, over all that this process does."""
        if not self._options.rate:
            return
        now = time.monotonic()
        turn = max(now, self._next_at)
        self._next_at = turn + count / self._options.rate
        await sleep(self._stop, turn - now)

    def _can_read(self, kind: WrapKind) -> bool:
        """Say whether rows of this kind can be done here, and may."""
        return (self._options.legacy or not kind.is_unsealed) and self._holds(kind)

    def _holds(self, kind: WrapKind) -> bool:
        if kind in {UNSEALED, SEALED_BEFORE}:
            return True
        backend = self._keyring.find(kind.kek_id)
        return backend is not None and backend.refusal(kind.kek_id) is None
