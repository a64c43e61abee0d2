"""A daemon that the tests of a module share: those that leave behind nothing but their own users.

They are marked with ``SHARED``: a daemon lives on the loop that it was started on.
"""

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from custody.development.postgres import EmbeddedPostgres
from tests.client import Client, client_session
from tests.servers import Daemon, daemon_here, new_database
from tests.tokens import Issuer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    postgres: EmbeddedPostgres, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Daemon]:
    """A daemon in this process on a database of its own."""
    folder = tmp_path_factory.mktemp("shared")
    async with new_database(postgres) as database, daemon_here(database, issuer, folder) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def visitor(shared: Daemon) -> AsyncIterator[Callable[[str], Client]]:
    """Makes devices of the shared daemon: ``visitor("alice")`` is a client with alice's token."""
    async with client_session() as session:
        yield lambda user: Client(shared, session, user)
