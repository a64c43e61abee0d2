"""Messages to the service manager: the datagrams of sd_notify(3).

Ours, since it is one datagram to one socket (ADR 11). A daemon that nobody listens to says the
same things to nobody, so there is one way through the code.
"""

import socket
import time
from collections.abc import Mapping
from typing import Self

_MICROSECONDS = 1_000_000
# systemd drops a datagram of more than 4096 bytes whole, and READY=1 with it.
_STATUS_BYTES = 2048


class Notifier:
    """What is said to the service manager, or to the supervisor of several processes.

    Nothing here waits or raises: a service manager that is busy must not block the loop.

    Args:
        channel: a connected datagram socket; None where nobody listens.
        watchdog_seconds: within which a watchdog ping is awaited, again and again; None: never.
    """

    def __init__(
        self, channel: socket.socket | None = None, watchdog_seconds: float | None = None
    ) -> None:
        self._channel = channel
        self.watchdog_seconds = watchdog_seconds
        if channel is not None:
            channel.setblocking(False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], process: int) -> Self:
        """Connect to the service manager that the variables name.

        Args:
            environ: ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are read.
            process: our process id: a watchdog of another process is not ours.
        """
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            channel.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            channel.close()
            return cls()
        return cls(channel, watchdog_seconds(environ, process))

    def ready(self, status: str) -> bool:
        """Say that the boot checks have passed, or that a reload has ended.

        Returns:
            False: the queue is full, so it was not heard and must be said again.
        """
        return self._say(f"READY=1\n{_status(status)}")

    def reloading(self) -> None:
        """Say that a reload begins; :meth:`ready` ends it."""
        moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say(f"RELOADING=1\nMONOTONIC_USEC={moment}")

    def stopping(self) -> None:
        """Say that we end."""
        self._say("STOPPING=1\nSTATUS=answering what is under way")

    def status(self, text: str) -> None:
        """Say in one line how we are."""
        self._say(_status(text))

    def alive(self) -> None:
        """Send a watchdog ping."""
        self._say("WATCHDOG=1")

    def extend_start(self, seconds: float) -> None:
        """Ask for more time before the first :meth:`ready`.

        Args:
            seconds: from now on.
        """
        self._say(f"EXTEND_TIMEOUT_USEC={int(seconds * _MICROSECONDS)}")

    def _say(self, message: str) -> bool:
        if self._channel is not None:
            try:
                self._channel.send(message.encode())
            except BlockingIOError:
                return False
            except OSError:
                pass  # nobody is there any more
        return True


def watchdog_seconds(environ: Mapping[str, str], process: int) -> float | None:
    """Return within which time the service manager awaits a watchdog ping; None: never."""
    microseconds, of = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or of not in ("", str(process)):
        return None
    return int(microseconds) / _MICROSECONDS or None


def _status(text: str) -> str:
    # What is no character, as in a path of other bytes, must not raise.
    line = " ".join(text.split()).encode(errors="replace")[:_STATUS_BYTES]
    return f"STATUS={line.decode(errors='ignore')}"
