"""The erasure record: a file beside the database that says who was erased.

A restored database can't know whom it has to forget. One JSON object a line, as ``custody audit
export`` writes the audit row of an erasure; fields that are not looked at may be there or not.
"""

import asyncio
import fcntl
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from custody import strict_json

SETTING = "CUSTODY_ERASURE_RECORD"
# About 400,000 erasures.
SIZE_LIMIT = 64 * 1024 * 1024
_ACTION = "erase"
_OWNER_ALONE = 0o600
_LOCK_SECONDS = 10.0
_LOCK_AGAIN_SECONDS = 0.05


class RecordError(Exception):
    """The erasure record is not to be relied on. The message names the cure."""


class RecordBusy(RecordError):
    """An erasure is being made at this moment."""


class Erasure(NamedTuple):
    """One line.

    Args:
        id: of the audit row.
        user_id: who was erased.
    """

    id: str
    user_id: str


class Stamp(NamedTuple):
    """What changes with the file: another file, another size, another time."""

    inode: int
    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class Record:
    """What the file says.

    Args:
        erasures: in the order of the lines.
        of_users: the same, by user.
        is_torn: whether the last line was cut off in writing. Its erasure was never made: what is
            erased is on record before.
        stamp: of the file.
    """

    erasures: tuple[Erasure, ...]
    of_users: Mapping[str, Sequence[Erasure]]
    is_torn: bool
    stamp: Stamp


def read_record(path: Path, before: Record | None = None, *, waits: bool = True) -> Record:
    """Read the record.

    Args:
        path: of the file.
        before: what was read the last time; the same again where the file has not changed.
        waits: whether a file that an erasure has locked is left for later.

    Raises:
        RecordBusy: an erasure is between its line and its COMMIT.
        RecordError: there is no such file, it can't be read, others may write it, or a line is
            none.
    """
    with _opened(path, os.O_RDONLY) as descriptor:
        try:
            # Each line that is read under the lock is of an erasure that was made, or failed.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if waits:
                raise RecordBusy(
                    f"{path}: an erasure is being made at this moment; try again"
                ) from None
        except OSError as error:
            raise _refused(path, error) from None
        stamp = _stamp(descriptor)
        if before is not None and before.stamp == stamp:
            return before
        lines, tail = _split(descriptor, path)
        erasures = [
            _parse(line, path, number) for number, line in enumerate(lines, 1) if line.strip()
        ]
        torn = bool(tail)
        if torn and (last := _erasure(tail)) is not None:
            erasures.append(last)  # it lacks its line break alone
            torn = False
        return Record(tuple(erasures), _by_user(erasures), torn, stamp)


@asynccontextmanager
async def recorded(path: Path, erasure: Erasure) -> AsyncIterator[None]:
    """Put an erasure on record, on disk, and keep the file locked for the length of the block.

    The block is its COMMIT: who reads the file waits until it is known whether that was made.

    Args:
        path: of the file; made where there is none, for its owner alone.
        erasure: what is about to be made.

    Raises:
        RecordError: it is not on record.
    """
    with _opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
        await _lock(descriptor, path)
        end = _whole(descriptor, path)
        at = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
        said = {"id": erasure.id, "at": f"{at}Z", "user": erasure.user_id, "action": _ACTION}
        try:
            os.ftruncate(descriptor, end)
            _write(descriptor, f"{json.dumps(said)}\n".encode(), end)
            os.fsync(descriptor)
            _sync_folder(path)
        except OSError as error:
            with suppress(OSError):  # else the next erasure cuts it off
                os.ftruncate(descriptor, end)
            raise _refused(path, error) from None
        yield


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        # A named pipe would wait for ever.
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, _OWNER_ALONE)
    except FileNotFoundError:
        raise RecordError(
            f"{SETTING}: there is no {path}; bring it here from where users are erased, or, where "
            f"nobody ever was, begin it, as the user who erases: touch {path}"
        ) from None
    except OSError as error:
        raise _refused(path, error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RecordError(f"{SETTING}: {path} is no file")
        if status.st_mode & stat.S_IWOTH:
            raise RecordError(
                f"{SETTING}: anybody may write {path}, and have users erased; run: chmod o-w {path}"
            )
        yield descriptor
    finally:
        os.close(descriptor)  # the lock goes with it


async def _lock(descriptor: int, path: Path) -> None:
    until = asyncio.get_running_loop().time() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if asyncio.get_running_loop().time() > until:
                raise RecordError(
                    f"{SETTING}: {path} is locked by another command; try again"
                ) from None
            await asyncio.sleep(_LOCK_AGAIN_SECONDS)
        except OSError as error:
            raise _refused(path, error) from None
        else:
            return


def _whole(descriptor: int, path: Path) -> int:
    """Return where the next line begins; a last line that is whole gets its line break."""
    lines, tail = _split(descriptor, path)
    end = sum(len(line) + 1 for line in lines)
    if not tail or _erasure(tail) is None:
        return end
    try:
        _write(descriptor, b"\n", end + len(tail))
    except OSError as error:
        raise _refused(path, error) from None
    return end + len(tail) + 1


def _split(descriptor: int, path: Path) -> tuple[list[bytes], bytes]:
    """Return the lines that end, and what is behind them."""
    try:
        size = os.fstat(descriptor).st_size
        if size > SIZE_LIMIT:
            raise RecordError(
                f"{SETTING}: {path} is over {SIZE_LIMIT >> 20} MiB; take out the lines that are "
                "older than the oldest backup that may be restored"
            )
        content = os.pread(descriptor, size, 0)
    except OSError as error:
        raise _refused(path, error) from None
    *lines, tail = content.split(b"\n")
    return lines, tail


def _parse(line: bytes, path: Path, number: int) -> Erasure:
    erasure = _erasure(line)
    if erasure is None:
        raise RecordError(
            f"{SETTING}: line {number} of {path} is no erasure, or was damaged; restore the file "
            "from where users are erased, or from its copy"
        )
    return erasure


def _erasure(line: bytes) -> Erasure | None:
    try:
        said = strict_json.decode_object(line)
        match said:
            case {"action": "erase", "id": str(id_), "user": str(user)} if id_ and user:
                # What no text of PostgreSQL can be is no user.
                return None if b"\0" in f"{id_}{user}".encode() else Erasure(id_, user)
    except ValueError:
        pass
    return None


def _by_user(erasures: Sequence[Erasure]) -> dict[str, tuple[Erasure, ...]]:
    of_users: dict[str, tuple[Erasure, ...]] = {}
    for one in erasures:
        of_users[one.user_id] = (*of_users.get(one.user_id, ()), one)
    return of_users


def _write(descriptor: int, line: bytes, at: int) -> None:
    while line:
        written = os.pwrite(descriptor, line, at)
        line, at = line[written:], at + written


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _stamp(descriptor: int) -> Stamp:
    status = os.fstat(descriptor)
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns)


def _refused(path: Path, error: OSError) -> RecordError:
    return RecordError(
        f"{SETTING}: {path}: {error.strerror}; check the path, its mode and its disk"
    )
