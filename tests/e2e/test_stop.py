"""The daemon stops without cutting anyone off, survives kill -9, and leaves no core."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from custody.http.server import SHUTDOWN_SECONDS
from tests.client import Client, becomes, client_session, generation_of
from tests.e2e.held import held, one_waits
from tests.eventually import eventually
from tests.http.wire import first_answer, request
from tests.leaks import remember
from tests.load import load
from tests.ports import free_port
from tests.servers import Daemon, Database, daemon_beside, log_file, settings_for, started, wait_for
from tests.tokens import Issuer

CONNECTIONS = 64
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads Linux's /proc")


@pytest.mark.prove
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "answers", [4 * CONNECTIONS, pytest.param(50 * CONNECTIONS, marks=pytest.mark.prove)]
)
async def test_a_stop_under_load_cuts_nobody_off(
    served: Daemon, number: signal.Signals, answers: int
) -> None:
    users = [f"user-{n}" for n in range(CONNECTIONS)]
    async with client_session() as session:
        made = await asyncio.gather(*(Client(served, session, user).init() for user in users))
    assert {answer.status for answer in made} == {200}
    async with load(served, users, keep_alive=True) as seen:
        await eventually(lambda: seen.answered >= answers, 60)
        assert seen.lost() == []
        stopped = time.monotonic()
        served.running.send_signal(number)
        code = await served.ended()
    assert code == 0
    assert time.monotonic() - stopped < 20
    assert seen.refused == seen.lost(before=stopped) == []
    # Every answer has its row and every row its answer.
    rows = await served.database.value(
        "SELECT count(*) FROM auth.encryption_vault_audit WHERE action = 'fetch' AND status = 200"
    )
    assert rows == seen.answered
    place = urlsplit(served.base)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(place.hostname, place.port)


@pytest.mark.prove
async def test_while_it_drains_it_says_so_and_finishes(served: Daemon) -> None:
    """A rotation that waits for a lock when the stop comes is carried out and answered."""
    async with client_session() as session:
        alice = Client(served, session, "alice")
        old = (await alice.init()).json["masterKey"]
        async with held(served.database):
            rotation = asyncio.create_task(alice.rotate())
            await one_waits(served.database)
            assert not rotation.done()
            served.running.send_signal(signal.SIGTERM)
            await becomes(served, 503, listener="stopping")
            assert not rotation.done()
            with pytest.raises(aiohttp.ClientConnectionError):
                await Client(served, session, "bob").init()
            assert served.running.poll() is None
        answer = await rotation
        assert answer.status == 200
        assert answer.json["masterKey"] != old
        assert await served.ended() == 0
    trail = await served.database.audit("alice")
    assert trail == [("init", "created", 200), ("rotate", None, 200)]


@pytest.mark.prove
async def test_a_body_that_still_arrives_at_the_stop_is_read(served: Daemon) -> None:
    async with client_session() as session:
        await Client(served, session, "alice").init()
    place = urlsplit(served.base)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    body = json.dumps({"recoveryWrappedMk": "A" * 64, "recoveryIv": "A" * 16}).encode()
    headers = {
        "Authorization": remember(served.issuer.bearer("alice")),
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    target = f"{place.path}/recovery-wrap"
    writer.write(request("POST", target, headers, body[:20], close=False))
    await asyncio.sleep(0.3)
    served.running.send_signal(signal.SIGTERM)
    await becomes(served, 503, listener="stopping")
    # Longer than the server waits once nobody has a request under way.
    await asyncio.sleep(SHUTDOWN_SECONDS + 0.5)
    writer.write(body[20:])
    answer = await first_answer(reader)
    assert (answer.status, answer.headers["Connection"]) == (200, "close"), answer
    assert await served.ended() == 0
    writer.close()


@pytest.mark.prove
async def test_idle_and_stalled_connections_do_not_hold_a_stop_up(served: Daemon) -> None:
    place = urlsplit(served.base)
    idle = [await asyncio.open_connection(place.hostname, place.port) for _ in range(8)]
    for n, (_, writer) in enumerate(idle):
        if n % 2:
            writer.write(f"GET {place.path}/key HTTP/1.1\r\nHost:".encode())
    async with client_session() as session:
        assert (await Client(served, session, "alice").init()).status == 200
        began = time.monotonic()
        served.running.send_signal(signal.SIGTERM)
        assert await served.ended() == 0
        assert time.monotonic() - began < 5
    for _, writer in idle:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.prove
async def test_two_signals_are_no_worse_than_one(served: Daemon) -> None:
    async with client_session() as session:
        alice = Client(served, session, "alice")
        await alice.init()
        async with held(served.database):
            rotation = asyncio.create_task(alice.rotate())
            await one_waits(served.database)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                served.running.send_signal(number)
                await asyncio.sleep(0.1)
        assert (await rotation).status == 200
        assert await served.ended() == 0


@pytest.mark.prove
async def test_kill_9_loses_nothing_that_was_answered(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    seen: dict[int, str] = {}
    enough = asyncio.Event()

    async def rotate_for_ever(client: Client) -> None:
        while True:
            answer = await client.rotate()
            assert answer.status == 200
            seen[generation_of(answer)] = answer.json["masterKey"]
            if len(seen) == 50:
                enough.set()

    with daemon_beside(database, issuer, tmp_path) as first:
        async with client_session() as session:
            alice, bob = (Client(first, session, user) for user in ("alice", "bob"))
            kept = (await bob.init()).json
            tasks = [asyncio.create_task(rotate_for_ever(alice)) for _ in range(4)]
            async with asyncio.timeout(30):
                await enough.wait()
            first.running.kill()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, aiohttp.ClientError) for end in ends)
            assert await first.ended() == -signal.SIGKILL
    with daemon_beside(database, issuer, tmp_path) as second:
        async with client_session() as session:
            alice, bob = (Client(second, session, user) for user in ("alice", "bob"))
            assert (await bob.key()).json == kept
            answer = await alice.key()
            assert answer.status == 200
            # At most the four that were under way were committed and not answered.
            now = generation_of(answer)
            assert max(seen) <= now <= max(seen) + 4
            assert seen.get(now, answer.json["masterKey"]) == answer.json["masterKey"]
    rotations = await database.value(
        "SELECT count(*) FROM auth.encryption_vault_audit WHERE action = 'rotate' AND status = 200"
    )
    # The first of them acted as init, and made the first generation.
    assert rotations == now - min(seen) + 1


@pytest.mark.prove
@needs_proc
def test_its_memory_is_its_own(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    """No core, and /proc/PID belongs to root, as it does where PR_SET_DUMPABLE is off.

    A process of root shows the same owner either way: it runs under another group, by which the
    difference shows.
    """
    group = 65534 if os.geteuid() == 0 else os.getegid()
    admin, log = f"127.0.0.1:{free_port()}", log_file("dumpable")
    environ = settings_for(database, issuer, tmp_path, ADMIN_LISTEN=admin)

    start = partial(started, sys.executable, environ=environ, out=log, err=log, group=group)

    def owner(pid: int) -> tuple[int, int]:
        found = Path("/proc", str(pid), "environ").stat()
        return found.st_uid, found.st_gid

    with (
        start("-m", "custody", "serve") as daemon,
        start("-c", "import time; time.sleep(60)") as plain,
    ):
        try:
            wait_for(f"http://{admin}/readyz", daemon, log)
            limits = Path("/proc", str(daemon.pid), "limits").read_text()
            core = re.search(r"(?m)^Max core file size +(\S+) +(\S+)", limits)
            assert core is not None
            assert core.groups() == ("0", "0")
            assert (owner(daemon.pid), owner(plain.pid)) == ((0, 0), (os.geteuid(), group))
        finally:
            plain.kill()
            daemon.terminate()
