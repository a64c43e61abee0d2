"""A daemon that the tests of a module share: those that leave behind nothing but their own users.

They are marked with ``SHARED``: a daemon lives on the loop that it was started on.
"""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from custody.vault import rows
from custody.vault.grouped import GroupedRows
from tests.client import Client, client_session
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Daemon]:
    """A daemon in this process on the database of the module."""
    async with daemon_here(
        module_database, issuer, tmp_path_factory.mktemp("shared"), RESET="on"
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def visitor(shared: Daemon) -> AsyncIterator[Callable[[str], Client]]:
    """Makes devices of the shared daemon: ``visitor("alice")`` is a client with alice's token."""
    async with client_session() as session:
        yield lambda user: Client(shared, session, user, auth_time=time.time())


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who went to the database, alone or with others: every way of a route there passes here."""
    opened: list[str] = []

    def count(real: Any) -> Any:
        def counted(first: Any, who: Any, *rest: Any) -> Any:
            opened.append(getattr(who, "user_id", who))
            return real(first, who, *rest)

        return counted

    for owner, name in ((rows, "user_transaction"), (GroupedRows, "read"), (GroupedRows, "record")):
        monkeypatch.setattr(owner, name, count(getattr(owner, name)))
    return opened
