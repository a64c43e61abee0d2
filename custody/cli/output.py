"""Standard output: what can't be written there is an error of its own.

Of an OSError nobody can say later whether it was of what a command prints or of what it did. So it
is caught where it happens, below the buffers, once for all commands.
"""

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class OutputLost(Exception):
    """Standard output could not be written: the disk that it goes to is full, say."""


class ReaderGone(OutputLost):
    """Nobody reads standard output any more, as behind ``| head``."""


class _Descriptor(io.RawIOBase):
    """Standard output by its descriptor; once it has failed, it takes and forgets all.

    Else what is left in the buffers would fail again as the process ends, with a traceback.

    Args:
        number: of the descriptor.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self._lost = False

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._number

    def isatty(self) -> bool:
        """Say whether it is a terminal."""
        return os.isatty(self._number)

    def writable(self) -> bool:
        """Say that it can be written."""
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write; return how many bytes were taken.

        Raises:
            OutputLost: it can't be written.
        """
        if self._lost:
            return memoryview(data).nbytes
        try:
            return os.write(self._number, data)
        except BrokenPipeError:
            self._lost = True
            raise ReaderGone from None
        except OSError as error:
            self._lost = True
            problem = f"standard output could not be written: {error.strerror}"
            raise OutputLost(f"{problem}; what is there is not whole") from None


def guard() -> None:
    """Let standard output raise :class:`OutputLost` from now on.

    One that is closed takes nothing; one that was replaced belongs to whoever did that.
    """
    own = sys.__stdout__
    if own is None or sys.stdout is not own:
        return
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(own.fileno())),
        encoding=own.encoding,
        errors=own.errors,
        line_buffering=own.line_buffering,
    )


def forget_lost_errors() -> None:
    """Drop what standard error can't take, so that the exit code stays what it is.

    The interpreter would try again at its end, and then exit with 120.
    """
    own = sys.__stderr__
    if own is None:
        return
    try:
        own.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, own.fileno())
        os.close(nowhere)
