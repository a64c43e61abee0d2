"""The daemon itself: it is stopped, or has too few descriptors, too little memory, no reader."""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tests.chaos.fault import Fault
from tests.chaos.scene import Scene
from tests.chaos.service import Service
from tests.checker import Kind
from tests.forked import AnyProcess
from tests.ledger import going_on
from tests.servers import ROOT

_MIB = 1 << 20
_ROWS = "SELECT user_agent FROM auth.encryption_vault_audit WHERE user_agent = ANY($1::text[])"


async def terminate(on: Scene, seconds: float) -> int:
    """End one daemon after the other as a service manager does, and start it again.

    What was begun is answered: nothing may have been done for who heard nothing.
    """
    loop, count = asyncio.get_running_loop(), 0
    begun, end = loop.time(), loop.time() + seconds
    while loop.time() < end or count < len(on.services):
        service = on.services[count % len(on.services)]
        if (code := await asyncio.to_thread(service.stop)) != 0:
            on.note(Kind.ANSWER, f"the daemon ended with {code}")
        await on.restart(service)
        count += 1
        await asyncio.sleep(0.2)
    unheard = [
        f"{on.ledger.agent}{one.number}"
        for one in on.ledger.since(begun)
        if one.status is None and one.begun > begun
    ]
    for row in await on.database.fetch(_ROWS, unheard):
        on.note(Kind.LOST, f"{row[0]}: it was done, and not answered")
    return count


async def few_descriptors(on: Scene, seconds: float) -> int:
    """Take the descriptors that it might still open, and its sessions to the database."""
    return await _limited(on, seconds, resource.RLIMIT_NOFILE, _descriptors)


def _descriptors(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/fd").iterdir()])


async def little_memory(on: Scene, seconds: float) -> int:
    """Let it have no more memory than it has."""
    return await _limited(on, seconds, resource.RLIMIT_AS, _memory)


def _memory(pid: int) -> int:
    # Below what it has, no more is given, and none is taken.
    return _MIB


async def _limited(on: Scene, seconds: float, limit: int, most: Callable[[int], int]) -> int:
    service = on.services[0]
    pid = service.process.pid
    before = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (most(pid), before[1]))
    await on.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'custody_app'"
    )
    # Many more at once than before.
    others = [f"{user}-more" for user in on.ledger.users]
    try:
        async with going_on(on.ledger, others, devices=8, pause=0.01):
            await asyncio.sleep(seconds)
    finally:
        if not service.has_ended():
            resource.prlimit(pid, limit, before)
    return 1


async def unread_log(on: Scene, seconds: float) -> int:
    """Log into a pipe that nobody reads."""
    with _nobody() as end:
        service = Service({**on.environ, "CUSTODY_LOG_LEVEL": "debug"}, partial(_into, end))
        async with on.only(service), on.all_are_served():
            # More than a pipe holds.
            async with going_on(on.ledger, on.ledger.users, devices=4, pause=0.01):
                await asyncio.sleep(seconds)
            await on.back()
    return 1


@contextmanager
def _nobody() -> Iterator[int]:
    """Return the end of a full pipe that is open at both ends."""
    reads, writes = os.pipe()
    try:
        os.set_blocking(writes, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writes, bytes(4096))
        os.set_blocking(writes, True)
        yield writes
    finally:
        os.close(reads)
        os.close(writes)


def _into(end: int, environ: Mapping[str, str], _log: Path) -> AnyProcess:
    return subprocess.Popen(
        [sys.executable, "-m", "custody", "serve"],
        env={"PATH": os.environ["PATH"], **environ},
        cwd=ROOT,
        stdout=end,
        stderr=end,
    )


FAULTS = (
    Fault("SIGTERM under load", terminate),
    Fault("no descriptors left", few_descriptors),
    Fault("no memory left", little_memory),
    Fault("log that nobody reads", unread_log),
)
