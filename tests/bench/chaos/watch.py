"""What is looked at beside the honest users: the probes of the daemon, and what it has open."""

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.load import OK, LoadError
from tests.bench.load_python import read_answer
from tests.bench.processes import resident_mib, step_back

PROBES = ("livez", "readyz")
_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.25
_PROC = Path("/proc")
# Of a line of /proc/net/tcp: local address, and inode of the socket.
_LOCAL, _INODE = 1, 9


@dataclass
class Probes:
    """Asks for /livez and /readyz again and again, on a new connection each time.

    Args:
        port: of the admin listener, on 127.0.0.1.

    Attributes:
        worst: seconds to the latest answer, by probe.
        errors: what else came than a 200, by probe.
    """

    port: int
    worst: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def forget(self) -> None:
        """Forget what was seen until now."""
        self.worst.clear()
        self.errors.clear()

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Ask for the length of the block, and wait for the last answers."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._keep_asking(name, stop)) for name in PROBES]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def _keep_asking(self, name: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    status = await self._ask(name)
                if status != OK:
                    self.errors[name] = str(status)
            except (OSError, EOFError, LoadError, TimeoutError) as error:
                self.errors[name] = type(error).__name__
            took = time.monotonic() - began
            self.worst[name] = max(took, self.worst.get(name, 0.0))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await stop.wait()

    async def _ask(self, name: str) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"GET /%s HTTP/1.1\r\nHost: custody.example\r\n\r\n" % name.encode())
            return (await read_answer(reader)).status
        finally:
            writer.transport.abort()


@dataclass(frozen=True, slots=True)
class Open:
    """What a daemon has open.

    Args:
        connections: of the vault's callers.
        others: all other descriptors.
        mib: its resident memory.
    """

    connections: int
    others: int
    mib: float


NOTHING = Open(0, 0, 0.0)


@contextmanager
def lookout(pid: int, port: int) -> Iterator[Callable[[], Awaitable[Open]]]:
    """Look, whenever asked, at what a daemon has open; nothing where it has ended.

    A look reads thousands of lines and links. So it is made in a process of its own, which steps
    back for all others: in the honest users' process it would keep them waiting for 20 ms or more.

    Args:
        pid: of the daemon.
        port: of its vault.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=step_back) as pool:

        async def look() -> Open:
            return await asyncio.get_running_loop().run_in_executor(pool, _look, pid, port)

        yield look


def _look(pid: int, port: int) -> Open:
    with contextlib.suppress(OSError):
        return _what_is_open(pid, port)
    return NOTHING


def _what_is_open(pid: int, port: int) -> Open:
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    links = []
    for entry in (_PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(str(entry.readlink()))
    connections = sum(link in sockets for link in links)
    return Open(connections, len(links) - connections, resident_mib(pid))


def _inodes(port: int) -> set[str]:
    """Return the inodes of sockets with this local port; the listener's is one of them."""
    lines = (_PROC / "net/tcp").read_text("ascii").splitlines()[1:]
    ending = f":{port:04X}"
    words = [line.split() for line in lines]
    return {one[_INODE] for one in words if one[_LOCAL].endswith(ending)}
