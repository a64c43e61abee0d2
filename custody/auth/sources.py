"""Where a JWKS document comes from: a file, bounded in size; ``http_source`` is for a URL."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from custody.auth.jwk import JwksError

# What gets a document, and its name in messages.
Source: TypeAlias = tuple[Callable[[], Awaitable[bytes]], str]

SIZE_LIMIT = 256 * 1024  # bytes of a JWKS document


def file_source(path: Path) -> Callable[[], Awaitable[bytes]]:
    """Make a source that reads the JWKS from a file, anew each time, 256 KiB at most.

    Raises:
        JwksError: by the source, whatever goes wrong.
    """

    async def fetch() -> bytes:
        return await asyncio.to_thread(_read, path)

    return fetch


def _read(path: Path) -> bytes:
    try:
        # A named pipe would block the thread for ever.
        if path.exists() and not path.is_file():
            raise JwksError(f"JWKS {path} is not a file; check CUSTODY_JWKS_FILE")
        with path.open("rb") as file:
            document = file.read(SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise JwksError(f"JWKS {path}: {reason}; check CUSTODY_JWKS_FILE and its mode") from error
    if len(document) > SIZE_LIMIT:
        raise JwksError(f"JWKS {path} is over 256 KiB; check CUSTODY_JWKS_FILE")
    return document
