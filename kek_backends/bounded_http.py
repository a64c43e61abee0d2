"""HTTP answers that end: by an absolute deadline, and within a bounded size.

The timeouts of urllib3, and so of requests and botocore, bound each read of the socket, not the
whole answer: a server that sends a byte now and then holds its thread for ever. Here every read
is bounded by what is left until the deadline, headers included.
"""

import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import urllib3

MAX_ANSWER_SIZE = 512 * 1024

_thread = threading.local()


@contextmanager
def deadline(until: float) -> Iterator[None]:
    """Bound every answer that this thread reads inside the block.

    Args:
        until: as ``time.monotonic()`` counts, in seconds.
    """
    before = getattr(_thread, "until", None)
    _thread.until = until
    try:
        yield
    finally:
        _thread.until = before


def bind(manager: "urllib3.PoolManager") -> "dict[str, type[urllib3.HTTPConnectionPool]]":
    """Make all connections of a pool manager read bounded answers.

    Args:
        manager: it may have any pool classes of its own.

    Returns:
        The pool classes by scheme, for the manager's proxies.
    """
    bounded = {scheme: _bounded(pool) for scheme, pool in manager.pool_classes_by_scheme.items()}
    manager.pool_classes_by_scheme = bounded
    return bounded


def _bounded(pool: Any) -> Any:
    connection = type("Connection", (pool.ConnectionCls,), {"response_class": _Response})
    return type("Pool", (pool,), {"ConnectionCls": connection})


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        # Nothing was read ahead yet. The raw file keeps the socket open as long as it lives.
        self.fp = _Buffer(_Reader(sock, self.fp.detach()))


class _Buffer(io.BufferedReader):
    """Takes no memory for more than may come, whatever length the answer or a chunk announces."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(_possible(size))

    def read1(self, size: int = -1, /) -> bytes:
        return super().read1(_possible(size))


def _possible(size: int | None) -> int:
    if size is not None and size > MAX_ANSWER_SIZE:
        raise OSError("the answer is too large")
    return -1 if size is None else size


class _Reader(io.RawIOBase):
    """The raw side of a socket's file, with a deadline and a budget of bytes."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._until: float | None = getattr(_thread, "until", None)
        self._left = MAX_ANSWER_SIZE

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._until is not None:
            seconds = self._until - time.monotonic()
            if seconds <= 0:
                raise TimeoutError("the answer did not end in time")
            self._sock.settimeout(seconds)
        count = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise OSError("the answer is too large")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
