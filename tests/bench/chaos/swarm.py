"""The connections of an attack: how many at once, from where, how fast, and what became of them."""

import asyncio
import itertools
import re
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

HOST = "127.0.0.1"
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_CONNECT_SECONDS = 5.0
# The least that Linux lets a window be: what is not read is soon in the daemon's way.
_SMALL_BUFFER = 2304
# What has not left yet, in bytes: an attacker with more of it waits.
_UNSENT = 65536
# SO_LINGER with no time: closing resets the connection.
_AT_ONCE = struct.pack("ii", 1, 0)


class Ended(Exception):
    """The daemon has closed this connection."""


@dataclass(frozen=True)
class Plan:
    """What an attacker is given.

    Args:
        attack: its name.
        port: of the vault.
        seconds: how long it lasts.
        tokens: of attackers who have accounts.
        unknown: tokens whose keys no issuer has.
    """

    attack: str
    port: int
    seconds: float
    tokens: list[str] = field(repr=False)
    unknown: list[str] = field(repr=False)


class Call(asyncio.Protocol):
    """A connection of an attacker.

    Args:
        tally: of the attack; counts what is sent and what comes.

    Attributes:
        transport: of the connection, once it is open.
        ended: set when it is closed.
    """

    transport: asyncio.Transport

    def __init__(self, tally: Counter[str]) -> None:
        self.ended = asyncio.Event()
        self._tally = tally
        self._answer = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        for status in _STATUS.findall(data):
            self._tally[f"answers {status.decode()}"] += 1
        self._answer.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()
        self._answer.set()

    def send(self, data: bytes, *, requests: int = 0) -> None:
        """Send bytes, which are so many whole requests; nothing while too much waits to leave.

        Raises:
            Ended: the connection is closed.
        """
        if self.ended.is_set():
            raise Ended
        if self.transport.get_write_buffer_size() < _UNSENT:
            self.transport.write(data)
            self._tally["requests"] += requests

    async def ask(self, request: bytes) -> None:
        """Send a request, and wait for its answer.

        Raises:
            Ended: the connection is closed.
        """
        self._answer.clear()
        self.send(request, requests=1)
        await self._answer.wait()
        if self.ended.is_set():
            raise Ended

    async def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            Ended: the connection was closed meanwhile.
        """
        try:
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        except TimeoutError:
            return
        raise Ended


Act: TypeAlias = Callable[[Call, Plan, int], Awaitable[None]]


@dataclass(frozen=True)
class Attack:
    """What attackers do, within bounds.

    Args:
        name: for the table.
        act: what one connection does, the so-and-so-manyth; it is closed when that returns.
        connections: at once.
        addresses: from which they come.
        most: connections in all.
        rate: connections a second at most.
        reads: whether they ever read.
        resets: whether they end their connections with a reset.
        files: what the daemon may open.
        tls: whether the daemon speaks TLS.
        jwks_hangs: whether the issuer answers nothing meanwhile.
    """

    name: str
    act: Act
    connections: int
    addresses: int
    most: int
    rate: int = 100
    reads: bool = True
    resets: bool = False
    files: int = 1024
    tls: bool = False
    jwks_hangs: bool = False


class Swarm:
    """Carries an attack out.

    Args:
        attack: which.
        plan: of this time.

    Attributes:
        tally: what was done, and what came back.
    """

    def __init__(self, attack: Attack, plan: Plan) -> None:
        self.tally: Counter[str] = Counter()
        self._attack = attack
        self._plan = plan
        self._numbers = itertools.count()
        self._next = 0.0

    async def run(self) -> None:
        """Attack until the time is over, or all that was to be sent is sent."""
        tasks = [asyncio.create_task(self._keep()) for _ in range(self._attack.connections)]
        seconds = self._plan.seconds
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def _keep(self) -> None:
        """Keep one connection: where it ends, there is another one."""
        while (number := next(self._numbers)) < self._attack.most:
            await self._turn()
            self.tally["connections"] += 1
            try:
                call = await self._open(address(number % self._attack.addresses))
            except (OSError, TimeoutError) as error:
                self.tally[f"not connected: {type(error).__name__}"] += 1
                continue
            try:
                await self._attack.act(call, self._plan, number)
            except Ended:
                self.tally["closed by the daemon"] += 1
            finally:
                call.transport.abort()

    async def _turn(self) -> None:
        """Wait for the turn to open a connection."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now) + 1 / self._attack.rate
        await asyncio.sleep(self._next - now)

    async def _open(self, source: str) -> Call:
        loop = asyncio.get_running_loop()
        opened = socket.socket()
        try:
            opened.setblocking(False)
            if not self._attack.reads:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
            if self._attack.resets:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.bind((source, 0))
            async with asyncio.timeout(_CONNECT_SECONDS):
                await loop.sock_connect(opened, (HOST, self._plan.port))
                transport, call = await loop.create_connection(
                    lambda: Call(self.tally), sock=opened
                )
        except BaseException:
            opened.close()
            raise
        call.transport = transport
        if not self._attack.reads:
            transport.pause_reading()
        return call


def address(number: int) -> str:
    """Return an address of this machine: each is another client to the daemon."""
    return f"127.0.{1 + number // 250}.{1 + number % 250}"
