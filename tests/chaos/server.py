"""PostgreSQL ends, freezes, is slow, or has no room left."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import asyncpg

from tests.chaos.fault import Fault
from tests.chaos.scene import Scene
from tests.faulty_proxy import Fault as OfProxy

_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE usename = 'custody_app' ORDER BY random()"
_BETWEEN_SECONDS = 0.3


async def kill_backend(on: Scene) -> bool:
    """Kill one session's process: PostgreSQL ends all others, and recovers.

    Returns:
        Whether there was one.
    """
    with suppress(OSError, asyncpg.PostgresError):
        pid = await on.database.value(_BACKENDS)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            return True
    return False


async def kill_backends(on: Scene, seconds: float) -> int:
    """Do so again and again."""
    count = 0
    async with asyncio.timeout(seconds + 30):
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            count += await kill_backend(on)
            await asyncio.sleep(_BETWEEN_SECONDS)
    return count


async def kill_postmaster(on: Scene, seconds: float) -> int:
    """Kill the first process, and start it again."""
    return await _end(on, seconds, signal.SIGKILL)


async def stop_fast(on: Scene, seconds: float) -> int:
    """Stop it as ``pg_ctl stop -m fast`` does, and start it again."""
    return await _end(on, seconds, signal.SIGINT)


async def stop_immediate(on: Scene, seconds: float) -> int:
    """Stop it as ``pg_ctl stop -m immediate`` does, and start it again."""
    return await _end(on, seconds, signal.SIGQUIT)


async def _end(on: Scene, seconds: float, number: signal.Signals) -> int:
    os.kill(on.postmaster, number)
    try:
        await asyncio.sleep(seconds)
    finally:
        await on.start_server()
    return 1


async def freeze(on: Scene, seconds: float) -> int:
    """Stop all its processes from running, and let them go on."""
    pids = list(_processes(on.postmaster))
    _send(pids, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        _send(pids, signal.SIGCONT)
    return 1


def _processes(postmaster: int) -> Iterator[int]:
    yield postmaster
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children")
    yield from map(int, children.read_text().split())


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def slow(on: Scene, seconds: float) -> int:
    """Have each message to it come 100 ms later."""
    on.proxy.fault = OfProxy.SLOW
    try:
        async with on.all_are_served():
            await asyncio.sleep(seconds)
    finally:
        on.proxy.fault = OfProxy.NONE
    return 1


async def cut(on: Scene, seconds: float) -> int:
    """Have nothing come through, on connections that stay open."""
    on.proxy.fault = OfProxy.BLACK_HOLE
    try:
        await asyncio.sleep(seconds)
    finally:
        on.proxy.fault = OfProxy.NONE
    return 1


async def no_connections(on: Scene, seconds: float) -> int:
    """Have others take all connections there may be, once ours were ended."""
    async with AsyncExitStack() as stack, on.database.connect() as superuser:
        await superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'custody_app'"
        )
        with suppress(asyncpg.PostgresError):
            while True:
                taken = await asyncpg.connect(on.database.url("custody_owner"))
                stack.push_async_callback(taken.close)
        await asyncio.sleep(seconds)
    return 1


async def fill_disk(on: Scene, seconds: float) -> int:
    """Fill the disk that all of it lies on, log and data; then give it room again."""
    assert on.disk is not None
    filler = on.disk / "filler"
    try:
        await asyncio.to_thread(_fill, filler)
        await asyncio.sleep(seconds / 2)
        # The next segment of the log has no room either.
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with asyncio.timeout(2):
                for _ in range(10):
                    await on.database.execute("SELECT pg_switch_wal()")
        await asyncio.sleep(seconds / 2)
    finally:
        filler.unlink()
        # It ends where the log can't be written; its service manager starts it again.
        if on.server_has_ended():
            await on.start_server()
    return 1


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))


FAULTS = (
    Fault("kill -9 of a backend", kill_backends),
    Fault("kill -9 of the postmaster", kill_postmaster),
    Fault("stop fast", stop_fast),
    Fault("stop immediate", stop_immediate),
    Fault("PostgreSQL frozen", freeze),
    Fault("network cut, connections stay", cut),
    Fault("100 ms slower", slow),
    Fault("connection limit reached", no_connections),
    Fault("disk full", fill_disk, "disk"),
)
