"""Any sequence of requests, re-wraps, KEK changes, erasures and faults, against a small model.

Hypothesis makes the sequences, and shrinks one that fails to the steps that matter.

For as long as you like: ``make prove-machine ARGS="--minutes 15"``.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from custody.development.postgres import EmbeddedPostgres
from custody.ops import health
from custody.rewrap import deep, storing, worker
from tests.client import Answer
from tests.e2e.browser import encode
from tests.e2e.vault_model import (
    CHANGES,
    LATER,
    ROUTES,
    Act,
    AuditRow,
    Ledger,
    State,
    Wrong,
    compare,
    expect,
    learn,
    orders,
)
from tests.e2e.vault_stage import Stage
from tests.servers import postgres_server

USERS = ("alice", "bob", "carol")
WRAPS = tuple((encode(bytes([n]) * 48), encode(bytes([n]) * 12)) for n in range(3))
NOBODYS_KEY = encode(b"\x55" * 32)
# What may be answered, and recorded, where the database goes away under a request.
AWAY = {"DATABASE_UNAVAILABLE", "AUDIT_UNAVAILABLE", "OUTCOME_UNKNOWN", "OVERLOADED"}
# An answer that says: it may be done all the same.
UNKNOWN = {"OUTCOME_UNKNOWN", "AUDIT_UNAVAILABLE"}

TAGS = ("none", "none", "none", "live", "any", "stale", "other")
# What leads to what is rare is more frequent.
ACTS = (*ROUTES, "key", "set_recovery", "enable_zk", "begin_rotation", "init")
FAULTS = ("database", "client", "stop")

users = st.sampled_from(USERS)
wishes = st.tuples(
    users, st.sampled_from(ACTS), st.sampled_from(TAGS), st.sampled_from(WRAPS), st.booleans()
)
Wish = tuple[str, str, str, tuple[str, str], bool]


class VaultMachine(RuleBasedStateMachine):
    """The daemon on one side, the model on the other."""

    server: EmbeddedPostgres
    folder: Path
    done: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stage = Stage(self.server, self.folder, time.time())
        self.states = dict.fromkeys(USERS, State())
        self.rows: dict[str, Counter[AuditRow]] = {user: Counter() for user in USERS}
        self.ledger: Ledger = {}
        self.is_right = True
        self._run(self.stage.open())

    def teardown(self) -> None:
        """All that is there is as it should be, and all that was given is there."""
        try:
            if self.is_right:
                self.runner.run(self._end())
        finally:
            self.runner.run(self.stage.close())
            self.runner.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self.is_right = False
        self.runner.run(work)
        self.is_right = True

    async def _end(self) -> None:
        there = [user for user in USERS if self.states[user].generation is not None]
        await self.stage.verify(there)
        for user in USERS:
            await self._do(Act(user, "key"))

    # ── what happens ──────────────────────────────────────────────────────────

    @initialize(zk=users, pending=users)
    def begin(self, zk: str, pending: str) -> None:
        """Not from nothing each time: that is a long way to what is rare."""
        for act in (
            *(Act(zk, "init"), Act(zk, "set_recovery", recovery=WRAPS[0]), Act(zk, "enable_zk")),
            *(Act(pending, "init"), Act(pending, "begin_rotation")),
        ):
            self._run(self._do(act))

    @rule(wish=wishes)
    def request(self, wish: Wish) -> None:
        self._run(self._do(self._act(wish)))

    @rule(several=st.lists(wishes, min_size=2, max_size=4))
    def requests_at_once(self, several: list[Wish]) -> None:
        self._run(self._do_at_once([self._act(wish) for wish in several]))

    @rule(wish=wishes, how=st.sampled_from(FAULTS), turns=st.integers(0, 20))
    def fault(self, wish: Wish, how: str, turns: int) -> None:
        self._run(self._break_off(self._act(wish), how, turns))

    @rule(kek=st.sampled_from("AB"), mode=st.sampled_from(("direct", "envelope")))
    def change_of_kek(self, kek: str, mode: str) -> None:
        self.done["KEK changes"] += 1
        self._run(self.stage.start(kek, mode))

    @rule(wishes=st.lists(wishes, max_size=6), is_deep=st.booleans(), batch=st.integers(1, 3))
    def rewrap(self, wishes: list[Wish], batch: int, *, is_deep: bool) -> None:
        self.done["deep rotations" if is_deep else "re-wraps"] += 1
        self._run(self.stage.rewrap(lambda: self._do_all(wishes), deep=is_deep, batch=batch))

    @rule(user=users, is_meant=st.sampled_from((False, False, False, True)))
    def erasure(self, user: str, *, is_meant: bool = True) -> None:
        if is_meant:
            self._run(self._erase(user))

    @precondition(lambda self: any(self.rows.values()))
    @rule(user=users)
    def look_at_the_audit(self, user: str) -> None:
        self._run(self._look_at_the_audit(user))

    # ── how it is judged ──────────────────────────────────────────────────────

    def _act(self, wish: Wish) -> Act:
        """Say exactly what is sent, which a wish says only by what is there."""
        user, route, tag, recovery, is_right = wish
        self.done[route] += 1
        state = self.states[user]
        live = state.generation or 7
        sent = {"none": None, "any": "*", "live": f'"{live}"', "stale": f'"{live - 1}"'}
        if_match = sent.get(tag, '"1", "2"')
        key = self.ledger.get((user, live), NOBODYS_KEY) if is_right else NOBODYS_KEY
        return Act(user, route, if_match if route in CHANGES else None, key, recovery)

    async def _do(self, act: Act) -> None:
        answer = await self.stage.send(act)
        expected = expect(self.states[act.user], act, self.ledger)
        after = compare(act, expected, answer, self.ledger)
        await self._is_left(act.user, after, [] if expected.row is None else [expected.row])

    async def _do_all(self, wishes: list[Wish]) -> None:
        for wish in wishes:
            await self._do(self._act(wish))

    async def _do_at_once(self, acts: list[Act]) -> None:
        self.done["requests at once"] += len(acts)
        answers = await asyncio.gather(*map(self.stage.send, acts))
        for user in {act.user for act in acts}:
            own = [one for one in zip(acts, answers, strict=True) if one[0].user == user]
            await self._in_some_order(user, own)

    async def _in_some_order(self, user: str, answered: list[tuple[Act, Answer]]) -> None:
        row = await self.stage.vault(user)
        for after, rows, ledger in orders(self.states[user], answered, self.ledger):
            if _as_row(after) == row:
                self.ledger.update(ledger)
                await self._is_left(user, after, rows)
                return
        said = [(act.route, act.if_match, one.status, one.code) for act, one in answered]
        raise Wrong(f"{user}: {self.states[user]} to {row} in no order of {said}")

    async def _break_off(self, act: Act, how: str, turns: int) -> None:
        self.done[f"fault: {how}"] += 1
        user, before = act.user, self.states[act.user]
        expected = expect(before, act, self.ledger)
        answer = await self.stage.break_off(act, how, turns)
        new = await self.stage.rows(user) - self.rows[user]
        if answer is not None and answer.code not in AWAY:
            # It was through before it happened.
            after = compare(act, expected, answer, self.ledger)
            await self._is_left(user, after, [] if expected.row is None else [expected.row])
        elif expected.row is not None and new == Counter([expected.row]):
            self.done["done, and nobody was told"] += 1
            if answer is not None and answer.code not in UNKNOWN:
                raise Wrong(f"{act}: done, and {answer.code} was answered")
            after = expected.after
            if after.generation == LATER:
                after = learn(after, (await self.stage.vault(user)).generation or 0)
            await self._is_left(user, after, [expected.row])
        else:
            self.done["broken off"] += 1
            if any(status != 503 for _, _, status in new):
                raise Wrong(f"{act}: not done, and its audit rows are {new}")
            if new.total() > 1:
                raise Wrong(f"{act}: two audit rows: {new}")
            await self._is_left(user, before, list(new.elements()))

    async def _erase(self, user: str) -> None:
        self.done["erasures"] += 1
        before = self.states[user]
        erased = await self.stage.erase(user)
        is_there = before.generation is not None
        assert (erased.vault, erased.user) == (is_there, is_there)
        rows: list[AuditRow] = [("erase", None, 200)] if is_there else []
        await self._is_left(user, before.erased, rows)

    async def _look_at_the_audit(self, user: str) -> None:
        await self.stage.send(Act(user, "status"))
        if self.states[user].generation is None:
            # Known to the audit alone: an erased user is no user.
            return
        shown = await self.stage.trail(user)
        says = [(one["action"], one["context"], one["status"]) for one in shown]
        assert Counter(says) == self.rows[user]
        for one in shown:
            # Of each request, by whichever way its row went to the database.
            if one["action"] != "erase":
                assert one["ipAddress"] == "127.0.0.1"
                assert one["userAgent"].startswith("Python/")

    async def _is_left(self, user: str, after: State, rows: list[AuditRow]) -> None:
        """Hold the database against what must be there now."""
        before = self.states[user]
        # It grows, whatever happens to the vault.
        assert (after.generation or after.floor) >= (before.generation or before.floor)
        self.states[user] = after
        self.rows[user].update(rows)
        self.done["steps"] += 1
        assert await self.stage.vault(user) == _as_row(after)
        assert await self.stage.rows(user) == self.rows[user]


def _as_row(state: State) -> State:
    """Return a vault as its row says it: of floors no row says anything."""
    return State(state.generation, state.previous, state.zero_knowledge, state.recovery)


# What waits for others, which in one process are there at once.
SHORT = (
    (worker, "_IDLE_SECONDS", 0.02),
    (storing, "_REST_SECONDS", 0.1),
    (deep, "_LOOK_SECONDS", 0.05),
    (health, "_RETRY_SECONDS", 0.05),
    (health, "_AGAIN_SECONDS", 0.2),
)
_EXAMPLES, _STEPS = 3, 20


def machine_on(server: EmbeddedPostgres, folder: Path) -> type[VaultMachine]:
    """Return the machine, on a server, with a count of what it has done."""
    members: dict[str, Any] = {"server": server, "folder": folder, "done": Counter()}
    return type("Machine", (VaultMachine,), members)


def play(machine: type[VaultMachine], seconds: float, number: int) -> None:
    """Play for about so long, and once at least.

    Args:
        machine: of :func:`machine_on`.
        seconds: how long.
        number: the seed of the first few sequences, one more for each of the next few.
    """
    rules = settings(
        max_examples=_EXAMPLES,
        stateful_step_count=_STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    end = time.monotonic() + seconds
    while True:
        machine.done["sequences"] += _EXAMPLES
        run_state_machine_as_test(seed(number)(machine), settings=rules)
        number += 1
        if time.monotonic() > end:
            return


def main() -> int:
    """Play for minutes, and say what was done."""
    parser = argparse.ArgumentParser(prog="make prove-machine ARGS=…")
    parser.add_argument("--minutes", type=float, default=15.0, help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="any, otherwise")
    asked = parser.parse_args()
    for module, name, seconds in SHORT:
        setattr(module, name, seconds)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    sys.stdout.write(f"seed: {asked.seed}\n")
    with postgres_server() as server, tempfile.TemporaryDirectory() as folder:
        machine = machine_on(server, Path(folder))
        try:
            play(machine, 60 * asked.minutes, asked.seed)
        finally:
            for what, count in sorted(machine.done.items()):
                sys.stdout.write(f"{count:8} {what}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
