"""The re-wrap worker of the daemon: looks now and then for stale rows, and re-wraps them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody import tracing
from custody.datakeys.ring import Ring
from custody.db.checkout import on_a_living_connection
from custody.db.errors import DatabaseError, Refused
from custody.db.posture import refuse_unfit_rewrap
from custody.keks.records import RowCount, count_rows
from custody.keks.second import SecondRoot
from custody.rewrap import runs
from custody.rewrap.backoff import NotFinished
from custody.rewrap.batch import WrongWrap
from custody.rewrap.data_keys import DataKeyMove
from custody.rewrap.deep import DeepRotation
from custody.rewrap.options import Options
from custody.rewrap.runs import AnotherRun, Run, Stale
from custody.rewrap.storing import Counts
from custody.rewrap.target import Blocked
from custody.rewrap.worker import RewrapRun
from kek_backends.errors import KekError
from kek_backends.keyring import Keyring

# By then the instances of a fleet that restarts are on record with what they read and write.
_FIRST_SECONDS = 15.0
_GRACE_SECONDS = 15.0
_SHOW_SECONDS = 10.0

log = structlog.get_logger()


class RewrapMetrics(Protocol):
    """Metrics of what it does; see :class:`custody.ops.metrics.rewrap.Rewrap`."""

    def rewrapped(self, counts: Counts) -> None:
        """Count the rows of one claim."""

    def show_rows(self, counted: Mapping[str, RowCount]) -> None:
        """Show how many rows each KEK has."""

    def show_run(self, run: Run) -> None:
        """Show how far the latest run is."""

    def looked(self) -> None:
        """Show that a look has left nothing undone."""


class BackgroundRewrap:
    """Re-wraps in the background, while users are served.

    Args:
        engine: connections of the role custody_rewrap.
        app: connections of the role custody_app.
        keyring: all that users' keys are wrapped under; the daemon keeps it fresh.
        ring: the data keys; the same.
        interval: seconds from one look to the next.
        metrics: show what is done.
        legacy: whether rows that are not sealed are brought over.
        second: the second root; None: there is none.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        app: AsyncEngine,
        keyring: Keyring,
        ring: Ring,
        *,
        interval: float,
        metrics: RewrapMetrics,
        legacy: bool = False,
        second: SecondRoot | None = None,
    ) -> None:
        self._engine = engine
        self._app = app
        self._keyring = keyring
        self._ring = ring
        self._legacy = legacy
        self._second = second
        self._interval = interval
        self._metrics = metrics
        self._stopping = asyncio.Event()
        self._current: RewrapRun | None = None
        # Rows that are not under the active KEK, or of an old format; set aside or not. None: not
        # counted yet.
        self.rows_left: int | None = None

    async def check_role(self) -> None:
        """Refuse a role that is not for this work, and a database that is not the daemon's.

        Raises:
            Refused: the message names the cure.
            DatabaseError: the database can't be asked now.
        """
        await on_a_living_connection(lambda: refuse_unfit_rewrap(self._engine, self._app))

    async def work(self) -> None:
        """Look and re-wrap, again and again, until it is stopped."""
        seconds = min(self._interval, _FIRST_SECONDS)
        while not await self._stopped_within(seconds):
            seconds = self._interval
            try:
                await self._look()
                self._metrics.looked()
            except Refused as error:
                log.error("rewrap_refused", problem=str(error))  # noqa: TRY400
            except (Blocked, AnotherRun, NotFinished, KekError, DatabaseError) as error:
                log.warning("rewrap_waits", reason=str(error) or type(error).__name__)
            except WrongWrap as error:
                log.error("rewrap_wrong_wrap", reason=str(error))  # noqa: TRY400
            except Exception as error:  # noqa: BLE001 - this must go on for ever
                log.error("rewrap_failed", error=type(error).__name__)  # noqa: TRY400

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work for the length of the block; what the batches at its end have done is stored."""
        task = asyncio.create_task(self.work())
        try:
            yield
        finally:
            self._stopping.set()
            if self._current is not None:
                self._current.stop()
            done, _ = await asyncio.wait({task}, timeout=_GRACE_SECONDS)
            if not done:
                task.cancel()
                await asyncio.wait({task}, timeout=1.0)

    async def _look(self) -> None:
        await self.check_role()
        target, kek_id = self._keyring.active.kek_id, self._keyring.keks.active.kek_id
        if target is None or kek_id is None:
            return  # not known yet; /readyz says so
        await self._show()
        deep = DeepRotation(self._engine, self._keyring.keks, self._ring, self._stopping)
        stale = await runs.count_stale(
            self._engine,
            target,
            everything=False,
            legacy=self._legacy,
            before=deep.foresee(deep=False),
        )
        moves = DataKeyMove(self._engine, self._keyring.keks, self._ring, self._second)
        data_keys = await moves.stale(kek_id)
        if data_keys or deep.is_announced or self._can_do(stale):
            log.info("rewrap_begins", rows=stale.total, data_keys=len(data_keys), target=target)
            with tracing.span("rewrap run", custody__rows=stale.total):
                run = await self._run()
            log.info("rewrap_ended", run=run.id, state=run.state, done=run.done, failed=run.failed)
        elif deep.before and (problem := await deep.finish()) is not None:
            # Rows that were set aside are no reason for a run again and again.
            log.warning("rewrap_waits", reason=problem)

    async def _run(self) -> Run:
        showing = asyncio.create_task(self._keep_showing())
        self._current = RewrapRun(
            self._engine,
            self._keyring,
            self._ring,
            Options(legacy=self._legacy),
            self._advance,
            second=self._second,
        )
        try:
            return await self._current.run()
        finally:
            self._current = None
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
            # A count of all rows must not hold up the end of the process.
            if not self._stopping.is_set():
                with contextlib.suppress(DatabaseError):
                    await self._show()

    async def _keep_showing(self) -> None:
        while True:
            await asyncio.sleep(_SHOW_SECONDS)
            with contextlib.suppress(DatabaseError):
                await self._show()

    async def _show(self) -> None:
        counted = await count_rows(self._engine)
        self._metrics.show_rows(counted)
        active = self._keyring.active.kek_id
        self.rows_left = sum(
            count.old_format if kek_id == active else count.wraps
            for kek_id, count in counted.items()
        )
        if latest := await runs.latest(self._engine, 1):
            self._metrics.show_run(latest[0])

    def _can_do(self, stale: Stale) -> bool:
        """Say whether any of them can be done here: else /readyz says more than a run."""
        return stale.without_wrap > 0 or any(map(self._can_read, stale.sources))

    def _can_read(self, kek_id: str) -> bool:
        backend = self._keyring.find(kek_id)
        return backend is not None and backend.refusal(kek_id) is None

    def _advance(self, _run: Run, counts: Counts) -> None:
        self._metrics.rewrapped(counts)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True
