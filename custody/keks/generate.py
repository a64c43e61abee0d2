"""Makes a KEK for a host that keeps it itself: 32 random bytes, to the terminal or into a file."""

import base64
import os
import secrets
from pathlib import Path

KEY_SIZE = 32

_OWNER_ALONE = 0o600


def random_key() -> bytes:
    """Return 32 random bytes, never the all-zero key, which means that no key is set."""
    while (key := secrets.token_bytes(KEY_SIZE)) == bytes(KEY_SIZE):
        pass
    return key


def as_text(key: bytes) -> str:
    """Return a key as ``env:`` and ``systemd:`` read it: standard base64."""
    return base64.b64encode(key).decode()


def write_new(path: Path, content: bytes) -> None:
    """Write a file that only its owner can use, and see it on disk.

    Args:
        path: must not exist, not even as a link: a key that is there is never overwritten.
        content: all of the file.

    Raises:
        OSError: nothing was written; a file that was begun is gone again.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, _OWNER_ALONE)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            # A umask takes rights away; without them the owner could not read it.
            os.fchmod(stream.fileno(), _OWNER_ALONE)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        _sync_folder(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
