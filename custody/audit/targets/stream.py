"""Syslog over TCP, in clear (RFC 6587, octet counting) or in TLS (RFC 5425).

No receiver says what it has kept: TCP acknowledges what its host's kernel has, no more. So lines
count as taken once the kernel has acknowledged them, and a connection that ends has lost the newest
of them until they are sent again: see :mod:`custody.audit.follower`.
"""

import asyncio
import fcntl
import ssl
import sys
import termios
from collections.abc import Sequence

from custody.audit.export import Line
from custody.audit.targets.syslog import message
from custody.audit.targets.target import TAKE_SECONDS, TargetDown

_LOOK_SECONDS = 0.002


class _Connection(asyncio.Protocol):
    """Notices at any time that the receiver has closed; it has nothing to say."""

    def __init__(self) -> None:
        self.problem: str | None = None

    def connection_lost(self, error: Exception | None) -> None:
        self.problem = "the connection was closed" if error is None else reason_of(error)


class SyslogStream:
    """A syslog daemon by TCP.

    Args:
        host: a name, or an address.
        port: its port.
        tls: whether it is spoken to by TLS, and must show a certificate of that name.
    """

    def __init__(self, host: str, port: int, *, tls: bool) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._connection: _Connection | None = None
        self._transport: asyncio.Transport | None = None

    async def open(self) -> None:
        """Connect; see :class:`custody.audit.targets.target.Target`."""
        self.close()
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context() if self._tls else None
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                transport, self._connection = await loop.create_connection(
                    _Connection, self._host, self._port, ssl=context
                )
        except TimeoutError:
            raise self._down(f"no answer within {TAKE_SECONDS:.0f} s") from None
        except OSError as error:
            raise self._down(reason_of(error)) from None
        self._transport = transport

    async def send(self, lines: Sequence[Line]) -> None:
        """Send each line as a message, until the kernel over there has acknowledged all."""
        self.check()
        messages = map(message, lines)
        self._opened.write(b"".join(b"%d %s" % (len(one), one) for one in messages))
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                while self._opened.get_write_buffer_size() or self._unacknowledged():
                    await asyncio.sleep(_LOOK_SECONDS)
                    self.check()
        except TimeoutError:
            raise self._down(f"it has taken nothing for {TAKE_SECONDS:.0f} s") from None

    def check(self) -> None:
        """Look whether the connection has ended."""
        if self._connection is not None and self._connection.problem is not None:
            raise self._down(self._connection.problem)

    def close(self) -> None:
        """Let go of it."""
        if self._transport is not None:
            # What it still holds is for a receiver that does not take it.
            self._transport.abort()
            self._transport = None

    @property
    def _opened(self) -> asyncio.Transport:
        if self._transport is None:
            raise self._down("not connected")
        return self._transport

    def _unacknowledged(self) -> int:
        """Return how many bytes of ours the kernel over there has not acknowledged."""
        descriptor = self._opened.get_extra_info("socket").fileno()
        # SIOCOUTQ, as tcp(7) has it, is the same number.
        return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def _down(self, problem: str) -> TargetDown:
        return TargetDown(f"syslog at {self._host}:{self._port}: {problem}")


def reason_of(error: Exception) -> str:
    """Return why a connection failed, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify: {error.verify_message}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
