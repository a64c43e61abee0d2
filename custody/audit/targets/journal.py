"""The journal of systemd, by its native protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.

Ours, since it is a few lines: the bindings of libsystemd need its headers to build (ADR 11).
"""

import fcntl
import os
from collections.abc import Iterator, Sequence

from custody.audit.export import Line
from custody.audit.targets.datagrams import Datagrams, TooLong

SOCKET = "/run/systemd/journal/socket"
# Facility "log audit", severity "informational".
_FACILITY, _SEVERITY = "13", "6"
# So that nobody can change what the journal maps.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class JournalTarget:
    """The journal of this host.

    Args:
        path: of its socket.
    """

    def __init__(self, path: str = SOCKET) -> None:
        self._socket = Datagrams(path)

    async def open(self) -> None:
        """Connect; see :class:`custody.audit.targets.target.Target`."""
        self._socket.open()

    async def send(self, lines: Sequence[Line]) -> None:
        """Make each line an entry."""
        for line in lines:
            data = entry(line)
            try:
                await self._socket.send(data)
            except TooLong:
                await self._send_as_file(data)

    def check(self) -> None:
        """See nothing: the next datagram shows it."""

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()

    async def _send_as_file(self, data: bytes) -> None:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        with os.fdopen(os.memfd_create("custody-audit", flags), "wb", buffering=0) as memory:
            left = memoryview(data)
            while left:
                left = left[memory.write(left) :]
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            await self._socket.hand_over(memory.fileno())


def entry(line: Line) -> bytes:
    """Return a line as an entry of the journal.

    Args:
        line: of a row, whatever it holds, or of a checkpoint.
    """
    return b"".join(
        # Each with its length in front: what is in a row ends no field, and begins none.
        b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
        for name, value in ((name, text.encode()) for name, text in _fields(line))
    )


def _fields(line: Line) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", line.text
    yield "PRIORITY", _SEVERITY
    yield "SYSLOG_FACILITY", _FACILITY
    yield "SYSLOG_IDENTIFIER", "custody-audit"
    if line.row is None:
        yield "CUSTODY_AUDIT_CHECKPOINT", str(line.number)
        return
    yield "CUSTODY_AUDIT_NUMBER", str(line.number)
    yield "CUSTODY_AUDIT_ID", line.row["id"]
    yield "CUSTODY_AUDIT_USER", line.row["user_id"]
    yield "CUSTODY_AUDIT_ACTION", line.row["action"]
