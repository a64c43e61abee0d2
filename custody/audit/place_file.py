"""Where a follower keeps how far it is, for targets that can't say it, or can't always."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from custody.audit.export import Place
from custody.audit.export_file import sync_folder
from custody.audit.targets.target import TargetUnfit

_OWNER_ALONE = 0o600
_LONGEST = 64 * 1024


class PlaceFile:
    """A file with a place in it, which is there whole or as it was before.

    Args:
        path: its name.
        target: whose place it is; that of another target counts as none.
    """

    def __init__(self, path: Path, target: str) -> None:
        self._path, self._target = path, target

    def read(self) -> Place | None:
        """Return the place; None: there is none of this target.

        Raises:
            TargetUnfit: something else is in the file.
        """
        try:
            with self._path.open("rb") as file:
                content = file.read(_LONGEST)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TargetUnfit(f"{self._path} can't be read: {error.strerror}") from None
        try:
            found = json.loads(content)
            target, row, checkpoint = found["target"], found["row"], found["checkpoint"]
            if type(row) is not int or type(checkpoint) not in (int, type(None)):
                raise TypeError
        except (ValueError, LookupError, TypeError):
            problem = "says no place of an export; take it away, and all rows are sent again"
            raise TargetUnfit(f"{self._path} {problem}") from None
        return Place(row, checkpoint) if target == self._target else None

    def write(self, place: Place) -> None:
        """Keep a place.

        Raises:
            OSError: the one before is there still.
        """
        said = {"target": self._target, "row": place.row, "checkpoint": place.checkpoint}
        new = self._path.with_name(f"{self._path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, _OWNER_ALONE), "wb") as file:
            file.write(f"{json.dumps(said)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._path)
        sync_folder(self._path.parent)


@contextmanager
def place_file(path: Path, target: str) -> Iterator[PlaceFile]:
    """Keep other followers away from a place for the length of the block.

    Args:
        path: of the file; beside it ``PATH.lock`` and ``PATH.new`` are made.
        target: whose place it is.

    Raises:
        TargetUnfit: another follower has it, or the folder can't be written.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ALONE)
    except OSError as error:
        raise TargetUnfit(f"{lock} can't be opened: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TargetUnfit(f"{path}: another follower goes by it") from None
        yield PlaceFile(path, target)
    finally:
        os.close(descriptor)
