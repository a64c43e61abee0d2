"""Clocks that are turned under load: the daemons', and the database's, which dates the audit."""

import asyncio
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

from custody.development.postgres import user
from tests.chaos.fault import Fault
from tests.chaos.scene import Scene, scene
from tests.chaos.service import executed
from tests.forked import AnyProcess
from tests.tokens import Issuer

_SOURCE = Path(__file__).with_name("clock.c")
_HOUR = 3600


def why_no_clock() -> str:
    """Say why clocks can't be turned here; nothing where they can."""
    return "" if shutil.which("cc") else "there is no C compiler (cc)"


@asynccontextmanager
async def clock_scene(issuer: Issuer) -> AsyncIterator[Scene]:
    """Set up a scene in which both clocks can be turned."""
    with _library() as library, patch.object(user, "ENVIRONMENT", _with(library, "database")):
        async with scene(issuer, launch=partial(_launch, library)) as on:
            on.clocks = library.parent
            yield on


def _launch(library: Path, environ: Mapping[str, str], log: Path) -> AnyProcess:
    return executed({**environ, **_variables(library, "daemons")}, log)


def _with(library: Path, whose: str) -> dict[str, str]:
    return {**user.ENVIRONMENT, **_variables(library, whose)}


def _variables(library: Path, whose: str) -> dict[str, str]:
    return {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(library.with_name(whose))}


@contextmanager
def _library() -> Iterator[Path]:
    """Compile what turns clocks, into a folder with a file for each."""
    with tempfile.TemporaryDirectory(prefix="custody-clock-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        library = folder / "clock.so"
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"],
            check=True,
            timeout=60,
        )
        for whose in ("daemons", "database"):
            (folder / whose).write_bytes(_turned(0))
        yield library


def _turned(seconds: int) -> bytes:
    return struct.pack("q", seconds)


async def turn_daemons(on: Scene, seconds: float) -> int:
    """Turn theirs: nobody is to notice."""
    async with on.all_are_served():
        return await _turn(on, "daemons", seconds)


async def turn_database(on: Scene, seconds: float) -> int:
    """Turn the database's: what is under way when it goes an hour on is too late."""
    return await _turn(on, "database", seconds)


async def _turn(on: Scene, whose: str, seconds: float) -> int:
    """Turn a clock an hour on, back, an hour back, and right again."""
    turns = (_HOUR, 0, -_HOUR, 0)
    assert on.clocks is not None
    # As it is: it is mapped by those whose clock it is.
    with (on.clocks / whose).open("r+b", buffering=0) as file:
        for turn in turns:
            os.pwrite(file.fileno(), _turned(turn), 0)
            await asyncio.sleep(seconds / len(turns))
    return len(turns)


def _claims() -> dict[str, object]:
    """Tokens that are good by either clock: their times are the issuer's matter."""
    now = int(time.time())
    return {"iat": now - 2 * _HOUR, "exp": now + 2 * _HOUR}


FAULTS = (
    Fault("daemons' clock ±1 h", turn_daemons, "clock", _claims()),
    Fault("database's clock ±1 h", turn_database, "clock", _claims()),
)
