"""Where the files of a test's server lie."""

import os
import shutil
from pathlib import Path

# A server of the tests takes less than a tenth of it.
_LEAST_FREE_BYTES = 4 << 30


def memory() -> Path | None:
    """Return a folder in memory, where there is enough of it.

    A test's database is some 300 files, made and removed again: on a disk, a file system's search
    for free inodes is half of all that the tests do.
    """
    folder = Path("/dev/shm")
    there = folder.is_dir() and os.access(folder, os.W_OK)
    return folder if there and shutil.disk_usage(folder).free >= _LEAST_FREE_BYTES else None
