"""A request that goes to the database alone, not with others: answered and recorded the same."""

from collections.abc import Callable
from typing import Any

import pytest

from custody.db.group_commit import NotBatched
from custody.vault.grouped import GroupedRows
from tests.client import Client
from tests.http.wire import SHARED
from tests.servers import Daemon
from tests.states import STATES, TABLE, act, bring

UNSEALED = "SELECT count(*) FROM auth.encryption_vault_audit WHERE user_id = $1 AND seal IS NULL"


@SHARED
@pytest.mark.parametrize("state", STATES)
async def test_alone(
    shared: Daemon,
    visitor: Callable[[str], Client],
    monkeypatch: pytest.MonkeyPatch,
    state: str,
) -> None:
    async def alone(*_: Any) -> Any:
        raise NotBatched

    monkeypatch.setattr(GroupedRows, "read", alone)
    monkeypatch.setattr(GroupedRows, "record", alone)
    user, at = f"alone-{state}", STATES.index(state)
    client = visitor(user)
    key = await bring(client, state)
    before = await shared.database.audit(user)
    for route in ("key", "enable_zk", "init"):
        answer = await act(client, route, key)
        status, code, action, context = TABLE[route][at]
        # What enable_zk has turned on stays on.
        if state == "with_recovery" and route == "init":
            context = "already-exists-zk"
        assert (answer.status, answer.code) == (status, code)
        before.append((action, context, status))
    assert await shared.database.audit(user) == before
    assert await shared.database.value(UNSEALED, user) == 0
    assert (await client.status()).json["vaultExists"] is True
