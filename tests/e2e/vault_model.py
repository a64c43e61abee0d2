"""What a vault is to a user, as small as it can be said: no I/O, no cryptography, no time.

The machine in ``test_vault_machine.py`` holds every answer of a daemon against it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any, NamedTuple

from tests.client import Answer, generation_of

# The generation of a vault that was made just now: the daemon says which, and it is a later one.
LATER = -1
RENEWALS = {"rotate": "rotate", "begin_rotation": "rotation_begin", "reset": "reset"}
CHANGES = {
    **RENEWALS,
    "end_rotation": "rotation_end",
    "set_recovery": "recovery_set",
    "clear_recovery": "recovery_clear",
    "enable_zk": "zk_enable",
    "disable_zk": "zk_disable",
}
ROUTES = ("status", "key", "init", *CHANGES)

AuditRow = tuple[str, str | None, int]
# Each master key that anybody was ever given: whose, and of which generation.
Ledger = dict[tuple[str, int], str]


class Wrong(AssertionError):
    """An answer, or a row, is not what the model says."""


@dataclass(frozen=True)
class State:
    """One user's vault.

    Args:
        generation: of the live key; None: there is no vault.
        previous: the generation of the key before, while a rotation is pending.
        zero_knowledge: whether the server has given its wrap up.
        recovery: the recovery wrap and its IV.
        floor: the highest generation of a vault that was erased.
    """

    generation: int | None = None
    previous: int | None = None
    zero_knowledge: bool = False
    recovery: tuple[str, str] | None = None
    floor: int = 0

    @property
    def erased(self) -> "State":
        """What an erasure leaves."""
        return State(floor=self.floor if self.generation is None else self.generation)


@dataclass(frozen=True)
class Act:
    """One request.

    Args:
        user: whose.
        route: by the client's method.
        if_match: the header, where there is one.
        key: what turning zero-knowledge mode off hands back.
        recovery: what is set.
    """

    user: str
    route: str
    if_match: str | None = None
    key: str = field(default="", repr=False)
    recovery: tuple[str, str] = field(default=("", ""), repr=False)


class Expected(NamedTuple):
    """What comes of a request.

    Args:
        status: of the answer.
        code: of the problem.
        row: the audit row.
        after: the vault.
        shows: what the answer has: ``nothing``, ``status``, ``key``, ``blob`` or ``mode``.
    """

    status: int
    code: str | None
    row: AuditRow | None
    after: State
    shows: str = "nothing"


def expect(state: State, act: Act, ledger: Ledger) -> Expected:
    """Say what a request does, and what is answered."""
    match act.route:
        case "status":
            return Expected(200, None, None, state, "status")
        case "key" | "init":
            return _hand_out(state, act.route)
        case route:
            return _change(state, route, act, ledger)


def _hand_out(state: State, route: str) -> Expected:
    if state.generation is None and route == "key":
        failed = ("failed_fetch", "not-initialised", 404)
        return Expected(404, "VAULT_NOT_INITIALISED", failed, state)
    if state.generation is None:
        return _made(state, ("init", "created", 200))
    zero_knowledge = state.zero_knowledge
    row: AuditRow = ("fetch", "zk-recovery-blob" if zero_knowledge else None, 200)
    if route == "init":
        row = ("init", "already-exists-zk" if zero_knowledge else "already-exists", 200)
    return Expected(200, None, row, state, "blob" if zero_knowledge else "key")


def _made(state: State, row: AuditRow) -> Expected:
    return Expected(200, None, row, State(LATER, floor=state.floor), "key")


def _change(  # noqa: PLR0911, PLR0912 - a table, one case a cell
    state: State, route: str, act: Act, ledger: Ledger
) -> Expected:
    action, generation = CHANGES[route], state.generation

    def refused(status: int, code: str, context: str) -> Expected:
        return Expected(status, code, (action, context, status), state)

    def done(after: State, context: str | None = None, shows: str = "nothing") -> Expected:
        return Expected(200, None, (action, context, 200), after, shows)

    if act.if_match is not None and not _holds(act.if_match, generation):
        return refused(412, "STALE_GENERATION", "stale-generation")
    if generation is None:
        if route in RENEWALS:
            made = "created" if route == "reset" else "init-on-rotate"
            return _made(state, (action, made, 200))
        return refused(404, "VAULT_NOT_INITIALISED", "no-vault")
    match route:
        case "rotate" | "begin_rotation" if state.zero_knowledge:
            return refused(409, "ZK_ROTATE_FORBIDDEN", "zk-rotate-forbidden")
        case "rotate" if state.previous is not None:
            return refused(409, "ROTATION_PENDING", "rotation-pending")
        case "begin_rotation" if state.previous is not None:
            return done(state, "already-pending", "key")
        case "begin_rotation":
            return done(State(generation + 1, previous=generation, floor=state.floor), shows="key")
        case "rotate" | "reset":
            return done(State(generation + 1, floor=state.floor), shows="key")
        case "end_rotation":
            return done(
                replace(state, previous=None), "none-pending" if state.previous is None else None
            )
        case "set_recovery":
            return done(replace(state, recovery=act.recovery))
        case "clear_recovery" if state.zero_knowledge:
            return refused(409, "ZK_ACTIVE", "zk-active")
        case "clear_recovery":
            return done(
                replace(state, recovery=None),
                "no-recovery-wrap" if state.recovery is None else None,
            )
        case "enable_zk" if state.zero_knowledge:
            return done(state, "already-enabled", "mode")
        case "enable_zk" if state.previous is not None:
            return refused(409, "ROTATION_PENDING", "rotation-pending")
        case "enable_zk" if state.recovery is None:
            return refused(400, "RECOVERY_WRAP_MISSING", "no-recovery-wrap")
        case "enable_zk":
            return done(replace(state, zero_knowledge=True), shows="mode")
        case "disable_zk" if not state.zero_knowledge:
            return done(state, "already-disabled", "mode")
        case "disable_zk" if ledger.get((act.user, generation)) == act.key:
            return done(replace(state, zero_knowledge=False), shows="mode")
        case "disable_zk":
            return refused(409, "MASTER_KEY_MISMATCH", "master-key-mismatch")
        case _:
            raise ValueError(route)


def _holds(if_match: str, generation: int | None) -> bool:
    return generation is not None and if_match in {"*", f'"{generation}"'}


def compare(act: Act, expected: Expected, answer: Answer, ledger: Ledger) -> State:
    """Hold an answer against what was expected; return the vault, and note the keys seen.

    Raises:
        Wrong: it is another answer, or shows a key that it must not show.
    """
    if (answer.status, answer.code) != (expected.status, expected.code):
        raise Wrong(f"{act}: {answer.status} {answer.code}, expected {expected[:2]}")
    state, said = expected.after, answer.json
    match expected.shows:
        case "key" | "blob":
            state = learn(state, generation_of(answer))
            _compare_keys(act.user, state, said, ledger)
        case "status":
            _is(act, said["vaultExists"], state.generation is not None)
            _is(act, said["hasRecoveryWrap"], state.recovery is not None)
            _is(act, said["zeroKnowledge"], state.zero_knowledge)
            _is(act, said["recoverySetAt"] is not None, state.recovery is not None)
        case "mode":
            _is(act, said["zeroKnowledge"], state.zero_knowledge)
    return state


def learn(state: State, generation: int) -> State:
    """Return the vault with the generation that it is said to have.

    Raises:
        Wrong: it is not the one that it must have, or one that was there before.
    """
    if state.generation != LATER:
        if state.generation != generation:
            raise Wrong(f"generation {generation}, expected {state.generation}")
    elif generation <= state.floor:
        raise Wrong(f"generation {generation} was there before: {state.floor}")
    return replace(state, generation=generation)


def _compare_keys(user: str, state: State, said: dict[str, Any], ledger: Ledger) -> None:
    _is(user, "masterKey" in said, not state.zero_knowledge)
    if state.zero_knowledge:
        _is(user, (said["recoveryWrappedMk"], said["recoveryIv"]), state.recovery)
        return
    _note(ledger, user, state.generation, said["masterKey"])
    _is(user, "previousMasterKey" in said, state.previous is not None)
    if state.previous is not None:
        _note(ledger, user, state.previous, said["previousMasterKey"])


def _note(ledger: Ledger, user: str, generation: int | None, key: str) -> None:
    assert generation is not None
    # One generation is one key, whoever asks; and no key is anybody else's, or comes again.
    if ledger.setdefault((user, generation), key) != key:
        raise Wrong(f"{user}: generation {generation} has another key")
    if sum(one == key for one in ledger.values()) > 1:
        raise Wrong(f"{user}: the key of generation {generation} is known already")


def _is(what: object, said: object, expected: object) -> None:
    if said != expected:
        raise Wrong(f"{what}: {said!r}, expected {expected!r}")


def orders(
    state: State, answered: Iterable[tuple[Act, Answer]], ledger: Ledger
) -> Iterator[tuple[State, list[AuditRow], Ledger]]:
    """Return what one user's requests that were under way at once may have left.

    Each order in which one after the other would have been answered so is one that there may have
    been.
    """
    for order in permutations(answered):
        now, rows, seen = state, [], dict(ledger)
        try:
            for act, answer in order:
                expected = expect(now, act, seen)
                now = compare(act, expected, answer, seen)
                rows += [] if expected.row is None else [expected.row]
        except Wrong:
            continue
        yield now, rows, seen
