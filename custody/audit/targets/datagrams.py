"""Datagrams to a unix socket: whole or not at all, and in their order."""

import asyncio
import errno
import os
import socket

from custody.audit.targets.target import TAKE_SECONDS, TargetDown, TargetUnfit

_PAUSE_SECONDS = 0.05


class TooLong(Exception):
    """A datagram is longer than the socket takes."""


class Datagrams:
    """A connection to a socket of datagrams.

    A full queue of the receiver holds us up, and loses nothing. That it has closed its socket shows
    at the next datagram.

    Args:
        path: of the socket.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Connect.

        Raises:
            TargetUnfit: it is no socket of datagrams.
            TargetDown: nobody listens there.
        """
        self.close()
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        made.setblocking(False)
        try:
            made.connect(self.path)
        except OSError as error:
            made.close()
            if error.errno == errno.EPROTOTYPE:
                raise TargetUnfit(f"{self.path} is no socket of datagrams") from None
            raise self._down(error) from None
        self._socket = made

    async def send(self, data: bytes) -> None:
        """Send one.

        Raises:
            TooLong: it is not sent, and never can be.
            TargetDown: it is not sent now.
        """
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                await asyncio.get_running_loop().sock_sendall(self._opened, data)
        except TimeoutError:
            raise self._stuck() from None
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise TooLong from None
            raise self._down(error) from None

    async def hand_over(self, descriptor: int) -> None:
        """Send an empty one with a descriptor.

        Raises:
            TargetDown: it is not sent now.
        """
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                while True:
                    try:
                        socket.send_fds(self._opened, [b""], [descriptor])
                    except BlockingIOError:
                        await asyncio.sleep(_PAUSE_SECONDS)
                    else:
                        return
        except TimeoutError:
            raise self._stuck() from None
        except OSError as error:
            raise self._down(error) from None

    def close(self) -> None:
        """Let go of it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @property
    def _opened(self) -> socket.socket:
        if self._socket is None:
            raise TargetDown(f"{self.path} is not open")
        return self._socket

    def _stuck(self) -> TargetDown:
        return TargetDown(f"{self.path} has taken nothing for {TAKE_SECONDS:.0f} s")

    def _down(self, error: OSError) -> TargetDown:
        return TargetDown(f"{self.path}: {os.strerror(error.errno or 0)}")
