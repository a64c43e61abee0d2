"""The daemon against the model of ``vault_model.py``: a little of everything, and then anything."""

import secrets
from pathlib import Path
from random import Random

import pytest

from custody.development.postgres import EmbeddedPostgres
from tests.e2e.vault_machine import (
    ACTS,
    FAULTS,
    SHORT,
    TAGS,
    USERS,
    WRAPS,
    VaultMachine,
    Wish,
    machine_on,
    play,
)

PROVE_SECONDS = 10.0


@pytest.fixture
def machine(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> type[VaultMachine]:
    for module, name, seconds in SHORT:
        monkeypatch.setattr(module, name, seconds)
    return machine_on(postgres, tmp_path)


def test_a_little_of_everything(machine: type[VaultMachine]) -> None:
    """The same each time: every rule of the machine, between requests one by one and at once."""
    dice = Random(20)  # noqa: S311 - can be repeated

    def wish(user: str | None = None) -> Wish:
        drawn = (dice.choice(choices) for choices in (USERS, ACTS, TAGS, WRAPS))
        anyone, *rest = drawn
        return (user or anyone, *rest, dice.random() < 0.7)  # type: ignore[return-value]

    playing = machine()
    try:
        playing.begin("alice", "bob")
        for how in FAULTS:
            for _ in range(15):
                playing.request(wish())
            playing.requests_at_once([wish("carol") for _ in range(3)])
            playing.fault(("carol", dice.choice(ACTS), "none", WRAPS[0], True), how, 6)
        playing.change_of_kek("B", "envelope")
        playing.rewrap([wish() for _ in range(6)], 2, is_deep=True)
        playing.erasure("bob")
        for user in USERS:
            playing.request(wish(user))
            playing.look_at_the_audit(user)
    finally:
        playing.teardown()
    assert machine.done["steps"] > 60


@pytest.mark.prove
@pytest.mark.timeout(300)
def test_anything(machine: type[VaultMachine]) -> None:
    number = secrets.randbits(32)
    print(f"seed: {number}")  # noqa: T201 - shown where it fails
    play(machine, PROVE_SECONDS, number)
