"""A change that another writer was faster than: decided anew on what is there now, once."""

from collections.abc import Callable
from typing import Any

import pytest

from custody.audit.events import event_id
from custody.vault.sealed_rows import SealedRows
from tests.client import Client, generation_of
from tests.http.wire import SHARED
from tests.servers import Daemon
from tests.states import act, bring

# Of each the audit rows where the vault is there after all.
CREATED = {
    "init": [("init", "created", 200), ("init", "already-exists", 200)],
    "rotate": [("rotate", "init-on-rotate", 200), ("rotate", None, 200)],
    "begin_rotation": [
        ("rotation_begin", "init-on-rotate", 200),
        ("rotation_begin", None, 200),
    ],
    "reset": [("reset", "created", 200), ("reset", None, 200)],
}
CHANGED = {
    "rotate": "with_recovery",
    "begin_rotation": "vault",
    "end_rotation": "pending",
    "reset": "zero_knowledge",
    "set_recovery": "vault",
    "clear_recovery": "with_recovery",
    "enable_zk": "with_recovery",
    "disable_zk": "zero_knowledge",
}


@SHARED
@pytest.mark.parametrize("route", CREATED)
async def test_somebody_else_has_made_the_vault(
    shared: Daemon,
    visitor: Callable[[str], Client],
    monkeypatch: pytest.MonkeyPatch,
    route: str,
) -> None:
    user, real, lost = f"made-{route}", SealedRows.create, list[bool]()

    async def create(rows: SealedRows, caller: Any, done: Any, vault: Any) -> bool:
        lost.append(await real(rows, caller, done._replace(id=event_id()), vault))
        return False

    monkeypatch.setattr(SealedRows, "create", create)
    answer = await act(visitor(user), route)
    assert (answer.status, lost) == (200, [True])
    assert await shared.database.audit(user) == CREATED[route]
    row = await shared.database.vault(user)
    assert generation_of(answer) == row["generation"]
    assert ("previousMasterKey" in answer.json) is (route == "begin_rotation")
    assert (await visitor(user).key()).json == answer.json


@SHARED
@pytest.mark.parametrize("route", CHANGED)
async def test_somebody_else_has_changed_the_vault(
    shared: Daemon,
    visitor: Callable[[str], Client],
    monkeypatch: pytest.MonkeyPatch,
    route: str,
) -> None:
    user, real, tries = f"changed-{route}", SealedRows.store, list[Any]()
    client = visitor(user)
    key = await bring(client, CHANGED[route])
    before = await shared.database.audit(user)

    async def store(rows: SealedRows, caller: Any, done: Any, after: Any) -> bool:
        tries.append(after)
        return len(tries) == 2 and await real(rows, caller, done, after)

    monkeypatch.setattr(SealedRows, "store", store)
    answer = await act(client, route, key)
    assert (answer.status, len(tries)) == (200, 2)
    ((_, context, status),) = (await shared.database.audit(user))[len(before) :]
    assert (context, status) == (None, 200)
    # A key that was made for the first try is the one of the second.
    assert tries[0].key_check == tries[1].key_check
