"""The contract's state table, cell by cell, with the audit row that each leaves."""

from collections.abc import Callable

import pytest

from tests.client import Client, generation_of
from tests.http.wire import SHARED
from tests.proofs import some
from tests.servers import Daemon
from tests.states import STATES, TABLE, act, bring

CONDITIONAL = sorted(set(TABLE) - {"key", "init"})


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


@SHARED
@pytest.mark.parametrize("route", some(CONDITIONAL, "end_rotation", "reset"))
async def test_cell_with_a_precondition(
    shared: Daemon, visitor: Callable[[str], Client], route: str
) -> None:
    """A stale one is judged before all else, and changes nothing; with one that holds, the same."""
    for at, state in enumerate(STATES):
        user = f"conditional-{route}-{at}"
        client = visitor(user)
        key = await bring(client, state)
        status, code, action, context = TABLE[route][at]
        row = await shared.database.vault(user)
        before = await shared.database.audit(user)
        stale_tags = ['"1"', f'W/"{row.get("generation")}"', *(["*"] if key is None else [])]
        for stale in stale_tags:
            answer = await act(client, route, key, stale)
            assert (answer.status, answer.code) == (412, "STALE_GENERATION"), state
            assert await shared.database.vault(user) == row
        refused = [(action, "stale-generation", 412)] * len(stale_tags)
        assert await shared.database.audit(user) == [*before, *refused]
        if key is None:
            continue
        answer = await act(client, route, key, f'"{row["generation"]}"')
        assert (answer.status, answer.code) == (status, code), state
        after = (action, context, status)
        assert await shared.database.audit(user) == [*before, *refused, after]


@SHARED
@pytest.mark.prove
@pytest.mark.parametrize("at", range(1, len(STATES)), ids=STATES[1:])
async def test_what_each_act_leaves(
    shared: Daemon, visitor: Callable[[str], Client], at: int
) -> None:
    """Refused acts leave the row; a key before goes by its end and by a reset alone."""
    for route in TABLE:
        user = f"leaves-{route}-{at}"
        client = visitor(user)
        key = await bring(client, STATES[at])
        row = await shared.database.vault(user)
        first = await client.key()
        answer = await act(client, route, key)
        after = await shared.database.vault(user)
        if answer.status != 200:
            assert after == row, route
        is_pending = after["previous_wrapped_mk"] is not None
        was_pending = STATES[at] == "pending"
        if route in {"end_rotation", "reset"}:
            assert not is_pending, route
        elif route != "begin_rotation":
            assert is_pending is was_pending, route
        else:
            assert is_pending is (STATES[at] != "zero_knowledge")
        renews = answer.status == 200 and (
            route in {"rotate", "reset"} or (route == "begin_rotation" and not was_pending)
        )
        assert after["generation"] == row["generation"] + renews, route
        if not renews and not after["zero_knowledge"] and STATES[at] != "zero_knowledge":
            assert (await client.key()).json["masterKey"] == first.json["masterKey"]
            assert generation_of(await client.key()) == generation_of(first)
