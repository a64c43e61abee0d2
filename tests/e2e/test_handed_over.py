"""Socket activation without a service manager: this process opens the socket, keeps it, and starts
daemons that take connections from it."""

import asyncio
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.servers import Database, log_file, settings_for, started
from tests.tokens import Issuer

# The process id must be the daemon's own: it is known only after the fork.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
environ = dict(os.environ, LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="vault")
os.execve(sys.executable, [sys.executable, "-m", "custody", "serve"], environ)
"""
PATH = "/api/v1/me/encryption-vault/status"


@pytest.mark.prove
async def test_restart_on_a_handed_over_socket_loses_no_connection(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    headers = {"Authorization": issuer.bearer()}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}{PATH}"

        async def ask() -> int:
            async with (
                aiohttp.ClientSession() as session,
                session.get(url, headers=headers, timeout=aiohttp.ClientTimeout(60)) as answer,
            ):
                return answer.status

        async def ask_many() -> "asyncio.Future[list[int]]":
            asking = asyncio.gather(*(ask() for _ in range(20)))
            await asyncio.sleep(0.3)
            assert not asking.done()  # nobody is there; they wait in the socket's queue
            return asking

        # No LISTEN: an address that is set would win.
        environ = settings_for(database, issuer, tmp_path, LISTEN="")
        log, descriptor = log_file("daemon"), listener.fileno()
        command = (sys.executable, "-c", HAND_OVER, str(descriptor))
        for _ in range(2):
            asking = await ask_many()
            with started(
                *command, environ=environ, out=log, err=log, pass_fds=[descriptor]
            ) as process:
                try:
                    assert await asking == [200] * 20
                    assert await ask() == 200
                finally:
                    process.terminate()
                    assert await asyncio.to_thread(process.wait, 40) == 0
