"""Lets attackers loose on a daemon, and looks at what everybody else notices."""

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from tests.bench.chaos.honest import Honest, Seen
from tests.bench.chaos.swarm import Attack, Plan
from tests.bench.chaos.verdict import BACK_SECONDS, Row, is_calm, is_closed
from tests.bench.chaos.watch import NOTHING, Open, Probes, lookout
from tests.bench.load import Request
from tests.bench.processes import Meter

_WARM_UP_SECONDS = 1.0
_LOOK_SECONDS = 0.5
# How long honest users must have seen nothing unusual: 300 requests.
_CALM_SECONDS = 1.5

Look = Callable[[], Awaitable[Open]]
Attacking = Callable[[Plan], AbstractAsyncContextManager["asyncio.Task[Mapping[str, int]]"]]


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Args:
        pid: of the process.
        port: of the vault, on 127.0.0.1.
        admin: port of its admin listener.
        requests: of the honest users.
        tokens: of attackers who have accounts.
        unknown: tokens whose keys no issuer has.
        tls: how the vault is spoken to; None: in clear.
    """

    pid: int
    port: int
    admin: int
    requests: Sequence[Request] = field(repr=False)
    tokens: Sequence[str] = field(repr=False)
    unknown: Sequence[str] = field(repr=False)
    tls: ssl.SSLContext | None = None


async def measure(
    attack: Attack, target: Target, attacking: Attacking, *, before: float, seconds: float
) -> Row:
    """Measure an attack.

    Args:
        attack: which.
        target: on whom.
        attacking: carries it out.
        before: how long honest users are looked at before it, in seconds.
        seconds: how long it lasts.
    """
    plan = Plan(attack.name, target.port, seconds, [*target.tokens], [*target.unknown])
    honest, probes = Honest(target.port, target.requests, target.tls), Probes(target.admin)
    with lookout(target.pid, target.port) as look:
        async with honest.asking(), probes.asking():
            await look()  # its process begins
            await asyncio.sleep(_WARM_UP_SECONDS)
            first = time.monotonic()
            await asyncio.sleep(before)
            undisturbed, open_before = honest.between(first, time.monotonic()), await look()
            probes.forget()
            meter = Meter({"daemon": target.pid, "ours": os.getpid()})
            async with attacking(plan) as task:
                with meter.running():
                    began = time.monotonic()
                    most = await _most_open(look, task)
                    ended = time.monotonic()
                sent = await task
            back, open_after = await _until_back(honest, look, undisturbed, open_before)
            given_up = time.monotonic()
    return Row(
        attack=attack.name,
        wanted=min(attack.connections, attack.most) // 2,
        sent=sent,
        before=undisturbed,
        meanwhile=honest.between(began, ended),
        after=honest.between(ended, given_up),
        worst=probes.worst,
        probe_errors=probes.errors,
        open_before=open_before,
        open_most=most,
        open_after=open_after,
        back=back,
        # The daemon, its PostgreSQL and the attackers are children of this process.
        cpu={"daemon": meter.cpu["daemon"], "rest": meter.cpu["machine"] - meter.cpu["ours"]},
    )


async def _most_open(look: Look, task: "asyncio.Task[Mapping[str, int]]") -> Open:
    """Wait until an attack is over; return what was open when it was most."""
    most = NOTHING
    while not task.done():
        await asyncio.wait([task], timeout=_LOOK_SECONDS)
        most = max(most, await look(), key=lambda one: one.connections)
    return most


async def _until_back(
    honest: Honest, look: Look, undisturbed: Seen, open_before: Open
) -> tuple[float | None, Open]:
    """Wait until all is as it was; return after how many seconds, and what is open then."""
    ended = time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_SECONDS / 2)
        now, is_open = time.monotonic(), await look()
        calm = is_calm(honest.between(now - _CALM_SECONDS, now), undisturbed)
        calm = calm and not honest.is_kept_waiting() and is_closed(is_open, open_before)
        if calm and now - ended >= _CALM_SECONDS:
            return now - ended, is_open
        if now - ended >= BACK_SECONDS:
            return None, is_open
