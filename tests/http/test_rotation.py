"""A rotation that loses nothing, and beginning again: what clients see, and what a thief gets."""

import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tests.client import Client, client_session, generation_of, tag_of
from tests.http.wire import SHARED
from tests.sealed_rows import past_triggers
from tests.servers import Daemon, Database, daemon_here
from tests.states import IV, OTHER_KEY, WRAPPED
from tests.tokens import Issuer

ROW = "SELECT * FROM auth.encryption_vaults WHERE user_id = $1"
PREVIOUS = ("previous_wrapped_mk", "previous_wrap_iv", "previous_generation")
Visitor = Callable[[str], Client]


@SHARED
async def test_both_keys_until_the_client_is_done(visitor: Visitor) -> None:
    alice = visitor("both")
    first = await alice.init()
    assert "previousMasterKey" not in first.json
    await alice.set_recovery(WRAPPED, IV)
    begun = await alice.begin_rotation(tag_of(first))
    assert begun.json["previousMasterKey"] == first.json["masterKey"] != begun.json["masterKey"]
    assert generation_of(begun) == generation_of(first) + 1
    # An answer that was lost costs nothing.
    for answer in (await alice.begin_rotation(), await alice.key(), await alice.init()):
        assert (answer.json, tag_of(answer)) == (begun.json, tag_of(begun))
    assert not (await alice.status()).json["hasRecoveryWrap"]
    # What was judged first.
    assert (await alice.rotate(tag_of(first))).code == "STALE_GENERATION"
    assert (await alice.end_rotation(tag_of(first))).code == "STALE_GENERATION"
    assert (await alice.begin_rotation(tag_of(first))).code == "STALE_GENERATION"
    assert (await alice.rotate()).code == (await alice.enable_zk()).code == "ROTATION_PENDING"
    # A recovery wrap of the new key stays.
    assert (await alice.set_recovery(WRAPPED, IV)).status == 200
    for _ in range(2):
        assert (await alice.end_rotation(tag_of(begun))).json == {"ok": True}
    after = await alice.key()
    assert "previousMasterKey" not in after.json
    assert after.json["masterKey"] == begun.json["masterKey"]
    assert (await alice.status()).json["hasRecoveryWrap"]
    assert (await alice.enable_zk()).status == 200


@SHARED
async def test_begin_again_in_any_state(visitor: Visitor) -> None:
    alice = visitor("again")
    first = await alice.init()
    begun = await alice.begin_rotation()
    assert (await alice.reset(tag_of(first))).code == "STALE_GENERATION"
    again = await alice.reset(tag_of(begun))
    assert "previousMasterKey" not in again.json
    assert generation_of(again) == generation_of(begun) + 1
    await alice.set_recovery(WRAPPED, IV)
    await alice.enable_zk()
    last = await alice.reset()
    assert generation_of(last) == generation_of(again) + 1
    assert (await alice.key()).json == last.json
    assert not (await alice.status()).json["zeroKnowledge"]
    for body in ({}, {"confirm": "yes"}, {"confirm": "destroy", "more": 1}, {"confirm": True}):
        assert (await alice.call("POST", "/reset", body)).status == 400


async def test_reset_is_no_path_of_ours_unless_it_is_on(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with daemon_here(database, issuer, tmp_path) as daemon, client_session() as session:
        alice = Client(daemon, session, "alice", auth_time=time.time())
        assert (await alice.reset()).code == "NOT_FOUND"
        assert (await alice.call("GET", "/reset")).code == "NOT_FOUND"
        # Without a step-up that is set, the rest asks for no fresh login.
        assert (await Client(daemon, session, "bob").begin_rotation()).status == 200


@SHARED
@pytest.mark.parametrize("age", [None, 400])
async def test_reset_always_needs_a_fresh_login(shared: Daemon, age: int | None) -> None:
    claims = {} if age is None else {"auth_time": time.time() - age}
    async with client_session() as session:
        answer = await Client(shared, session, "stale", **claims).reset()
    assert answer.code == "STEP_UP_REQUIRED"
    assert 'max_age="300"' in answer.headers["WWW-Authenticate"]


TAMPERINGS: dict[str, str] = {
    "taken away": "previous_wrapped_mk = NULL, previous_wrap_iv = NULL, previous_generation = NULL",
    "garbled": "previous_wrapped_mk = reverse(previous_wrapped_mk)",
    "another generation": "previous_generation = previous_generation - 1",
    "swapped": "wrapped_mk = previous_wrapped_mk, previous_wrapped_mk = wrapped_mk,"
    " wrap_iv = previous_wrap_iv, previous_wrap_iv = wrap_iv",
    "of another user": "(previous_wrapped_mk, previous_wrap_iv) = (SELECT previous_wrapped_mk,"
    " previous_wrap_iv FROM auth.encryption_vaults WHERE user_id = 'other')",
    "an old one": "previous_wrapped_mk = $2, previous_wrap_iv = $3, previous_generation = $4",
}


@SHARED
@pytest.mark.parametrize("how", TAMPERINGS)
async def test_nobody_changes_the_key_before(shared: Daemon, visitor: Visitor, how: str) -> None:
    database, user = shared.database, f"tampered {how}"
    alice, other = visitor(user), visitor("other")
    await alice.init()
    await other.init()
    await other.begin_rotation()
    await alice.begin_rotation()
    old = (await database.fetch(ROW, user))[0]
    await alice.end_rotation()
    begun = await alice.begin_rotation()
    parameters = [old[name] for name in PREVIOUS] if how == "an old one" else []
    async with past_triggers(database) as thief:
        await thief.execute(
            f"UPDATE auth.encryption_vaults SET {TAMPERINGS[how]} WHERE user_id = $1",  # noqa: S608
            *(user, *parameters),
        )
    answers = [await alice.status(), await alice.key(), await alice.begin_rotation()]
    answers += [await alice.end_rotation(), await alice.rotate(), await alice.reset()]
    assert [answer.code for answer in answers] == ["ROW_TAMPERED"] * 6
    assert begun.status == 200


@SHARED
async def test_what_does_not_open_is_not_kept(shared: Daemon, visitor: Visitor) -> None:
    """Only rotate and reset give it up; a pending one is ended first."""
    alice = visitor("damaged")
    await alice.init()
    begun = await alice.begin_rotation()
    async with past_triggers(shared.database) as thief:
        await thief.execute(
            "UPDATE auth.encryption_vaults SET wrapped_mk = reverse(wrapped_mk) WHERE user_id = $1",
            "damaged",
        )
    for answer in (await alice.key(), await alice.begin_rotation()):
        assert answer.code == "ROW_TAMPERED"
    assert (await alice.rotate()).code == "ROTATION_PENDING"
    assert (await alice.end_rotation(tag_of(begun))).status == 200
    assert (await alice.begin_rotation()).code == "ROW_TAMPERED"
    healed = await alice.rotate()
    assert (await alice.key()).json == healed.json


@SHARED
async def test_an_end_that_comes_late(visitor: Visitor) -> None:
    """Of a rotation that was ended: with its tag it is refused, without one it ends the next."""
    alice = visitor("late")
    await alice.init()
    first = await alice.begin_rotation()
    assert (await alice.end_rotation(tag_of(first))).status == 200
    # Its answer was lost, and another device has begun the next one: sent again.
    second = await alice.begin_rotation(tag_of(first))
    assert (await alice.end_rotation(tag_of(first))).code == "STALE_GENERATION"
    assert (await alice.key()).json == second.json
    # What docs/how-to/rotate-a-master-key.md warns of.
    assert (await alice.end_rotation()).status == 200
    assert "previousMasterKey" not in (await alice.key()).json


@SHARED
async def test_zero_knowledge_mode_and_rotations_keep_apart(
    shared: Daemon, visitor: Visitor
) -> None:
    alice = visitor("apart")
    await alice.init()
    begun = await alice.begin_rotation()
    await alice.set_recovery(WRAPPED, IV)
    assert (await alice.enable_zk(tag_of(begun))).code == "ROTATION_PENDING"
    # Off it is already; no key is taken from anybody.
    assert (await alice.disable_zk(OTHER_KEY)).status == 200
    assert (await alice.key()).json == begun.json
    assert (await alice.clear_recovery()).status == 200
    assert (await alice.end_rotation()).status == 200
    assert (await alice.enable_zk()).code == "RECOVERY_WRAP_MISSING"
    await alice.set_recovery(WRAPPED, IV)
    assert (await alice.enable_zk()).status == 200
    for _ in range(2):
        assert (await alice.begin_rotation()).code == "ZK_ROTATE_FORBIDDEN"
        assert (await alice.end_rotation()).json == {"ok": True}
    assert (await alice.disable_zk(begun.json["masterKey"])).status == 200
    again = await alice.begin_rotation(tag_of(begun))
    assert again.json["previousMasterKey"] == begun.json["masterKey"]
    # Whoever writes the table brings them together in vain.
    async with past_triggers(shared.database) as thief:
        with pytest.raises(asyncpg.CheckViolationError):
            await thief.execute(
                "UPDATE auth.encryption_vaults SET zero_knowledge = true, wrapped_mk = NULL,"
                " wrap_iv = NULL, recovery_wrapped_mk = 'r', recovery_iv = 'i'"
                " WHERE user_id = 'apart'"
            )
