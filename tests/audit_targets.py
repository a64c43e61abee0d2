"""What takes an audit: servers of syslog, and a socket that speaks the journal's protocol.

The journal itself is asked under systemd: see ``tests/systemd/test_audit_export.py``.
"""

import asyncio
import json
import os
import re
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_HEADER = re.compile(
    rb"<110>1 (-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) [!-~]+ custody \d+ (row|checkpoint) - "
)


def numbers(lines: Iterable[str]) -> list[int]:
    """Return the numbers of the rows among lines; any that is torn is a JSON error."""
    found = map(json.loads, lines)
    return [one["number"] for one in found if "number" in one]


def first_times(found: Iterable[int]) -> list[int]:
    """Return numbers without those that came before."""
    return list(dict.fromkeys(found))


def content_of(message: bytes) -> str:
    """Return what a message of RFC 5424 carries."""
    header = _HEADER.match(message)
    assert header is not None, message[:200]
    return message[header.end() :].decode("ascii")


class SyslogServer:
    """A syslog server for TCP, whose process may die and come back.

    Args:
        port: on loopback.
        tls: its certificate and key; None: it speaks in clear.
    """

    def __init__(self, port: int, tls: tuple[Path, Path] | None = None) -> None:
        self.port = port
        self.lines: list[str] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self._tls: ssl.SSLContext | None = None
        if tls is not None:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(*tls)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls
        )

    def die(self) -> None:
        """Take no connection any more, and lose what is not read."""
        assert self._server is not None
        self._server.close()
        lost, self._connections = self._connections, set()
        for writer in lost:
            writer.transport.abort()
        self.reads.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                await self.reads.wait()
                length = int(await reader.readuntil(b" "))
                message = await reader.readexactly(length)
                await self.reads.wait()
                if writer not in self._connections:
                    return
                self.lines.append(content_of(message))
        except (asyncio.IncompleteReadError, ConnectionError):
            # A message that is not whole is dropped, as a server of syslog does.
            pass
        finally:
            self._connections.discard(writer)
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


class DatagramServer:
    """A socket of datagrams: of a syslog daemon, or of the journal.

    Args:
        path: its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Listen; datagrams wait until they are taken."""
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)

    def die(self) -> None:
        """End, and lose what was not taken."""
        assert self._socket is not None
        self._socket.close()

    def take(self) -> Iterator[bytes]:
        """Take what is there; one that came as a file, too."""
        assert self._socket is not None
        with suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
                for descriptor in descriptors:
                    with os.fdopen(descriptor, "rb") as file:
                        file.seek(0)
                        yield file.read()
                if not descriptors:
                    yield data


def fields_of(entry: bytes) -> dict[str, str]:
    """Read an entry of the journal as systemd does: every field, none twice."""
    fields: dict[str, str] = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(entry[:8], "little")
            value, end = entry[8 : 8 + length], entry[8 + length : 9 + length]
            assert (len(value), end) == (length, b"\n")
            entry = entry[9 + length :]
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name), name
        assert name.decode() not in fields
        fields[name.decode()] = value.decode()
    return fields


class Told:
    """A service manager, and what it was told."""

    def __init__(self) -> None:
        self.is_ready = False
        self.said = ""
        self.pings = 0

    def ready(self, status: str) -> bool:
        self.is_ready, self.said = True, status
        return True

    def extend_start(self, seconds: float) -> None:
        assert seconds > 0

    def status(self, text: str) -> None:
        self.said = text

    def alive(self) -> None:
        self.pings += 1


@contextmanager
def dying(server: DatagramServer) -> Iterator[DatagramServer]:
    """Run a server for the length of the block, however often it ends meanwhile."""
    server.start()
    try:
        yield server
    finally:
        server.die()


def kept_row(state: Path) -> Any:
    """Return the row behind which a follower would begin; None: it has kept none."""
    return json.loads(state.read_text("utf-8"))["row"] if state.exists() else None
