"""A raw server on loopback whose answers are written byte by byte, as the test says."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

Answer = Callable[["Connection"], None]


class Connection:
    """One connection: an answer writes to it, and sees here when the client is gone."""

    def __init__(self, peer: socket.socket, server: "RawServer") -> None:
        self._peer = peer
        self._server = server

    def send(self, data: bytes) -> None:
        self._peer.sendall(data)
        self._server.sent += len(data)

    def drip(self, data: bytes, pause: float = 0.02) -> None:
        for byte in data:
            self.send(bytes([byte]))
            time.sleep(pause)

    def hear(self) -> bool:
        """Read one request without a body; False at the end of the connection."""
        heard = b""
        while not heard.endswith(b"\r\n\r\n"):
            part = self._peer.recv(4096)
            if not part:
                return False
            heard += part
        return True


class RawServer:
    """Answers each request of each connection by the same function."""

    def __init__(self, answer: Answer) -> None:
        self.connections = 0
        self.sent = 0
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._peers: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def run(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._peers.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,))
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        # A thread that waits in accept() or recv() is woken by this, not by close().
        for each in (self._listener, *self._peers):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _serve(self, peer: socket.socket) -> None:
        peer.settimeout(10)
        with peer, contextlib.suppress(OSError):
            connection = Connection(peer, self)
            while connection.hear():
                self._answer(connection)


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[RawServer]:
    """Run a server for the length of the block."""
    server = RawServer(answer)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(10)
