"""Whether the daemon may serve: checked before the first request, and again all the time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.auth.jwks import JwksCache
from custody.datakeys.check import DataKeyCheck
from custody.datakeys.ring import Ring
from custody.db.advice import advise
from custody.db.checkout import close_idle, on_a_living_connection
from custody.db.erasures import Erasures
from custody.db.errors import NO_ANSWER, DatabaseError, Refused
from custody.db.posture import Kind, PostureProblem, find_problems
from custody.keks.keks import Keks
from custody.keks.legacy import Door
from custody.ops.ages import Ages
from custody.settings import ConfigurationError
from custody.vault.errors import Unavailable
from kek_backends.errors import Misconfigured

_RETRY_SECONDS = 1.0
_AGAIN_SECONDS = 10.0
_CONFIRM_SECONDS = 30.0
_STOP_SECONDS = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Met:
    """What a request failed for, and when, as ``loop.time()`` counts."""

    reason: str
    at: float


class Health:
    """What is ready, part by part.

    The vault's routes are shut until the database has passed every check once, and shut again
    when it stops passing: an unsafe database gets no traffic, at any time.

    Args:
        engine: connections of the role custody_app.
        keks: the configured KEKs.
        ring: the data keys.
        door: for rows that are not sealed.
        jwks: the issuer's keys.
        reserve: other connections of the role.
        erasures: which the database must have.
        ages: read at each look.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        keks: Keks,
        ring: Ring,
        door: Door,
        jwks: JwksCache,
        *,
        reserve: AsyncEngine,
        erasures: Erasures,
        ages: Ages,
    ) -> None:
        self._engine = engine
        self._reserve = reserve
        self._keks = keks
        self._ring = ring
        self._data_keys = DataKeyCheck(engine, keks.keyring.keks, ring, keks)
        self._door = door
        self._jwks = jwks
        self._erasures = erasures
        self._ages = ages
        self._asked = False
        self._database: str | None = "not reached yet"
        self._problems: tuple[PostureProblem, ...] = ()
        self._keks_confirmed = False
        self._advised = False
        # What requests have met since the last look that passed, by part.
        self._met: dict[str, _Met] = {}
        self._woken = asyncio.Event()
        self.draining = False

    @property
    def database_is_safe(self) -> bool:
        """Whether requests may reach the database."""
        return (
            self._keks_confirmed
            and self._erasures.problem is None
            and not (self._problems and self._unsafe)
        )

    @property
    def _unsafe(self) -> tuple[PostureProblem, ...]:
        return tuple(problem for problem in self._problems if problem.is_unsafe)

    def parts(self) -> dict[str, str | None]:
        """Return each part's problem, or None where the part is ready."""
        checked = self._keks_confirmed or bool(self._problems)
        unknown = None if checked else "not judged yet: no database"
        return {
            "database": self._database or self._reason_met("database"),
            "schema": self._messages(Kind.SCHEMA) or unknown,
            "roles": self._messages(Kind.ROLES, Kind.STRANGER) or unknown,
            "audit": self._messages(Kind.AUDIT) or self._reason_met("audit") or unknown,
            "kek": self._problem_of_keks() or self._reason_met("kek"),
            "data-key": self._problem_of_data_keys(),
            "rows": self._door.problem if self._keks_confirmed else "not counted yet",
            "erasures": self._erasures.problem,
            "jwks": self._jwks.problem,
            "listener": "stopping" if self.draining else None,
        }

    def degraded(self) -> dict[str, str]:
        """Return what is wrong in parts that are ready all the same."""
        found = {
            "kek": "; ".join(self._keks.degraded) or None,
            "data-key": self._ring.degraded,
            "rows": self._door.remark,
            "erasures": self._erasures.remark,
            "audit": self._messages(Kind.TRAIL),
        }
        return {part: what for part, what in found.items() if what is not None}

    def met(self, failure: Unavailable) -> None:
        """Take note that a request failed for a part: not ready from now on, and checked at once.

        Requests go on trying: the routes stay open.

        Args:
            failure: one without a reason is the request's own.
        """
        if failure.reason is not None:
            if failure.part == "database":
                self._erasures.doubt()
            self._met[failure.part] = _Met(failure.reason, asyncio.get_running_loop().time())
            self._woken.set()

    async def check(self) -> None:
        """Ask the database once.

        Raises:
            ConfigurationError: it is unsafe, or a KEK is not the one its rows were wrapped with.
        """
        began = asyncio.get_running_loop().time()
        try:
            await on_a_living_connection(self._ask)
        except Refused as error:
            self._database = str(error)
            raise ConfigurationError(str(error)) from None
        except (DatabaseError, TimeoutError) as error:
            if self._database is None or not self._asked:
                log.warning("database_unavailable", reason=str(error) or type(error).__name__)
            self._database = str(error) or NO_ANSWER
            self._erasures.doubt()
            self._asked = True
            return
        except Misconfigured as error:
            raise ConfigurationError(str(error)) from None
        self._database = None
        self._forget_met(began)
        if self._unsafe:
            raise ConfigurationError("; ".join(problem.message for problem in self._unsafe))

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[asyncio.Task[None]]:
        """Check again and again for the length of the block.

        Returns:
            The task that does; it ends only as :meth:`watch` raises.
        """
        task = asyncio.create_task(self.watch())
        try:
            yield task
        finally:
            task.cancel()
            # So that it records nothing after this instance has said that it ends.
            await asyncio.wait({task}, timeout=_STOP_SECONDS)

    async def watch(self) -> None:
        """Check again and again.

        Raises:
            ConfigurationError: the database came up after us and was never safe. One that turns
                unsafe later shuts the routes, and opens them again when it is cured.
        """
        logged: str | None = None
        looked = checked = asyncio.get_running_loop().time()
        while True:
            await self._until_due(looked, checked)
            looked = asyncio.get_running_loop().time()
            due = looked >= checked + _AGAIN_SECONDS
            if not (self._is_shut or self._met.keys() - {"kek"} or due):
                # Rows that can't be read, in two small questions: the posture is a big one, and
                # users of a KEK that is well would notice it every second.
                with contextlib.suppress(DatabaseError, TimeoutError):
                    await self._check_keks()
                    self._forget_met(looked)
                continue
            checked = looked
            try:
                await self.check()
            except ConfigurationError as error:
                if not self._keks_confirmed:
                    raise
                if str(error) != logged:
                    logged = str(error)
                    log.error("database_unsafe", problem=logged)  # noqa: TRY400
            else:
                if logged and self._database is None:
                    logged = None
                    log.info("database_safe_again")

    async def _until_due(self, looked: float, checked: float) -> None:
        """Wait until the next look is due, all being well; what a request meets cuts it short.

        But never to less than the pause after each look: a request that fails whenever it is tried
        must not have the database checked without end.
        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(looked + _RETRY_SECONDS - loop.time())
        if not (self._is_shut or self._met or self._is_waiting):
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(checked + _AGAIN_SECONDS):
                    await self._woken.wait()

    @property
    def _is_shut(self) -> bool:
        """Whether the database is to be looked at again soon: the last look has found something."""
        return bool(self._database or self._problems or self._erasures.problem)

    @property
    def _is_waiting(self) -> bool:
        """Whether rows or data keys are not right yet: the next look may find that they are."""
        return self._keks.has_wrong_rows or self._data_keys.problem is not None

    async def _ask(self) -> None:
        self._problems = await find_problems(self._engine, "custody_app")
        if self._unsafe:
            await close_idle(self._reserve)  # as of the others: custody/db/posture.py
        else:
            await self._erasures.look(self._engine)
            await self._check_keks()
            await self._door.look()
            current = self._ring.current
            seals_with = None if current is None else current.id
            await self._keks.record_instance(seals_with)
            await self._ages.look()
            await self._log_advice()

    async def _log_advice(self) -> None:
        """Say once what is unwise in the database, and no reason not to serve."""
        if self._advised:
            return
        # Nor is it one that the role may not ask.
        with contextlib.suppress(DatabaseError):
            for one in await advise(self._engine):
                (log.warning if one.is_problem else log.info)(
                    "database_advice", part=one.part, advice=one.message
                )
        self._advised = True

    def _forget_met(self, began: float) -> None:
        """Forget what requests had met before a look that passed.

        It has asked the database. The KEKs say by themselves how they are as soon as their own look
        is through, so what was met there stands for the length of one.
        """
        until = {"kek": began - _RETRY_SECONDS}
        self._met = {
            part: one for part, one in self._met.items() if one.at > until.get(part, began)
        }

    async def _check_keks(self) -> None:
        async with asyncio.timeout(_CONFIRM_SECONDS):
            try:
                await self._data_keys.run()
            except Misconfigured:
                if not self._keks_confirmed:
                    raise
                # A KMS that came up, or changed, while others serve: it is shut, and named.
        self._keks_confirmed = True

    def _problem_of_keks(self) -> str | None:
        if not self._keks_confirmed:
            return "not confirmed yet"
        return "; ".join(self._keks.problems) or None

    def _problem_of_data_keys(self) -> str | None:
        return self._data_keys.problem if self._keks_confirmed else "not confirmed yet"

    def _reason_met(self, part: str) -> str | None:
        met = self._met.get(part)
        return None if met is None else met.reason

    def _messages(self, *kinds: Kind) -> str | None:
        messages = [problem.message for problem in self._problems if problem.kind in kinds]
        return "; ".join(messages) or None
