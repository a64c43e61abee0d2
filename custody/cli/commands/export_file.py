"""The file of an export: gone on with behind its last whole line."""

import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from custody.audit.export import CHECKPOINT_HEAD, Format, Place
from custody.cli.output import OutputLost

_OWNER_ALONE = 0o600


class ExportFile:
    """An open file to which lines are added.

    Args:
        descriptor: of the file.
        path: its name, for messages.
        place: how far what is in it goes; None: it is empty.
    """

    def __init__(self, descriptor: int, path: Path, place: Place | None) -> None:
        self._descriptor, self._path, self.place = descriptor, path, place

    def write(self, text: str) -> None:
        """Add lines.

        Raises:
            OutputLost: not all of it is there; the next export cuts a torn line off.
        """
        left = text.encode()
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            raise _lost(self._path, error) from None

    def sync(self) -> None:
        """See it on disk, and its name.

        Raises:
            OutputLost: it may not be there.
        """
        try:
            os.fsync(self._descriptor)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _lost(self._path, error) from None


@contextmanager
def export_file(path: Path, format_: Format) -> Iterator[ExportFile]:
    """Open a file for the length of the block, to go on behind its last whole line.

    Args:
        path: of an export of the same format, or of no file yet.
        format_: what its lines are made of.

    Raises:
        click.UsageError: it can't be opened, is not such a file, or another export writes it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, _OWNER_ALONE)
    except OSError as error:
        raise click.UsageError(f"{path} can't be opened: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise click.UsageError(f"{path} is no file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise click.UsageError(f"{path}: another export writes it") from None
        yield ExportFile(descriptor, path, _place(descriptor, path, format_))
    finally:
        os.close(descriptor)


def _place(descriptor: int, path: Path, format_: Format) -> Place | None:
    """Cut a torn line off, and return how far the whole ones go; None: there are none."""
    if not os.fstat(descriptor).st_size:
        return None
    heads = [format_.head, *([CHECKPOINT_HEAD] if format_.has_checkpoints else [])]
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
        whole = content.rfind(b"\n") + 1
        begin = content[: max(map(len, heads))]
        # Nothing is cut off a file that is not ours: of a first line that was torn a part is there.
        if not any(
            begin.startswith(head) or (not whole and head.startswith(begin)) for head in heads
        ):
            raise click.UsageError(f"{path} is no export of this format; name another file")
        row = _last_number(content, format_.head, whole)
        checkpoint = None
        if format_.has_checkpoints:
            checkpoint = _last_number(content, CHECKPOINT_HEAD, whole)
    os.ftruncate(descriptor, whole)
    if row is None and checkpoint is None:
        return None
    return Place(Place.row if row is None else row, checkpoint)


def _last_number(content: mmap.mmap, head: bytes, whole: int) -> int | None:
    """Return the number in the last whole line that begins so; in JSON no line break is another."""
    at = content.rfind(b"\n" + head, 0, whole) + 1
    if not at and not (whole and content[: len(head)] == head):
        return None
    begin = at + len(head)
    return int(content[begin : content.find(b",", begin, whole)])


def _lost(path: Path, error: OSError) -> OutputLost:
    return OutputLost(f"{path} could not be written: {error.strerror}; run it again to go on")
