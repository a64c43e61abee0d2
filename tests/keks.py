"""A KEK for tests, by its URI."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from kek_backends.base import KekBackend
from kek_backends.loader import load_keyring


@asynccontextmanager
async def kek_of(uri: str, environ: Mapping[str, str]) -> AsyncIterator[KekBackend]:
    """Use a KEK for the length of the block.

    Args:
        uri: of it.
        environ: the variables that its backend reads.
    """
    keyring = load_keyring(uri, (), environ=environ, development=False)
    try:
        await keyring.active.refresh()
        yield keyring.active
    finally:
        await keyring.close()
