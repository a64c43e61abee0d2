"""Reads a file that holds a key, if it is one that nobody else may use."""

import os
import stat
from pathlib import Path

from kek_backends.errors import Misconfigured
from kek_backends.key_text import MAX_SIZE

_OTHERS = 0o007
_ABSENT = "does not exist; correct the path, or restore the file from your copy"


def read_key_file(path: Path, named: str, *, absent: str = _ABSENT) -> bytes:
    """Return what a key file holds; at most one byte more than a key may have.

    The bits of the group may be set: where systemd gives access by an ACL, they show the mask of
    that ACL.

    Args:
        path: of a regular file, which others may not use at all.
        named: how a message begins, up to the path.
        absent: how it goes on where there is no such file.

    Raises:
        Misconfigured: in one line with the cure.
    """
    try:
        # Without O_NONBLOCK a FIFO would hold the boot until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Asked of the open file, not of its name: that could be another file by now.
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise Misconfigured(f"{named} is a folder: name the file in it that holds the key")
            if not stat.S_ISREG(mode):
                raise Misconfigured(f"{named} is not a regular file")
            if mode & _OTHERS:
                raise Misconfigured(
                    f"{named} has mode {stat.S_IMODE(mode):04o}: others may use it; "
                    "run chmod 400 on it, or 600"
                )
            return os.read(descriptor, MAX_SIZE + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise Misconfigured(f"{named} {absent}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise Misconfigured(f"{named} can't be read: {reason}") from None
