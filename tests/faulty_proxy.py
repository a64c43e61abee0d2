"""A TCP proxy on loopback that breaks as networks and servers do, for a real server behind it."""

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto

from tests.ports import free_port

_CHUNK = 64 * 1024
_TICK = 0.05


class Fault(Enum):
    """What the proxy does with bytes, also on connections that it already has."""

    NONE = auto()
    REFUSE = auto()  # nobody listens, and what was open is closed
    RESET = auto()  # each connection is reset when it sends something
    BLACK_HOLE = auto()  # half-open: connections are taken and kept, nothing comes through
    DRIP = auto()  # answers come a byte at a time, and never end in time
    ENDLESS = auto()  # the answer's body never ends, as fast as it can
    GARBAGE = auto()  # an answer that is no JSON, with status 200


class FaultyProxy:
    """Runs in threads of its own; ``fault`` may be set at any time.

    Args:
        port: of the real server on loopback.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = free_port()
        self.fault = Fault.NONE
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def address(self) -> str:
        """The proxy's own address, as a URL."""
        return f"http://127.0.0.1:{self.port}"

    def run(self) -> None:
        """Take connections until it is closed."""
        listener: socket.socket | None = None
        while not self._closing.is_set():
            if self.fault is Fault.REFUSE:
                if listener is not None:
                    listener.close()
                    listener = None
                time.sleep(_TICK)
                continue
            if listener is None:
                listener = socket.create_server(("127.0.0.1", self.port))
                listener.settimeout(_TICK)
            with contextlib.suppress(TimeoutError):
                client, _ = listener.accept()
                self._start(client)
        if listener is not None:
            listener.close()
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """End it."""
        self._closing.set()

    def _start(self, client: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            server: socket.socket | None = None
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=2)
            except OSError:
                if self.fault is Fault.NONE:
                    return
            try:
                self._pump(client, server)
            finally:
                if server is not None:
                    server.close()

    def _pump(self, client: socket.socket, server: socket.socket | None) -> None:
        client.settimeout(_TICK)
        if server is not None:
            server.settimeout(_TICK)
        while not self._closing.is_set() and self.fault is not Fault.REFUSE:
            if self.fault is Fault.BLACK_HOLE:
                time.sleep(_TICK)
                continue
            ready, _, _ = select.select([one for one in (client, server) if one], [], [], _TICK)
            asked = _receive(client) if client in ready else None
            if asked == b"":
                return
            if asked:
                if self.fault in (Fault.ENDLESS, Fault.GARBAGE, Fault.RESET):
                    self._answer(client)
                    return
                if server is None:
                    return
                server.sendall(asked)
            answer = _receive(server) if server is not None and server in ready else None
            if answer == b"":
                return
            if answer:
                self._send(client, answer)

    def _send(self, client: socket.socket, answer: bytes) -> None:
        if self.fault is not Fault.DRIP:
            client.sendall(answer)
            return
        for at in range(len(answer)):
            client.sendall(answer[at : at + 1])
            time.sleep(_TICK)
            if self.fault is not Fault.DRIP or self._closing.is_set():
                client.sendall(answer[at + 1 :])
                return

    def _answer(self, client: socket.socket) -> None:
        if self.fault is Fault.RESET:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        if self.fault is Fault.GARBAGE:
            client.sendall(head + b"Content-Length: 13\r\n\r\n<html></html>")
            return
        client.settimeout(2)
        client.sendall(head + b"\r\n" + b'{"data": "')
        while self.fault is Fault.ENDLESS and not self._closing.is_set():
            client.sendall(b"x" * _CHUNK)


def _receive(connection: socket.socket) -> bytes | None:
    """Return what came, None when nothing did for a moment, and nothing at the end."""
    try:
        return connection.recv(_CHUNK)
    except TimeoutError:
        return None


@contextmanager
def faulty_proxy(port: int) -> Iterator[FaultyProxy]:
    """Run a proxy for the length of the block.

    Args:
        port: of the real server on loopback.
    """
    proxy = FaultyProxy(port)
    thread = threading.Thread(target=proxy.run, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(10)
