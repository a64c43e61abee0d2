"""The seal of a row: what others compute by the description alone, and never alike for two rows."""

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from custody.datakeys.data_key import DataKey
from custody.datakeys.encoding import fields
from custody.vault.sealed_state import SealedState, digest_of
from tests.datakeys import KEY, KEY_ID
from tests.row_seals import row_message, row_seal
from tests.sealed_rows import seal_of, state_of
from tests.servers import ROOT

VECTORS: list[dict[str, Any]] = json.loads(
    (ROOT / "tests/vectors/row-seals.json").read_text("utf-8")
)
# Whatever an attacker may store; "1:0" and the like are what fields look like themselves.
TEXTS = ("", "-", "0", "1", "1:0", "1:01:1", "é", "🙂")
VALUES: tuple[tuple[Any, ...], ...] = (
    (0, 1, 11, 2**63 - 1),  # generation
    (0, 1, 11),  # serial
    (False, True),  # zero-knowledge mode
    (None, "", "-", "1:0", "ключ"),  # key check value
    (None, "", "1:0"),  # digest of the recovery wrap
    (-1, 0, 1, 10),  # its format
    (None, "0.000000", "Infinity", "-1:1"),  # its time
    (False, True),  # whether a wrap belongs here
    (None, 0, 1),  # generation of the previous key
    (None, "", "1:0"),  # digest of its wrap
)
REST: dict[str, Any] = {
    "recovery_digest": None,
    "recovery_format_version": 1,
    "recovery_set_at": None,
    "has_wrap": True,
}
PENDING = {"previous_generation", "previous_wrapped_mk", "previous_wrap_iv"}
OTHER_ID = "dk-" + "0" * 32


def states() -> Iterator[SealedState]:
    return itertools.starmap(SealedState, itertools.product(*VALUES))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda one: one["state"])
def test_vectors(vector: dict[str, Any]) -> None:
    key, key_id, row = bytes.fromhex(vector["key"]), vector["key_id"], vector["row"]
    assert row_message(key_id, row).decode() == vector["message"]
    assert row_seal(key, key_id, row) == vector["seal"]
    assert seal_of(DataKey.of(key_id, key), row) == vector["seal"]
    assert len(vector["seal"]) == 102


def test_vectors_are_of_all_kinds() -> None:
    rows = [vector["row"] for vector in VECTORS]
    assert {vector["key_id"] for vector in VECTORS} > {KEY_ID}
    assert any(not row["user_id"].isascii() for row in rows)
    for column in ("key_check", "recovery_wrapped_mk", "wrapped_mk", "set_at", *PENDING):
        assert {row[column] is None for row in rows} == {True, False}


def test_no_two_states_are_one_message() -> None:
    seen: dict[bytes, SealedState] = {}
    for state in states():
        assert seen.setdefault(state.message("alice"), state) == state


@pytest.mark.parametrize("serial", [0, 1, 9, 99, 2**63 - 2])
def test_a_seal_that_is_made_anew_is_of_the_next_serial(serial: int) -> None:
    for state in itertools.islice(states(), 0, None, 97):
        before, after = state._replace(serial=serial), state._replace(serial=serial + 1)
        sealed = before.message("żółw"), after.message("żółw")
        assert before.message_and_next("żółw") == sealed


def test_neither_are_two_users() -> None:
    dice = random.Random(15)  # noqa: S311
    seen: dict[bytes, tuple[str, int, str]] = {}
    for _ in range(20_000):
        user, check = (
            "".join(dice.choices("0123:-aé🙂", k=dice.randrange(1, 5))) for _ in range(2)
        )
        one = user, dice.randrange(200), check
        state = SealedState(one[1], 0, zero_knowledge=False, key_check=check, **REST)
        assert seen.setdefault(state.message(user), one) == one


def test_no_two_recovery_wraps_are_one_digest() -> None:
    pairs = list(itertools.product(TEXTS, TEXTS))
    assert len({digest_of(*pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda one: one["state"])
def test_each_column_is_sealed(vector: dict[str, Any]) -> None:
    key, row = DataKey.of(vector["key_id"], bytes.fromhex(vector["key"])), vector["row"]
    seals = {seal_of(key, row)}
    others = {
        "user_id": "mallory",
        "generation": row["generation"] ^ 1,
        "seal_serial": row["seal_serial"] ^ 1,
        "zero_knowledge": not row["zero_knowledge"],
        "key_check": "0" * 64,
        "recovery_wrapped_mk": "another",
        "recovery_format_version": 2,
        "set_at": "1.000000",
        "wrapped_mk": None if row["wrapped_mk"] is not None else "a wrap",
    }
    for column, value in others.items():
        seals.add(seal_of(key, row | {"recovery_iv": row["recovery_iv"] or ""} | {column: value}))
    if row["recovery_iv"] is not None:
        seals.add(seal_of(key, row | {"recovery_iv": "another"}))
        seals.add(seal_of(key, row | {"recovery_wrapped_mk": None, "recovery_iv": None}))
    expected = 1 + len(others) + (2 if row["recovery_iv"] is not None else 0)
    if row["previous_generation"] is not None:
        seals.add(seal_of(key, row | {"previous_generation": row["previous_generation"] + 1}))
        seals.add(seal_of(key, row | {"previous_wrapped_mk": "another"}))
        seals.add(seal_of(key, row | {"previous_wrap_iv": "another"}))
        seals.add(seal_of(key, row | dict.fromkeys(PENDING)))
        expected += 4
    assert len(seals) == expected
    # Which wrap there is: it is bound to the row by itself.
    if row["wrapped_mk"] is not None:
        assert seal_of(key, row | {"wrapped_mk": "another wrap"}) in seals


def test_each_data_key_seals_otherwise() -> None:
    row = VECTORS[0]["row"]
    state = state_of(row)
    keys = [DataKey.of(KEY_ID, KEY), DataKey.of(KEY_ID, bytes(32)), DataKey.of(OTHER_ID, KEY)]
    assert len({state.seal(key, row["user_id"]).rpartition(".")[2] for key in keys}) == 3


def test_the_label_comes_first_and_the_data_key_next() -> None:
    beginning = fields("custody row seal v1", KEY_ID)
    assert row_message(KEY_ID, VECTORS[0]["row"]).startswith(beginning)
