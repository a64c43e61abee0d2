"""Many rows to another KEK while their users work: every answer is in a ledger, and at the end
every key in the database is the ledger's last."""

import asyncio
import base64
import contextlib
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from custody.vault.key_check import is_master_key
from kek_backends.base import Wrap
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring
from tests.client import Answer, client_session, generation_of
from tests.e2e.browser import encode
from tests.forked import Forked
from tests.leaks import LOGS, remember
from tests.many_rows import copy_rows
from tests.servers import (
    Daemon,
    Database,
    daemon_beside,
    settings_for,
)
from tests.tokens import Issuer

CLIENTS = 16
SEED = 20261203
# What a client rests after each answer: the worker shall have a core, too.
PAUSE_SECONDS = 0.01
LONGEST_SECONDS = 180

OLD, NEW = "env:MANA_AUTH_KEK", "env:NEXT_KEK?id=env-v2"
NEXT_KEK = encode(b"another key for a test: 32 bytes")

ACTS = {"key": 4, "rotate": 2, "set": 3, "clear": 1, "enable": 3, "disable": 2, "wrong": 1}
ACTIONS = {
    "key": "fetch",
    "rotate": "rotate",
    "set": "recovery_set",
    "clear": "recovery_clear",
    "enable": "zk_enable",
    "disable": "zk_disable",
    "wrong": "zk_disable",
}


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


# The small one as slow as this, so that users and the worker meet.
SMALL = Scale(3_200, 400, 0, ("--batch", "100", "--rate", "2000"))
LARGE = Scale(100_000, 1000, 500)


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
    generation: int = 1
    recovery: tuple[str, str] | None = None
    zk: bool = False

    def due(self, act: str) -> tuple[int, str | None]:
        """Return the status and code that the contract's table has for an act."""
        if self.zk:
            refused = {
                "rotate": "ZK_ROTATE_FORBIDDEN",
                "clear": "ZK_ACTIVE",
                "wrong": "MASTER_KEY_MISMATCH",
            }
            return (409, refused[act]) if act in refused else (200, None)
        if act == "enable" and self.recovery is None:
            return 400, "RECOVERY_WRAP_MISSING"
        return 200, None


class Ledger:
    """Everything that was answered.

    Args:
        keys: of all users, as they were before.
    """

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = keys
        self.entries: dict[int, Entry] = {}
        self.answers: Counter[tuple[str, int]] = Counter()
        self.problems: list[str] = []

    def entry(self, number: int) -> Entry:
        """Return what is known of a user."""
        return self.entries.setdefault(number, Entry(self.keys[number]))


@dataclass
class Traffic:
    """What the clients share.

    Args:
        daemon: whom they ask.
        ledger: where they write.
        scale: of the run.
        over: set when they shall end.
        at: the user at which the run is, as far as we know.
    """

    daemon: Daemon
    ledger: Ledger
    scale: Scale
    over: asyncio.Event = field(default_factory=asyncio.Event)
    at: int = 0

    async def follow(self, database: Database) -> None:
        """Follow the run: where it is at work, users shall be, too."""
        async with database.connect() as superuser:
            while True:
                cursor = await superuser.fetchval(
                    "SELECT cursor_user_id FROM auth.rewrap_runs ORDER BY id DESC LIMIT 1"
                )
                if cursor:
                    self.at = int(cursor.removeprefix("user-"))
                await asyncio.sleep(0.05)


class Device:
    """A client: it acts for every sixteenth user, and is the only one who does."""

    def __init__(self, number: int, traffic: Traffic, session: aiohttp.ClientSession) -> None:
        self._number = number
        self._traffic = traffic
        self._session = session
        self._random = random.Random(f"{SEED} {number}")  # noqa: S311 - can be repeated
        self._visited: list[int] = []

    async def run(self) -> None:
        """Visit user after user."""
        while not self._traffic.over.is_set():
            user = self._choose()
            self._visited.append(user)
            for _ in range(self._random.randint(1, 5)):
                await self._act(user, self._random.choices(list(ACTS), list(ACTS.values()))[0])
                await asyncio.sleep(PAUSE_SECONDS)

    def _choose(self) -> int:
        """Anybody, somebody where the run is at work, or somebody again."""
        chance = self._random.random()
        if chance < 0.2 and self._visited:
            return self._random.choice(self._visited)
        scale = self._traffic.scale
        at = self._random.randrange(scale.users)
        if chance < 0.7:
            near = self._traffic.at + self._random.randint(-scale.behind, scale.ahead)
            at = min(max(near, 0), scale.users - 1)
        return at - at % CLIENTS + self._number

    async def _act(self, number: int, act: str) -> None:
        ledger = self._traffic.ledger
        entry = ledger.entry(number)
        recovery = encode(self._random.randbytes(48)), encode(self._random.randbytes(12))
        due = entry.due(act)
        answer = await self._ask(number, act, entry, recovery)
        failed = act == "key" and answer.status != 200
        ledger.answers["failed_fetch" if failed else ACTIONS[act], answer.status] += 1
        if (answer.status, answer.code) != due:
            ledger.problems.append(f"user {number}: {act}: {answer.status} {answer.code}")
        elif answer.status == 200:
            self._learn(number, act, answer, recovery)

    def _learn(self, number: int, act: str, answer: Answer, recovery: tuple[str, str]) -> None:
        entry, body = self._traffic.ledger.entry(number), answer.json
        if act == "rotate":
            entry.key = _decode(body["masterKey"])
            entry.generation += 1
            entry.recovery = None
        elif act == "set":
            entry.recovery = recovery
        elif act == "clear":
            entry.recovery = None
        elif act == "enable":
            entry.zk = True
        elif act == "disable":
            entry.zk = False
        if act in {"key", "rotate"} and not self._is_right(entry, answer):
            self._traffic.ledger.problems.append(f"user {number}: {act}: not this user's key")

    def _is_right(self, entry: Entry, answer: Answer) -> bool:
        body = answer.json
        shown = (
            (body.get("recoveryWrappedMk"), body.get("recoveryIv")) == entry.recovery
            if entry.zk
            else _decode(body["masterKey"]) == entry.key
        )
        return shown and generation_of(answer) == entry.generation

    async def _ask(self, number: int, act: str, entry: Entry, recovery: tuple[str, str]) -> Answer:
        wrong = bytes(32) if act == "wrong" else entry.key
        calls: dict[str, tuple[str, str, dict[str, Any] | None]] = {
            "key": ("GET", "/key", None),
            "rotate": ("POST", "/rotate", None),
            "set": (
                "POST",
                "/recovery-wrap",
                {"recoveryWrappedMk": recovery[0], "recoveryIv": recovery[1]},
            ),
            "clear": ("DELETE", "/recovery-wrap", None),
            "enable": ("POST", "/zero-knowledge", {"enable": True}),
            "disable": ("POST", "/zero-knowledge", {"enable": False, "masterKey": encode(wrong)}),
        }
        method, path, body = calls["disable" if act == "wrong" else act]
        # Not tests.client: it would remember every key, and the search of the logs for all of
        # these takes longer than the rest.
        async with self._session.request(
            method,
            self._traffic.daemon.base + path,
            data=b"" if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self._traffic.daemon.issuer.token(name(number))}",
                "Content-Type": "application/json",
            },
        ) as response:
            return Answer(response.status, response.headers, await response.read())


def name(number: int) -> str:
    """Return a user's id; as text they are in the order of the numbers."""
    return f"user-{number:06}"


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


@asynccontextmanager
async def traffic_on(daemon: Daemon, ledger: Ledger, scale: Scale) -> AsyncIterator[Traffic]:
    """Have users at work for the length of the block."""
    traffic = Traffic(daemon, ledger, scale)
    async with client_session() as session:
        following = asyncio.create_task(traffic.follow(daemon.database))
        working = [
            asyncio.create_task(Device(number, traffic, session).run()) for number in range(CLIENTS)
        ]
        try:
            yield traffic
        finally:
            traffic.over.set()
            await asyncio.gather(*working)
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


def run_command(daemon: Daemon, scale: Scale, out: Path) -> tuple[int, dict[str, Any]]:
    """Run ``custody rewrap run`` as a process; return its exit code and what it printed."""
    environ = daemon.settings | {
        "PATH": os.environ["PATH"],
        "CUSTODY_REWRAP_DATABASE_URL": daemon.database.url("custody_rewrap"),
    }
    process = Forked(
        *("custody", "rewrap", "run", "--json", *scale.limits),
        environ=environ,
        out=out,
        err=LOGS / f"rewrap-{os.getpid()}.log",
    )
    try:
        code = process.wait(LONGEST_SECONDS)
    finally:
        process.kill()
    return code, json.loads(out.read_text("utf-8") or "{}")


@pytest.mark.timeout(LONGEST_SECONDS + 120)
@pytest.mark.parametrize(
    "scale", [SMALL, pytest.param(LARGE, marks=pytest.mark.prove)], ids=lambda scale: scale.users
)
async def test_no_key_is_lost_under_live_traffic(
    database: Database, issuer: Issuer, tmp_path: Path, scale: Scale
) -> None:
    source = random.Random(SEED)  # noqa: S311 - a test that can be repeated
    ledger = Ledger([source.randbytes(32) for _ in range(scale.users)])
    overrides = {"KEK": NEW, "OLD_KEKS": OLD, "raw_NEXT_KEK": remember(NEXT_KEK)}
    # Each request a line of the log, and each searched for secrets: not at this scale.
    overrides["LOG_LEVEL"] = "warning"
    environ = settings_for(database, issuer, tmp_path, **overrides)
    keyring = load_keyring(NEW, [OLD], environ=environ, development=False)
    old = keyring.find("env-v1")
    assert old is not None
    await copy_rows(database, old.wrap, [(name(n), key) for n, key in enumerate(ledger.keys)])
    with daemon_beside(database, issuer, tmp_path, **overrides) as daemon:
        async with traffic_on(daemon, ledger, scale):
            code, run = await asyncio.to_thread(run_command, daemon, scale, tmp_path / "run")
        assert ledger.problems == []
        assert code == 0, run
    assert (run["state"], run["failed"], run["unreadable"]) == ("done", 0, [])
    # Users and the worker met, where there are enough of them: and nobody was overwritten.
    assert run["moved"] > 0 or scale is SMALL
    assert run["done"] > scale.users / 2
    assert {status for _, status in ledger.answers} == {200, 400, 409}
    await check_audit(database, ledger)
    await check_rows(database, ledger, keyring)


async def check_audit(database: Database, ledger: Ledger) -> None:
    """One row for each answer, and one for the run."""
    rows = await database.fetch(
        "SELECT action, status, count(*) AS count FROM auth.encryption_vault_audit GROUP BY 1, 2"
    )
    found = Counter({(row["action"], row["status"]): row["count"] for row in rows})
    assert found == ledger.answers + Counter({("rewrap_run", 200): 1})


async def check_rows(database: Database, ledger: Ledger, keyring: Keyring) -> None:
    """Unwrap all keys from the database itself, and hold them against the ledger."""
    rows = await database.fetch("SELECT * FROM auth.encryption_vaults")
    assert len(rows) == len(ledger.keys)
    wrong = []
    for row in rows:
        user = row["user_id"]
        number = int(user.removeprefix("user-"))
        entry = ledger.entries.get(number) or Entry(ledger.keys[number])
        right = (
            is_master_key(user, entry.key, row["key_check"])
            and row["generation"] == entry.generation
            and row["zero_knowledge"] == entry.zk
            and (row["recovery_wrapped_mk"], row["recovery_iv"]) == (entry.recovery or (None, None))
            and row["quarantined_at"] is None
        )
        if entry.zk:
            right &= row["wrapped_mk"] is None and row["wrap_iv"] is None
        else:
            wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"])
            right &= (wrap.kek_id, wrap.format_version) == ("env-v2", 2)
            right &= await keyring.unwrap(user, wrap) == entry.key
        if not right:
            wrong.append(user)
    assert wrong == []
