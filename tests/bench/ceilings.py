"""What aiohttp can do at most here: a handler that does nothing, and one that checks the token.

Both answer a constant of the size of a key's answer.
"""

import json
import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import hdrs, web

from custody.auth.jwks import JwksCache
from custody.auth.rules import TokenRules
from custody.auth.sources import file_source
from custody.auth.tokens import TokenVerifier
from tests.ports import free_port
from tests.tokens import Issuer

BARE, CHECKED = "/bare", "/checked"
_START_SECONDS = 30
_BODY = json.dumps({"masterKey": "A" * 43 + "=", "formatVersion": 3, "kekId": "env-v1"}).encode()


@dataclass(frozen=True)
class Ceilings:
    """Where they are served.

    Args:
        port: on 127.0.0.1.
        pid: of the process.
    """

    port: int
    pid: int


@contextmanager
def ceilings(issuer: Issuer, jwks: Path) -> Iterator[Ceilings]:
    """Serve both in one process for the length of the block.

    Args:
        issuer: of the tokens.
        jwks: a file with its public keys.
    """
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(port, jwks, issuer.url, issuer.audience), daemon=True
    )
    process.start()
    try:
        _wait_for(port)
        assert process.pid is not None
        yield Ceilings(port, process.pid)
    finally:
        process.terminate()
        process.join()


def _wait_for(port: int) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until, "the bare handlers did not start"
            time.sleep(0.05)
        else:
            return


def _serve(port: int, jwks: Path, issuer: str, audience: str) -> None:
    cache = JwksCache(fetch=file_source(jwks), source=str(jwks))
    verifier = TokenVerifier(cache, TokenRules(issuer, audience))

    async def bare(_request: web.Request) -> web.Response:
        return web.Response(body=_BODY, content_type="application/json")

    async def checked(request: web.Request) -> web.Response:
        await verifier.verify(request.headers.get(hdrs.AUTHORIZATION))
        return web.Response(body=_BODY, content_type="application/json")

    app = web.Application()
    app.router.add_get(BARE, bare)
    app.router.add_get(CHECKED, checked)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)
