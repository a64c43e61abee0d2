"""Plays faults: users go on while one happens, all are served again, and then all is checked."""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from tests.chaos.clock import clock_scene, why_no_clock
from tests.chaos.fault import Fault, Result
from tests.chaos.scene import USERS, Scene, scene, why_no_disk
from tests.checker import Finding, Kind
from tests.ledger import going_on, ledger_of
from tests.tokens import Issuer

_BEFORE_SECONDS = 0.3
_PAUSE_SECONDS = 0.05
_LOST = {Kind.LOST, Kind.CHANGED, Kind.FOREIGN, Kind.STALE, Kind.UNASKED}


async def play_all(faults: Sequence[Fault], seconds: float) -> list[Result]:
    """Play faults, those that need the same scene in the same one.

    Seals are looked at once in each scene, and what is found there stands at its last fault.

    Args:
        faults: which.
        seconds: of each.
    """
    issuer = Issuer()
    results: list[Result] = []
    for where in dict.fromkeys(fault.where for fault in faults):
        some = [fault for fault in faults if fault.where == where]
        if why := _why_not(where):
            results += [Result(fault.name, skipped=why) for fault in some]
            continue
        async with _scene(where, issuer) as on:
            for fault in some:
                sys.stderr.write(f"{fault.name}… ")
                results.append(await play(on, fault, seconds))
                sys.stderr.write("good\n" if results[-1].is_good else f"{results[-1]}\n")
            found = _shown(await on.verify())
            results[-1] = replace(results[-1], wrong=results[-1].wrong + found)
    return results


def _why_not(where: str) -> str:
    return {"disk": why_no_disk, "clock": why_no_clock}.get(where, str)()


def _scene(where: str, issuer: Issuer) -> AbstractAsyncContextManager[Scene]:
    if where == "clock":
        return clock_scene(issuer)
    return scene(issuer, kms=where == "kms", disk=where == "disk")


async def play(on: Scene, fault: Fault, seconds: float) -> Result:
    """Play one, and say what was seen."""
    on.backs, on.wrong = [], []
    slug = "-".join(fault.name.replace(",", "").replace("±", "").split())
    users = [f"{slug}-{number}" for number in range(USERS)]
    bases = [service.base for service in on.services]
    async with ledger_of(bases, on.issuer, **fault.claims) as on.ledger:
        async with going_on(on.ledger, users, pause=_PAUSE_SECONDS):
            await asyncio.sleep(_BEFORE_SECONDS)
            if before := on.ledger.errors():
                on.note(Kind.ANSWER, f"before anything has happened: {dict(before)}")
            count = await fault.happens(on, seconds)
            await on.back()
        errors = on.ledger.errors()
        found = await on.check()
    return Result(
        fault.name,
        faults=count,
        requests=len(on.ledger.entries),
        errors=dict(sorted(errors.items())),
        lost=_shown(one for one in found if one.kind in _LOST),
        wrong=_shown(one for one in found if one.kind not in _LOST),
        back=max(on.backs),
    )


def _shown(found: Iterable[Finding]) -> tuple[str, ...]:
    return tuple(f"{one.kind}: {one.about}" for one in found)
