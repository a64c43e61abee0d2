"""What every request passes: an id, a place, one error mapping, one log line, safe headers."""

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from aiohttp import web

from custody.http import problems
from custody.http.cors import Cors
from custody.http.problems import Problem
from custody.http.response import Answer
from custody.ops import logging
from custody.ops.health import Health
from custody.ops.logging import AccessRecord
from custody.ops.metrics import Metrics
from custody.vault.errors import Unavailable, VaultError

MAX_IN_FLIGHT = 1000
# Longer than any request may take, so a stop cuts none off.
DRAIN_SECONDS = 20.0

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_NAMELESS = "none"

REQUEST_ID = "X-Request-Id"
ROUTE: web.RequestKey[str] = web.RequestKey("route", str)

Next = Callable[[web.BaseRequest], Awaitable[Answer]]

log = structlog.get_logger()


class TopHandler:
    """What is around everything.

    Args:
        cors: answers preflights, and marks answers for browsers.
        metrics: counts answers.
        health: says when the daemon is stopping; hears of what requests fail for.
    """

    def __init__(self, cors: Cors, metrics: Metrics, health: Health) -> None:
        self._cors = cors
        self._metrics = metrics
        self._health = health
        self._in_flight = 0
        self._none_in_flight = asyncio.Event()
        self._none_in_flight.set()
        self._told: list[AccessRecord] = []

    async def handle(self, request: web.BaseRequest, handler: Next) -> Answer:
        """Answer a request: nothing but a response, or a cancellation, leaves this method."""
        began = time.perf_counter()
        request_id = _request_id(request)
        self._in_flight += 1
        self._none_in_flight.clear()
        try:
            # Each request has a task of its own, and with it a context: it ends there.
            logging.request_id.set(request_id)
            answer, code = await self._answer(request, handler)
            if self._health.draining:
                answer.force_close()
            answer.lines[REQUEST_ID] = request_id
            self._cors.mark(request, answer)
            self._tell(request, request_id, answer.status, code, time.perf_counter() - began)
            return answer
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._none_in_flight.set()

    async def drain(self) -> None:
        """Wait until every request under way is answered.

        aiohttp's own shutdown would drop the rest of a body that is still arriving. Each answer
        closes its connection meanwhile, so there is an end.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._none_in_flight.wait()
        self._tell_all()

    async def _answer(self, request: web.BaseRequest, handler: Next) -> tuple[Answer, str]:
        try:
            if self._in_flight > MAX_IN_FLIGHT:
                raise problems.unavailable("OVERLOADED", "Too many requests are being answered.")
            return await handler(request), "OK"
        except Problem as error:
            problem = error
        except VaultError as error:
            if isinstance(error, Unavailable):
                self._health.met(error)
            problem = problems.of_vault(error)
        except web.HTTPMethodNotAllowed as error:
            if (answer := self._cors.preflight(request, error.allowed_methods)) is not None:
                return answer, "OK"
            problem = problems.of_http(error)
        except web.HTTPException as error:
            problem = problems.of_http(error)
        except Exception as error:  # noqa: BLE001 - the one place where unknown becomes opaque
            log.error("internal_error", **describe(error))  # noqa: TRY400
            problem = problems.internal()
        return problem.answer(), problem.code

    def _tell(
        self, request: web.BaseRequest, request_id: str, status: int, code: str, seconds: float
    ) -> None:
        """Count and log an answer, at the end of this turn of the loop.

        Answers come in bursts, as batches are committed. Told one after the other they cost a third
        of what they do in between: the processor has what it needs at hand.
        """
        route = request.get(ROUTE, _NAMELESS)
        method = request.method if route != _NAMELESS else None
        # An unauthenticated caller chooses how many of these there are.
        quiet = status == HTTPStatus.UNAUTHORIZED or method is None
        self._told.append(AccessRecord(method, route, status, code, seconds, request_id, quiet))
        if len(self._told) == 1:
            asyncio.get_running_loop().call_soon(self._tell_all)

    def _tell_all(self) -> None:
        told, self._told = self._told, []
        for one in told:
            self._metrics.answered(one.route, one.status, one.code, one.seconds)
        logging.answered(told)


def describe(error: BaseException) -> dict[str, object]:
    """Describe an unexpected error for the log: its type and where, but not its text.

    The text of a library's exception may quote what it choked on.
    """
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return {"error": type(error).__name__, "places": places}


def new_request_id() -> str:
    """Return a fresh request id."""
    return secrets.token_hex(16)


def _request_id(request: web.BaseRequest) -> str:
    """Take the id that a proxy in front has given, if it is a plain one."""
    given = request.headers.get(REQUEST_ID, "")
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()
