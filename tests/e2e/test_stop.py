"""The daemon stops without cutting anyone off, survives kill -9, and leaves no core."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.client import Client, client_session, generation_of
from tests.e2e.held import held, one_waits
from tests.eventually import eventually
from tests.forked import AnyProcess
from tests.leaks import LOGS, remember
from tests.ports import free_port
from tests.servers import Daemon, Database, daemon_beside, settings_for, wait_for
from tests.tokens import Issuer

CONNECTIONS = 64
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads Linux's /proc")


@dataclass
class Load:
    """What the connections of a load saw.

    Attributes:
        answered: requests with a full answer 200.
        cut: requests sent before the stop that got none, or half of one.
        late: requests sent after the stop that found the connection closed.
        wrong: answers that were no 200.
    """

    stopped_at: float = float("inf")
    answered: int = 0
    cut: int = 0
    late: int = 0
    wrong: list[bytes] = field(default_factory=list)


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer whole; its head and body, or an IncompleteReadError."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    return head + await reader.readexactly(length)


async def hammer(daemon: Daemon, user: str, load: Load) -> None:
    """Fetch a user's key over one connection, one request after the other, until it is closed."""
    place = urlsplit(daemon.base)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    token = remember(daemon.issuer.token(user))
    request = (
        f"GET {place.path}/key HTTP/1.1\r\nHost: {place.netloc}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n\r\n"
    ).encode()
    try:
        while True:
            sent_at = time.monotonic()
            try:
                writer.write(request)
                answer = await read_answer(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                if sent_at < load.stopped_at:
                    load.cut += 1
                else:
                    load.late += 1
                return
            if answer.startswith(b"HTTP/1.1 200 ") and b'"masterKey"' in answer:
                load.answered += 1
            else:
                load.wrong.append(answer.partition(b"\r\n")[0])
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ended(process: AnyProcess, seconds: float = 20) -> int:
    """Wait for a process to end, and return its exit code."""
    return await asyncio.to_thread(process.wait, seconds)


async def says_that_it_stops(daemon: Daemon) -> bool:
    async with client_session() as session, session.get(f"{daemon.admin}/readyz") as ready:
        return (ready.status, (await ready.json())["parts"]["listener"]) == (503, "stopping")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "answers", [4 * CONNECTIONS, pytest.param(50 * CONNECTIONS, marks=pytest.mark.prove)]
)
async def test_a_stop_under_load_cuts_nobody_off(
    served: Daemon, number: signal.Signals, answers: int
) -> None:
    assert served.process is not None
    users = [f"user-{n}" for n in range(CONNECTIONS)]
    async with client_session() as session:
        made = await asyncio.gather(*(Client(served, session, user).init() for user in users))
    assert {answer.status for answer in made} == {200}
    load = Load()
    async with asyncio.TaskGroup() as group:
        for user in users:
            group.create_task(hammer(served, user, load))
        await eventually(lambda: load.answered >= answers, 60)
        assert load.cut == load.late == 0
        load.stopped_at = time.monotonic()
        served.process.send_signal(number)
        code = await ended(served.process)
    assert code == 0
    assert time.monotonic() - load.stopped_at < 20
    assert load.wrong == []
    assert load.cut == 0, (load.answered, load.late)
    # Every answer has its row and every row its answer.
    rows = await served.database.value(
        "SELECT count(*) FROM auth.encryption_vault_audit WHERE action = 'fetch' AND status = 200"
    )
    assert rows == load.answered
    place = urlsplit(served.base)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(place.hostname, place.port)


async def test_while_it_drains_it_says_so_and_finishes(served: Daemon) -> None:
    """A rotation that waits for a lock when the stop comes is carried out and answered."""
    assert served.process is not None
    async with client_session() as session:
        alice = Client(served, session, "alice")
        old = (await alice.init()).json["masterKey"]
        async with held(served.database):
            rotation = asyncio.create_task(alice.rotate())
            await one_waits(served.database)
            assert not rotation.done()
            served.process.send_signal(signal.SIGTERM)
            await eventually(lambda: says_that_it_stops(served))
            assert not rotation.done()
            with pytest.raises(aiohttp.ClientConnectionError):
                await Client(served, session, "bob").init()
            assert served.process.poll() is None
        answer = await rotation
        assert answer.status == 200
        assert answer.json["masterKey"] != old
        assert await ended(served.process) == 0
    trail = await served.database.audit("alice")
    assert trail == [("init", "created", 200), ("rotate", None, 200)]


async def test_a_body_that_still_arrives_at_the_stop_is_read(served: Daemon) -> None:
    async with client_session() as session:
        await Client(served, session, "alice").init()
    place = urlsplit(served.base)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    body = json.dumps({"recoveryWrappedMk": "A" * 64, "recoveryIv": "A" * 16}).encode()
    head = (
        f"POST {place.path}/recovery-wrap HTTP/1.1\r\nHost: test\r\n"
        f"Authorization: Bearer {remember(served.issuer.token('alice'))}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body[:20])
    await asyncio.sleep(0.3)
    assert served.process is not None
    served.process.send_signal(signal.SIGTERM)
    await eventually(lambda: says_that_it_stops(served))
    writer.write(body[20:])
    answer = await read_answer(reader)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b"\r\nConnection: close\r\n" in answer
    assert await ended(served.process) == 0
    writer.close()


async def test_idle_and_stalled_connections_do_not_hold_a_stop_up(served: Daemon) -> None:
    assert served.process is not None
    place = urlsplit(served.base)
    idle = [await asyncio.open_connection(place.hostname, place.port) for _ in range(8)]
    for n, (_, writer) in enumerate(idle):
        if n % 2:
            writer.write(f"GET {place.path}/key HTTP/1.1\r\nHost:".encode())
    async with client_session() as session:
        assert (await Client(served, session, "alice").init()).status == 200
        began = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert await ended(served.process) == 0
        assert time.monotonic() - began < 5
    for _, writer in idle:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_two_signals_are_no_worse_than_one(served: Daemon) -> None:
    assert served.process is not None
    async with client_session() as session:
        alice = Client(served, session, "alice")
        await alice.init()
        async with held(served.database):
            rotation = asyncio.create_task(alice.rotate())
            await one_waits(served.database)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                served.process.send_signal(number)
                await asyncio.sleep(0.1)
        assert (await rotation).status == 200
        assert await ended(served.process) == 0


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
        assert first.process is not None
        async with client_session() as session:
            alice, bob = (Client(first, session, user) for user in ("alice", "bob"))
            kept = (await bob.init()).json
            tasks = [asyncio.create_task(rotate_for_ever(alice)) for _ in range(4)]
            async with asyncio.timeout(30):
                await enough.wait()
            first.process.kill()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, aiohttp.ClientError) for end in ends)
            assert await ended(first.process) == -signal.SIGKILL
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


@needs_proc
async def test_its_memory_is_its_own(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    """No core, and /proc/PID belongs to root, as it does where PR_SET_DUMPABLE is off.

    A process of root shows the same owner either way: it runs under another group, by which the
    difference shows.
    """
    environ = settings_for(database, issuer, tmp_path)
    found = await asyncio.to_thread(_run_and_look, environ)
    assert found == {"core": ["0", "0"], "owner": (0, 0), "plain": (os.geteuid(), _group())}


def _group() -> int:
    return 65534 if os.geteuid() == 0 else os.getegid()


def _run_and_look(environ: dict[str, str]) -> dict[str, object]:
    def start(*command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], **environ},
            group=_group(),
            cwd=Path(__file__).parents[2],
            stdout=log,
            stderr=log,
        )

    def owner(pid: int) -> tuple[int, int]:
        found = Path("/proc", str(pid), "environ").stat()
        return found.st_uid, found.st_gid

    path = LOGS / f"daemon-{os.getpid()}-dumpable.log"
    environ |= {"CUSTODY_ADMIN_LISTEN": f"127.0.0.1:{free_port()}"}
    with path.open("wb") as log:
        plain = start(sys.executable, "-c", "import time; time.sleep(60)")
        daemon = start(sys.executable, "-m", "custody", "serve")
        try:
            wait_for(f"http://{environ['CUSTODY_ADMIN_LISTEN']}/readyz", daemon, path)
            limits = Path("/proc", str(daemon.pid), "limits").read_text().splitlines()
            core = next(line.split() for line in limits if line.startswith("Max core file size"))
            return {"core": core[4:6], "owner": owner(daemon.pid), "plain": owner(plain.pid)}
        finally:
            for process in (plain, daemon):
                process.terminate()
                process.wait(20)
