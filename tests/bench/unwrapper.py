"""A process with a keyring alone, which unwraps on demand: neither HTTP server nor database."""

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from kek_backends.base import Wrap
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring
from tests.bench.load import OK, Load
from tests.bench.users import master_key
from tests.bindings import of


class Unwrapper:
    """The process, seen from outside.

    Args:
        pid: of it.
        pipe: to it.
    """

    def __init__(self, pid: int, pipe: Connection) -> None:
        self.pid = pid
        self._pipe = pipe

    def run(self, at_once: int, seconds: float) -> Load:
        """Unwrap the wraps in turn, so many at once, and return how that went. Blocks."""
        self._pipe.send((at_once, seconds))
        load = self._pipe.recv()
        assert isinstance(load, Load)
        return load


@contextmanager
def unwrapper(
    uri: str, environ: Mapping[str, str], wraps: Mapping[str, Wrap]
) -> Iterator[Unwrapper]:
    """Run the process for the length of the block.

    Args:
        uri: of the KEK.
        environ: the variables that its backend reads.
        wraps: by user id.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(theirs, uri, dict(environ), dict(wraps)), daemon=True
    )
    process.start()
    theirs.close()
    try:
        assert process.pid is not None
        yield Unwrapper(process.pid, ours)
    finally:
        ours.close()
        process.join()


def _serve(pipe: Connection, uri: str, environ: dict[str, str], wraps: dict[str, Wrap]) -> None:
    configure(LogLevel.WARNING, LogFormat.TEXT)
    asyncio.run(_answer(pipe, uri, environ, wraps))


async def _answer(
    pipe: Connection, uri: str, environ: dict[str, str], wraps: dict[str, Wrap]
) -> None:
    keyring = load_keyring(uri, (), environ=environ, development=False)
    try:
        await keyring.active.refresh()
        while True:
            try:
                at_once, seconds = await asyncio.to_thread(pipe.recv)
            except EOFError:
                return
            pipe.send(await _measure(keyring, wraps, at_once, seconds))
    finally:
        await keyring.close()


async def _measure(
    keyring: Keyring, wraps: Mapping[str, Wrap], at_once: int, seconds: float
) -> Load:
    times: list[int] = []
    wrong = 0
    turns = itertools.cycle(wraps.items())
    began = time.perf_counter_ns()

    async def drive() -> None:
        nonlocal wrong
        while (asked := time.perf_counter_ns()) < began + seconds * 1e9:
            user, wrap = next(turns)
            key = await keyring.unwrap(of(user), wrap)
            times.append(time.perf_counter_ns() - asked)
            wrong += key != master_key(user)

    await asyncio.gather(*(drive() for _ in range(at_once)))
    took = (time.perf_counter_ns() - began) / 1e9
    return Load(sorted(times), took, 0.0, {OK: len(times)}, wrong=wrong)
