"""Syslog: each line a message of RFC 5424."""

import json
import os
import re
import socket
from collections.abc import Sequence
from hashlib import sha256

from custody.audit.export import Line
from custody.audit.exported import iso, time_of
from custody.audit.targets.datagrams import Datagrams, TooLong
from custody.audit.targets.target import TargetDown

# Facility "log audit", severity "informational".
_PRIORITY = 13 * 8 + 6
# Any row that a daemon writes is shorter, in whatever letters its user agent is.
MAX_LENGTH = 16 * 1024
_MAX_HOST = 255


class SyslogSocket:
    """A syslog daemon of this host.

    Args:
        path: of its socket.
    """

    def __init__(self, path: str) -> None:
        self._socket = Datagrams(path)

    async def open(self) -> None:
        """Connect; see :class:`custody.audit.targets.target.Target`."""
        self._socket.open()

    async def send(self, lines: Sequence[Line]) -> None:
        """Make each line a message."""
        for line in lines:
            try:
                await self._socket.send(message(line))
            except TooLong:
                problem = f"{self._socket.path} takes no message of {MAX_LENGTH} bytes"
                raise TargetDown(problem) from None

    def check(self) -> None:
        """See nothing: the next datagram shows it."""

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()


def message(line: Line) -> bytes:
    """Return a line as a message, in ASCII.

    Args:
        line: of a row, whatever it holds, or of a checkpoint.
    """
    at = None if line.row is None else time_of(line.row)
    kind = "checkpoint" if line.row is None else "row"
    text = line.text if len(line.text) <= MAX_LENGTH else _instead_of(line)
    time = "-" if at is None else iso(at)
    return f"<{_PRIORITY}>1 {time} {_host()} custody {os.getpid()} {kind} - {text}".encode()


def _instead_of(line: Line) -> str:
    """Return what stands for a line that is too long: receivers would cut it, or split it."""
    digest = sha256(line.text.encode()).hexdigest()
    return json.dumps({"number": line.number, "tooLong": len(line.text), "sha256": digest})


def _host() -> str:
    return re.sub(r"[^!-~]", "?", socket.gethostname())[:_MAX_HOST] or "-"
