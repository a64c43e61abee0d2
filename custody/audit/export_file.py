"""The file of an export: gone on with behind its last whole line."""

import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from custody.audit.export import CHECKPOINT_HEAD, Format, Place

_OWNER_ALONE = 0o600


class UnfitFile(Exception):
    """A file can't be one of an export: the message names it, and says why."""


class FileLost(Exception):
    """A file could not be written: the message names it, and says why."""


class ExportFile:
    """An open file to which lines are added; nobody else adds to it meanwhile.

    Args:
        descriptor: of the file.
        path: its name.
        place: how far what is in it goes; None: it is empty.
    """

    def __init__(self, descriptor: int, path: Path, place: Place | None) -> None:
        self._descriptor, self._path, self.place = descriptor, path, place
        self._size = os.fstat(descriptor).st_size
        self._is_named = False

    @classmethod
    def open(cls, path: Path, format_: Format, mode: int = _OWNER_ALONE) -> Self:
        """Open a file, to go on behind its last whole line.

        Args:
            path: of an export of the same format, or of no file yet.
            format_: what its lines are made of.
            mode: of a file that is made, as the umask leaves it.

        Raises:
            UnfitFile: it can't be opened, is not such a file, or another export writes it.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, mode)
        except OSError as error:
            raise UnfitFile(f"{path} can't be opened: {error.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnfitFile(f"{path} is no file")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UnfitFile(f"{path}: another export writes it") from None
            return cls(descriptor, path, _place(descriptor, path, format_))
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Let others write it."""
        os.close(self._descriptor)

    def write(self, text: str) -> None:
        """Add lines.

        Raises:
            FileLost: not all of it is there; who opens it next cuts a torn line off.
        """
        left = text.encode()
        try:
            while left:
                done = os.write(self._descriptor, left)
                self._size += done
                left = left[done:]
        except OSError as error:
            raise _lost(self._path, error) from None

    def sync(self) -> None:
        """See it on disk, and its name.

        Raises:
            FileLost: it may not be there.
        """
        try:
            os.fsync(self._descriptor)
            if not self._is_named:
                sync_folder(self._path.parent)
                self._is_named = True
        except OSError as error:
            raise _lost(self._path, error) from None

    @property
    def was_cut(self) -> bool:
        """Whether somebody else has taken away what was in it."""
        return os.fstat(self._descriptor).st_size < self._size

    @property
    def was_moved(self) -> bool:
        """Whether its name leads to no file, or to another one."""
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except OSError:
            return True

    def take_back(self, text: str) -> None:
        """Cut off lines that were added last, where the file is shorter than it should be.

        Raises:
            FileLost: they are still there.
        """
        size = os.fstat(self._descriptor).st_size - len(text.encode())
        try:
            os.ftruncate(self._descriptor, max(0, size))
        except OSError as error:
            raise _lost(self._path, error) from None


@contextmanager
def export_file(path: Path, format_: Format) -> Iterator[ExportFile]:
    """Open a file for the length of the block, as :meth:`ExportFile.open` does.

    Raises:
        UnfitFile: as there.
    """
    file = ExportFile.open(path, format_)
    try:
        yield file
    finally:
        file.close()


def sync_folder(path: Path) -> None:
    """See on disk which names a folder has.

    Raises:
        OSError: it may not be there.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
            raise UnfitFile(f"{path} is no export of this format; name another file")
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


def _lost(path: Path, error: OSError) -> FileLost:
    return FileLost(f"{path} could not be written: {error.strerror}")
