"""Writing to who may not read: a pipe that is full takes nothing, and keeps nobody waiting."""

import os
import select
import stat
from typing import TextIO

# A pipe, a socket or a terminal that can be written to at all takes so many bytes at once.
_PIECE = select.PIPE_BUF
_BYTES_OF_A_CHARACTER = 4


class Unread:
    """Writes to a stream what it takes now.

    The stream is left as it is: it may be another process's, too, and that one may want to wait.

    Args:
        stream: where to; a file takes everything.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._poll = _poll_of(stream)

    def write(self, text: str) -> str:
        """Write as much as can be without a wait, and return the rest.

        Raises:
            OSError, ValueError: nobody will ever read it.
        """
        if self._poll is None:
            self._put(text)
            return ""
        size = _PIECE if text.isascii() else _PIECE // _BYTES_OF_A_CHARACTER
        at = 0
        while at < len(text) and self._poll.poll(0):
            self._put(text[at : at + size])
            at += size
        return text[at:]

    def wait(self, seconds: float) -> None:
        """Wait until something can be written, or for so long."""
        if self._poll is not None:
            self._poll.poll(seconds * 1000)

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _poll_of(stream: TextIO) -> "select.poll | None":
    try:
        descriptor = stream.fileno()
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except (OSError, ValueError):  # none that the system knows
        return None
    if is_file:
        return None
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll
