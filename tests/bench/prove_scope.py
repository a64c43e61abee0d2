"""``make prove-scope``: a million GET /key of a thousand users through a pool of four connections.

    make prove-scope
    make prove-scope ARGS="--requests 50000"

Each answer must hold the master key of the very user who asked, and each must have its audit row.
Ends with an error where one does not. The daemon is the one of ``custody serve``, but for the size
of its pool.
"""

import argparse
import asyncio
import multiprocessing
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any
from unittest.mock import patch

import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine

from custody import app
from custody.db.engine import Dsn, create_engine
from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel, load
from tests.bench.load import OK
from tests.bench.stage import Stage, stage
from tests.bench.users import PATH, Users, requests_of, tokens_for
from tests.ports import free_port
from tests.servers import Database, settings_for

POOL_SIZE = 4
CONNECTIONS = 64
_TURN_SECONDS = 5.0
_START_SECONDS = 30


def serve(environ: dict[str, str]) -> None:
    """Serve with a pool of four."""
    settings = load(environ)
    configure(settings.log_level, settings.log_format)

    def create(dsn: Dsn, **options: Any) -> AsyncEngine:
        return create_engine(dsn, **options | {"pool_size": POOL_SIZE})

    with patch("custody.db.engine.create_engine", create):
        uvloop.run(app.serve(settings, environ))


@contextmanager
def daemon(on: Stage, database: Database) -> Iterator[int]:
    """Run the daemon for the length of the block; yields its port."""
    port, admin = free_port(), free_port()
    environ = settings_for(
        database,
        on.issuer,
        on.folder,
        LISTEN=f"127.0.0.1:{port}",
        ADMIN_LISTEN=f"127.0.0.1:{admin}",
        LOG_LEVEL="warning",
    )
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(environ,))
    process.start()
    try:
        _wait_for(f"http://127.0.0.1:{admin}/readyz", process)
        yield port
    finally:
        process.terminate()
        process.join()


def _wait_for(url: str, process: BaseProcess) -> None:
    until = time.monotonic() + _START_SECONDS
    while process.is_alive() and time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the daemon did not become ready")


async def prove(wanted: int, count: int) -> None:
    """Send so many requests of so many users; say what became of them."""
    users = Users(count)
    async with stage() as on, on.users(users) as database:
        with daemon(on, database) as port:
            tokens = tokens_for(on.issuer, [user for user, _ in users])
            requests = requests_of(tokens, "GET", f"{PATH}/key", key=True)
            right = 0
            while right < wanted:
                run = on.generator.run
                done = await asyncio.to_thread(run, port, requests, CONNECTIONS, _TURN_SECONDS)
                if done.errors or not done.statuses.get(OK):
                    raise SystemExit(f"after {right} right answers: {done.errors}")
                right += done.answered
                sys.stderr.write(f"\r{right} of {wanted}, {done.rate:.0f}/s ")
        recorded, asked_for = await database.value(
            "SELECT (count(*), count(DISTINCT user_id)) FROM auth.encryption_vault_audit"
            " WHERE action = 'fetch' AND status = 200"
        )
    sys.stdout.write(
        f"\n{right} answers, each with the key of the user who asked; {recorded} audit rows of "
        f"{asked_for} users; {CONNECTIONS} connections, a pool of {POOL_SIZE}\n"
    )
    if recorded != right:
        raise SystemExit("there are not as many audit rows as answers")


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make prove-scope", description=text)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=1000)
    chosen = parser.parse_args()
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    asyncio.run(prove(chosen.requests, chosen.users))


if __name__ == "__main__":
    main()
