"""A process with few descriptors, and more connections than that."""

import asyncio
import contextlib
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from custody.http.routes import BASE_PATH
from tests.client import Client, client_session
from tests.e2e import few_descriptors
from tests.http.wire import request
from tests.servers import Daemon, Database, daemon_beside
from tests.tokens import Issuer

MANY = 300
ELSEWHERE = "127.0.0.2"


@pytest.mark.prove
async def test_who_never_reads_takes_no_descriptors_that_others_need(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with daemon_beside(database, issuer, tmp_path, module=few_descriptors.__name__) as daemon:
        async with client_session() as session:
            assert (await Client(daemon, session, "alice").init()).status == 200
        silent = [await never_reads(daemon) for _ in range(MANY)]
        for n in range(20):
            # Each on connections of its own, one of them to the database.
            async with client_session() as session:
                assert (await Client(daemon, session, f"user-{n}").init()).status == 200
                assert (await Client(daemon, session, "alice").key()).status == 200
                for probe in ("livez", "readyz", "metrics"):
                    async with session.get(f"{daemon.admin}/{probe}") as response:
                        assert response.status == 200
        assert len(daemon.events("connections_full")) == 1
        assert daemon.events("connections_wait") == []
        for connection in silent:
            connection.close()


async def never_reads(daemon: Daemon) -> socket.socket:
    """Ask for more than a connection holds, from another address than the other clients'."""
    connection = socket.create_connection(
        (urlsplit(daemon.base).hostname, urlsplit(daemon.base).port),
        source_address=(ELSEWHERE, 0),
    )
    connection.setblocking(False)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await asyncio.get_running_loop().sock_sendall(
                connection, request("GET", f"{BASE_PATH}/status", close=False) * 200
            )
    return connection
