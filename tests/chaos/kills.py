"""kill -9 at random moments: of a daemon, a session of PostgreSQL, PostgreSQL itself, the KMS."""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias

from tests.chaos.fault import Fault
from tests.chaos.scene import Scene
from tests.chaos.server import kill_backend
from tests.eventually import eventually

# Some come before the one before is mended.
_HASTE = 0.2
_SAID_EVERY = 50

_Kill: TypeAlias = Callable[[Scene, random.Random], Awaitable[None]]


async def _daemon(on: Scene, choice: random.Random) -> None:
    service = choice.choice(on.services)
    await asyncio.to_thread(service.kill)
    await on.restart(service)


async def _session(on: Scene, _choice: random.Random) -> None:
    # The server may recover from the one before, and have none yet.
    await eventually(lambda: kill_backend(on))


async def _postmaster(on: Scene, _choice: random.Random) -> None:
    os.kill(on.postmaster, signal.SIGKILL)
    await on.start_server()


async def _kms(on: Scene, _choice: random.Random) -> None:
    assert on.bao is not None
    await asyncio.to_thread(on.bao.kill)
    await asyncio.to_thread(on.bao.start)


_KILLS: Mapping[str, _Kill] = {
    "daemon": _daemon,
    "session": _session,
    "postmaster": _postmaster,
    "KMS": _kms,
}


async def kill(on: Scene, seconds: float, *, most: int, seed: int) -> int:
    """Kill this or that, as often as is said, or for as long.

    Args:
        on: with a KMS.
        seconds: for which it goes on where there is no number.
        most: how often; 0: as often as there is time.
        seed: of the moments, and of what is killed.
    """
    choice = random.Random(seed)  # noqa: S311 - to be repeated
    loop, killed = asyncio.get_running_loop(), Counter[str]()
    end = loop.time() + seconds
    while killed.total() < most or (not most and loop.time() < end):
        name = choice.choice([*_KILLS])
        await asyncio.sleep(choice.uniform(0.0, 0.5))
        await _KILLS[name](on, choice)
        killed[name] += 1
        if choice.random() > _HASTE:
            await on.back()
        if killed.total() % _SAID_EVERY == 0:
            backs = sorted(on.backs)
            sys.stderr.write(
                f"{dict(killed)}, {len(on.ledger.entries)} requests, served again after"
                f" {backs[len(backs) // 2]:.1f} s, {backs[-1]:.1f} s at most\n"
            )
    return killed.total()


def faults(count: int, seed: int) -> tuple[Fault, ...]:
    """Return it, with so many kills; 0: as many as there is time for."""
    return (Fault("kills at random moments", partial(kill, most=count, seed=seed), "kms"),)
