"""What a service manager hears: a real datagram socket, and who spoke."""

import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Message:
    """One datagram.

    Args:
        at: when it came, as ``time.monotonic`` counts.
        sender: its process.
        fields: its lines, by name.
    """

    at: float
    sender: int
    fields: dict[str, str]


@dataclass
class ServiceManager:
    """Listens; its messages grow by themselves."""

    address: str
    messages: list[Message] = field(default_factory=list)

    def said(self, name: str) -> list[Message]:
        """Return the messages that have such a line, in order."""
        return [message for message in list(self.messages) if name in message.fields]

    @property
    def status(self) -> str:
        """The last status, or nothing."""
        return next((one.fields["STATUS"] for one in reversed(self.said("STATUS"))), "")


@contextmanager
def service_manager() -> Iterator[ServiceManager]:
    """Listen for the length of the block, in a thread: a full queue would lose messages."""
    # Not pytest's tmp_path: an address of a socket has 108 bytes at most.
    with (
        tempfile.TemporaryDirectory(prefix="custody-notify-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
    ):
        manager = ServiceManager(str(Path(folder, "notify")))
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        channel.bind(manager.address)
        thread = threading.Thread(target=_listen, args=(channel, manager.messages))
        thread.start()
        try:
            yield manager
        finally:
            channel.shutdown(socket.SHUT_RD)
            thread.join()


def _listen(channel: socket.socket, messages: list[Message]) -> None:
    while True:
        text, ancillary, *_ = channel.recvmsg(8192, socket.CMSG_SPACE(_CREDENTIALS.size))
        if not text:
            return
        sender, _, _ = _CREDENTIALS.unpack(ancillary[0][2])
        fields = dict(line.partition("=")[::2] for line in text.decode().split("\n"))
        messages.append(Message(time.monotonic(), sender, fields))
