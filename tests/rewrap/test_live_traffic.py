"""Many rows to another KEK while their users work: every answer is in a ledger, and at the end
every key in the database is the ledger's last."""

import asyncio
import base64
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import aiohttp
import pytest

from custody.datakeys.envelope import Envelope, UserKeyring
from custody.datakeys.ring import Ring
from custody.vault.key_check import is_master_key
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring
from tests.bindings import GENERATION
from tests.client import Answer, Client, client_session
from tests.datakeys import KEY_ID, FixedRing
from tests.db.command import custody
from tests.db.connecting import engine_of
from tests.e2e.browser import encode
from tests.leaks import remember
from tests.many_rows import copy_rows
from tests.proofs import some
from tests.rewrap.kit import opened, rows_of, stamps
from tests.sealed_rows import data_key_of
from tests.servers import Daemon, Database, daemon_beside, settings_for
from tests.tokens import Issuer

Call: TypeAlias = Callable[[], Awaitable[Answer]]

CLIENTS = 16
SEED = 20261203
# What a client rests after each answer: the worker shall have a core, too.
PAUSE_SECONDS = 0.01
LONGEST_SECONDS = 180

OLD, NEW = "env:MANA_AUTH_KEK", "env:NEXT_KEK?id=env-v2"
NEXT_KEK = encode(b"another key for a test: 32 bytes")

# What users do: how often, the action in the audit, and what one in zero-knowledge mode is refused
# with.
ACTS = {
    "key": (4, "fetch", None),
    "rotate": (2, "rotate", "ZK_ROTATE_FORBIDDEN"),
    "set": (3, "recovery_set", None),
    "clear": (1, "recovery_clear", "ZK_ACTIVE"),
    "enable": (3, "zk_enable", None),
    "disable": (2, "zk_disable", None),
    "wrong": (1, "zk_disable", "MASTER_KEY_MISMATCH"),
}
WEIGHTS = [weight for weight, _, _ in ACTS.values()]


@dataclass(frozen=True)
class Scale:
    """How large a run is.

    Args:
        users: their number, a multiple of the number of clients.
        behind: how far behind the run users are at work, in users.
        ahead: how far ahead of it.
        limits: of the command.
    """

    users: int
    behind: int
    ahead: int
    limits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Move:
    """What a run does.

    Args:
        name: of the case.
        to: URI of the active KEK; the one of before is ``OLD``.
        is_enveloped: whether rows are under the data key before.
        options: of the run.
    """

    name: str
    to: str
    is_enveloped: bool = False
    options: tuple[str, ...] = ()


ENVELOPE = f"{NEW}&mode=envelope"
DIRECT = Move("to another KEK", NEW)
INTO = Move("into envelope mode", ENVELOPE)
OUT = Move("out of envelope mode", NEW, is_enveloped=True)
SHALLOW = Move("data keys alone", ENVELOPE, is_enveloped=True)
DEEP = Move("to a new data key", ENVELOPE, is_enveloped=True, options=("--deep",))

# The small one as slow as this, so that users and the worker meet.
SMALL = Scale(1_600, 200, 0, ("--batch", "50", "--rate", "1000"))
LARGE = Scale(100_000, 1000, 500)
CASES = [(move, SMALL) for move in (DIRECT, INTO, OUT, SHALLOW, DEEP)]
AT_FULL_COUNT = [(move, LARGE) for move in (DIRECT, SHALLOW, DEEP)]
QUICK = ((INTO, SMALL),)


@dataclass
class Entry:
    """What the answers say of one user. One client alone acts for a user, so nothing is in doubt.

    Args:
        key: the live master key.
        generation: of the key.
        recovery: the recovery wrap and its IV.
        zk: whether zero-knowledge mode is on.
    """

    key: bytes = field(repr=False)
    generation: int = GENERATION
    recovery: tuple[str, str] | None = None
    zk: bool = False

    def due(self, act: str) -> tuple[int, str | None]:
        """Return the status and code that the contract's table has for an act."""
        refusal = ACTS[act][2]
        if self.zk and refusal:
            return 409, refusal
        if act == "enable" and self.recovery is None:
            return 400, "RECOVERY_WRAP_MISSING"
        return 200, None

    async def do(self, act: str, client: Client, recovery: tuple[str, str]) -> Answer:
        """Act, and learn from an answer that is no refusal."""
        calls: dict[str, Call] = {
            "key": client.key,
            "rotate": client.rotate,
            "set": partial(client.set_recovery, *recovery),
            "clear": client.clear_recovery,
            "enable": client.enable_zk,
            "disable": partial(client.disable_zk, encode(self.key)),
            "wrong": partial(client.disable_zk, encode(bytes(32))),
        }
        answer = await calls[act]()
        if answer.status == 200:
            if act == "rotate":
                self.key = base64.b64decode(answer.json["masterKey"], validate=True)
                self.generation += 1
            if act in {"rotate", "set", "clear"}:
                self.recovery = recovery if act == "set" else None
            if act in {"enable", "disable"}:
                self.zk = act == "enable"
        return answer

    def is_shown_by(self, answer: Answer) -> bool:
        """Say whether an answer with a key has this one."""
        body = answer.json
        blob = (body.get("recoveryWrappedMk"), body.get("recoveryIv"))
        shown = blob == self.recovery if self.zk else body["masterKey"] == encode(self.key)
        return shown and answer.headers["ETag"] == f'"{self.generation}"'


@dataclass
class Traffic:
    """Users at work.

    Args:
        daemon: whom they ask.
        session: how.
        scale: of the run.
        entries: of all users.
        answers: counted by action and status.
        over: set when the clients shall end.
        at: the user at which the run is, as far as we know.
    """

    daemon: Daemon
    session: aiohttp.ClientSession
    scale: Scale
    entries: list[Entry]
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    at: int = 0

    async def follow(self) -> None:
        """Follow the run: where it is at work, users shall be, too."""
        latest = "SELECT cursor_user_id FROM auth.rewrap_runs ORDER BY id DESC LIMIT 1"
        async with self.daemon.database.connect() as superuser:
            while not self.over.is_set():
                if cursor := await superuser.fetchval(latest):
                    self.at = int(cursor.removeprefix("user-"))
                await asyncio.sleep(0.05)

    async def client(self, first: int) -> None:
        """Visit user after user: every sixteenth, who has no other client."""
        dice = random.Random(f"{SEED} {first}")  # noqa: S311 - can be repeated
        visited: list[int] = []
        while not self.over.is_set():
            number = self._choose(dice, visited)
            number += first - number % CLIENTS
            visited.append(number)
            client = Client(self.daemon, self.session, name(number))
            for act in dice.choices(list(ACTS), WEIGHTS, k=dice.randint(1, 5)):
                recovery = encode(dice.randbytes(48)), encode(dice.randbytes(12))
                entry, who = self.entries[number], f"user {number}: {act}"
                due = entry.due(act)
                answer = await entry.do(act, client, recovery)
                assert (answer.status, answer.code) == due, who
                if act == "key" or (act == "rotate" and answer.status == 200):
                    assert entry.is_shown_by(answer), f"{who}: not this user's key"
                self.answers[ACTS[act][1], answer.status] += 1
                await asyncio.sleep(PAUSE_SECONDS)

    def _choose(self, dice: random.Random, visited: list[int]) -> int:
        """Anybody, somebody where the run is at work, or somebody again."""
        chance = dice.random()
        if chance < 0.2 and visited:
            return dice.choice(visited)
        if chance < 0.7:
            near = self.at + dice.randint(-self.scale.behind, self.scale.ahead)
            return min(max(near, 0), self.scale.users - 1)
        return dice.randrange(self.scale.users)


def name(number: int) -> str:
    """Return a user's id; as text they are in the order of the numbers."""
    return f"user-{number:06}"


@pytest.mark.timeout(LONGEST_SECONDS + 120)
@pytest.mark.parametrize(
    "case",
    some(
        [*CASES, *AT_FULL_COUNT],
        *QUICK,
        full=AT_FULL_COUNT,
        ids=lambda case: f"{case[0].name}, {case[1].users}",
    ),
)
async def test_no_key_is_lost_under_live_traffic(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[Move, Scale],
) -> None:
    move, scale = case
    source = random.Random(SEED)  # noqa: S311 - a test that can be repeated
    entries = [Entry(source.randbytes(32)) for _ in range(scale.users)]
    # Each request a line of the log, and each searched for secrets, every key of them: not at this
    # scale.
    monkeypatch.setattr("tests.client.remember", str)
    overrides = {"KEK": move.to, "OLD_KEKS": OLD, "raw_NEXT_KEK": remember(NEXT_KEK)}
    overrides["LOG_LEVEL"] = "warning"
    environ = settings_for(database, issuer, tmp_path, **overrides)
    keyring = load_keyring(move.to, [OLD], environ=environ, development=False)
    old = keyring.find("env-v1")
    assert old is not None
    await data_key_of(database, old)
    wraps = Envelope(FixedRing.of(), old.uri) if move.is_enveloped else old
    await copy_rows(database, wraps, [(name(n), one.key) for n, one in enumerate(entries)])
    environ["CUSTODY_REWRAP_DATABASE_URL"] = database.url("custody_rewrap")
    command = ("rewrap", "run", "--json", *scale.limits, *move.options)
    with daemon_beside(database, issuer, tmp_path, **overrides) as daemon:
        async with client_session() as session, asyncio.TaskGroup() as working:
            traffic = Traffic(daemon, session, scale, entries)
            working.create_task(traffic.follow())
            for number in range(CLIENTS):
                working.create_task(traffic.client(number))
            done = await asyncio.to_thread(custody, environ, *command, seconds=LONGEST_SECONDS)
            traffic.over.set()
    assert done.code == 0, done.err
    run = json.loads(done.out)
    assert (run["state"], run["failed"], run["unreadable"]) == ("done", 0, [])
    assert run["data_keys"] == [KEY_ID] or move is DEEP
    if move is SHALLOW:
        assert run["done"] == run["moved"] == 0
    else:
        # Users and the worker met, where there are enough of them: and nobody was overwritten.
        assert run["moved"] > 0 or scale is SMALL
        assert run["done"] > scale.users / 2
    assert {status for _, status in traffic.answers} == {200, 400, 409}
    await check_audit(database, traffic.answers)
    async with engine_of(database.url("custody_app")) as engine:
        ring = Ring(engine, keyring, ttl=3600, max_age=86_400)
        await ring.load()
        assert len(ring.open_ids) == 1
        assert (ring.open_ids != (KEY_ID,)) is (move is DEEP)
        await check_rows(database, entries, UserKeyring(keyring, ring))


async def check_audit(database: Database, answers: Counter[tuple[str, int]]) -> None:
    """One row for each answer, and one for the run."""
    rows = await database.fetch("SELECT action, status FROM auth.encryption_vault_audit")
    assert Counter(map(tuple, rows)) == answers + Counter({("rewrap_run", 200): 1})


async def check_rows(database: Database, entries: list[Entry], keyring: Keyring) -> None:
    """Unwrap all keys from the database itself, and hold them against what was answered."""
    users = {name(number): entry for number, entry in enumerate(entries)}
    live = {user: entry.key for user, entry in users.items() if not entry.zk}
    assert await stamps(database) == {(keyring.active.kek_id, 3): len(live)}
    found = await opened(database, keyring)
    assert {user for user, _ in found.items() ^ live.items()} == set()
    rows = await rows_of(database)
    assert rows.keys() == users.keys()
    for user, entry in users.items():
        row, recovery = rows[user], entry.recovery or (None, None)
        assert (row["generation"], row["zero_knowledge"]) == (entry.generation, entry.zk), user
        assert (row["recovery_wrapped_mk"], row["recovery_iv"]) == recovery, user
        assert row["quarantined_at"] is None, user
        assert is_master_key(user, entry.key, row["key_check"]), user
