"""What every request passes: an id, a match, one error mapping, one access record, safe headers."""

import asyncio
import contextlib
import random
import re
import time
from http import HTTPStatus

import structlog
from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from custody import tracing
from custody.http import problems
from custody.http.cors import Cors
from custody.http.problems import Problem
from custody.http.response import Response
from custody.http.router import Router
from custody.ops import logging
from custody.ops.access_log import AccessLog, AccessRecord
from custody.vault.errors import Overloaded, VaultError

# Longer than any request may take, so a stop cuts none off.
DRAIN_SECONDS = 20.0

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_NAMELESS = "none"
# Looked up once: as a member of its class it takes as long as a call.
_UNAUTHORIZED = HTTPStatus.UNAUTHORIZED

REQUEST_ID = "X-Request-Id"
ROUTE: web.RequestKey[str] = web.RequestKey("route", str)

log = structlog.get_logger()


class TopHandler:
    """Responds to every request of a listener.

    Args:
        router: finds the endpoint.
        cors: responds to preflights, and marks responses for browsers; None: no origin is allowed.
        access_log: of completed requests; None: they are neither counted nor logged.

    Attributes:
        close_connections: whether each response is the last one of its connection.
    """

    def __init__(
        self, router: Router, cors: Cors | None = None, access_log: AccessLog | None = None
    ) -> None:
        self._router = router
        self._cors = cors or Cors(())
        self._access_log = access_log
        self._in_flight = 0
        self._none_in_flight = asyncio.Event()
        self._none_in_flight.set()
        self.close_connections = False

    async def handle(self, request: web.BaseRequest) -> Response:
        """Respond to a request: only a response, or a cancellation, leaves this method."""
        began = time.perf_counter()
        request_id = _request_id(request)
        self._in_flight += 1
        self._none_in_flight.clear()
        try:
            # Each request has a task of its own, and with it a context: it ends there.
            logging.request_id.set(request_id)
            response, code = await self._respond(request)
            if self.close_connections or _is_last(request):
                response.force_close()
            response.fields[REQUEST_ID] = request_id
            self._cors.mark(request, response)
            if self._access_log is not None:
                seconds = time.perf_counter() - began
                # Without memory the line is lost. What was done is done, and answered.
                with contextlib.suppress(MemoryError):
                    self._access_log.record(
                        _record(request, request_id, response.status, code, seconds)
                    )
            return response
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._none_in_flight.set()

    async def drain(self) -> None:
        """Wait until every request under way has its response.

        aiohttp's own shutdown would drop the rest of a body that is still arriving. Each response
        closes its connection meanwhile, so there is an end.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._none_in_flight.wait()
        if self._access_log is not None:
            self._access_log.flush()

    async def _respond(self, request: web.BaseRequest) -> tuple[Response, str]:
        try:
            if request.version != HttpVersion11:
                _check_old_version(request)
            if hdrs.EXPECT in request.headers:
                await _meet_expectation(request)
            endpoint = self._router.match(request)
            if endpoint is None:
                return self._preflight(request), "OK"
            return await endpoint(request), "OK"
        except Exception as error:  # noqa: BLE001 - the one place where unknown becomes opaque
            # By another frame: one that held the error, which holds it in turn, would be garbage
            # that only a look through all memory finds, and everybody waits for that.
            return _response_to(error)

    def _preflight(self, request: web.BaseRequest) -> Response:
        """Respond to a request that has no endpoint, if it is a preflight.

        Raises:
            Problem: 404 or 405.
        """
        methods = self._router.methods(request)
        if not methods:
            raise problems.not_found()
        response = self._cors.preflight(request, methods)
        if response is None:
            raise problems.method_not_allowed(methods)
        return response


def _is_last(request: web.BaseRequest) -> bool:
    """Say whether nothing that comes after a request on its connection is to be read.

    aiohttp drops what arrives together with a request for an upgrade that it does not know: what
    is sent later would be read from its middle.
    """
    headers = request.headers
    return hdrs.UPGRADE in headers or (
        request.version != HttpVersion11 and hdrs.TRANSFER_ENCODING in headers
    )


def _check_old_version(request: web.BaseRequest) -> None:
    """Refuse what an old version of HTTP has not: headers in 0.9, chunks in 1.0.

    A proxy may read the end of such a request elsewhere (RFC 9112, section 6.1).

    Raises:
        Problem: 400.
    """
    if request.version < HttpVersion10 or hdrs.TRANSFER_ENCODING in request.headers:
        raise problems.bad_request("This is not HTTP/1.1 as this server reads it.")


def _response_to(error: Exception) -> tuple[Response, str]:
    match error:
        case Problem():
            problem = error
        case VaultError():
            problem = problems.of_vault(error)
        case MemoryError():
            log.error("out_of_memory")
            problem = problems.of_vault(Overloaded())
        case _:
            log.error("internal_error", **describe(error))
            problem = problems.internal()
    return problem.response(), problem.code


async def _meet_expectation(request: web.BaseRequest) -> None:
    """Ask for the body of a client that waits for that (RFC 9110, section 10.1.1).

    Raises:
        Problem: 400, it expects something else.
    """
    expectation = request.headers[hdrs.EXPECT]
    if not expectation or request.version != HttpVersion11:
        return
    if expectation.lower() != "100-continue":
        raise problems.bad_request("The request is not one that this server understands.")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # An error from here on still has its response: none has begun.
    request.writer.output_size = 0
    await request.writer.drain()


def _record(
    request: web.BaseRequest, request_id: str, status: int, code: str, seconds: float
) -> AccessRecord:
    route = request.get(ROUTE, _NAMELESS)
    method = request.method if route != _NAMELESS else None
    # An unauthenticated caller chooses how many of these there are.
    quiet = status == _UNAUTHORIZED or method is None
    return AccessRecord(method, route, status, code, seconds, request_id, quiet, tracing.ids())


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
    """Return a fresh request id: 128 random bits, which tell requests apart and keep no secret."""
    # Of the kernel they would cost each request a system call.
    return f"{random.getrandbits(128):032x}"


def _request_id(request: web.BaseRequest) -> str:
    """Take the id that a proxy in front has given, if it is a plain one."""
    given = request.headers.get(REQUEST_ID, "")
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()
