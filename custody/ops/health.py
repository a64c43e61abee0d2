"""Whether the daemon may serve: judged before the first request, and again all the time."""

import asyncio

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.auth.jwks import JwksCache
from custody.db.errors import DatabaseError, Refused
from custody.db.posture import PostureProblem, find_problems
from custody.settings import ConfigurationError
from custody.vault.fingerprints import confirm
from kek_backends.errors import Misconfigured
from kek_backends.keyring import Keyring

_RETRY_SECONDS = 1.0
_AGAIN_SECONDS = 10.0
_CONFIRM_SECONDS = 30.0

log = structlog.get_logger()


class Health:
    """What is ready, part by part.

    The vault's routes are shut until the database has passed every check once, and shut again
    when it stops passing: an unsafe database gets no traffic, at any time.

    Args:
        engine: connections of the role custody_app.
        keyring: the configured KEKs.
        jwks: the issuer's keys.
    """

    def __init__(self, engine: AsyncEngine, keyring: Keyring, jwks: JwksCache) -> None:
        self._engine = engine
        self._keyring = keyring
        self._jwks = jwks
        self._database: str | None = "not reached yet"
        self._problems: tuple[PostureProblem, ...] = ()
        self._fingerprints_confirmed = False
        self.draining = False

    @property
    def database_is_safe(self) -> bool:
        """Whether requests may reach the database."""
        return self._fingerprints_confirmed and not self._unsafe

    @property
    def _unsafe(self) -> tuple[PostureProblem, ...]:
        return tuple(problem for problem in self._problems if problem.part != "audit")

    def parts(self) -> dict[str, str | None]:
        """Return each part's problem, or None where the part is ready."""
        judged = self._fingerprints_confirmed or bool(self._problems)
        unknown = None if judged else "not judged yet: no database"
        return {
            "database": self._database,
            "schema": self._problem_of("schema") or unknown,
            "roles": self._problem_of("roles") or unknown,
            "audit": self._problem_of("audit") or unknown,
            "kek": None if self._fingerprints_confirmed else "not confirmed yet",
            "jwks": None if self._jwks.ready() else "no current JWKS: is the issuer up?",
            "listener": "stopping" if self.draining else None,
        }

    async def judge(self) -> None:
        """Ask the database once.

        Raises:
            ConfigurationError: it is unsafe, or a KEK is not the one its rows were wrapped with.
        """
        try:
            self._problems = await find_problems(self._engine, "custody_app")
            if not self._unsafe and not self._fingerprints_confirmed:
                async with asyncio.timeout(_CONFIRM_SECONDS):
                    await confirm(self._engine, self._keyring)
                self._fingerprints_confirmed = True
        except Refused as error:
            self._database = str(error)
            raise ConfigurationError(str(error)) from None
        except (DatabaseError, TimeoutError) as error:
            if self._database is None or self._database == "not reached yet":
                log.warning("database_unavailable", reason=str(error) or type(error).__name__)
            self._database = str(error) or "the database did not answer in time"
            return
        except Misconfigured as error:
            raise ConfigurationError(str(error)) from None
        self._database = None
        if self._unsafe:
            raise ConfigurationError("; ".join(problem.message for problem in self._unsafe))

    async def watch(self) -> None:
        """Judge again and again.

        Raises:
            ConfigurationError: the database came up after us and was never safe. One that turns
                unsafe later shuts the routes, and opens them again when it is cured.
        """
        logged: str | None = None
        while True:
            quick = self._database is not None or self._problems
            await asyncio.sleep(_RETRY_SECONDS if quick else _AGAIN_SECONDS)
            try:
                await self.judge()
            except ConfigurationError as error:
                if not self._fingerprints_confirmed:
                    raise
                if str(error) != logged:
                    logged = str(error)
                    log.error("database_unsafe", problem=logged)  # noqa: TRY400
            else:
                if logged and self._database is None:
                    logged = None
                    log.info("database_safe_again")

    def _problem_of(self, part: str) -> str | None:
        messages = [problem.message for problem in self._problems if problem.part == part]
        return "; ".join(messages) or None
