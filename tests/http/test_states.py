"""The contract's state table, cell by cell, with the audit row that each leaves."""

from collections.abc import Callable

import pytest

from tests.client import Client
from tests.http.wire import SHARED
from tests.servers import Daemon
from tests.states import STATES, TABLE, act, bring


@SHARED
@pytest.mark.parametrize("route", TABLE)
@pytest.mark.parametrize("at", range(len(STATES)), ids=STATES)
async def test_cell(shared: Daemon, visitor: Callable[[str], Client], route: str, at: int) -> None:
    user = f"{route}-{at}"
    client = visitor(user)
    key = await bring(client, STATES[at])
    before = await shared.database.audit(user)
    answer = await act(client, route, key)
    status, code, action, context = TABLE[route][at]
    assert (answer.status, answer.code) == (status, code)
    assert await shared.database.audit(user) == [*before, (action, context, status)]
