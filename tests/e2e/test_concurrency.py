"""Many devices at once, over one daemon and over two: no key lost, no 500, every act recorded."""

import asyncio
import base64
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import pytest

from custody.rewrap.target import Target
from custody.vault.key_check import is_master_key
from kek_backends.base import Wrap
from kek_backends.binding import Binding
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring
from tests import states
from tests.client import Client, client_session, generation_of, tag_of
from tests.db.command import custody
from tests.e2e import quick
from tests.e2e.browser import (
    encode,
    new_recovery_code,
    open_recovery,
    seal_recovery,
)
from tests.rewrap.kit import KEKS, NEW, OLD, keyring, new_kek, old_kek, rewrap
from tests.servers import Daemon, Database, daemon_beside
from tests.tokens import Issuer

DEVICES = 8
SEED = 20261121
LONG = 2000
# What a storm that can be repeated is made of.
SEEDS = (SEED, 7)

# What the contract's state table allows for each act: status and code.
ALLOWED: dict[str, frozenset[tuple[int, str | None]]] = {
    "key": frozenset({(200, None), (404, "VAULT_NOT_INITIALISED")}),
    "init": frozenset({(200, None)}),
    "rotate": frozenset(
        {
            (200, None),
            (409, "ZK_ROTATE_FORBIDDEN"),
            (409, "ROTATION_PENDING"),
            (412, "STALE_GENERATION"),
        }
    ),
    "begin_rotation": frozenset(
        {(200, None), (409, "ZK_ROTATE_FORBIDDEN"), (412, "STALE_GENERATION")}
    ),
    "end_rotation": frozenset(
        {(200, None), (404, "VAULT_NOT_INITIALISED"), (412, "STALE_GENERATION")}
    ),
    "reset": frozenset({(200, None), (412, "STALE_GENERATION")}),
    "set_recovery": frozenset({(200, None), (412, "STALE_GENERATION")}),
    "clear_recovery": frozenset(
        {
            (200, None),
            (404, "VAULT_NOT_INITIALISED"),
            (409, "ZK_ACTIVE"),
            (412, "STALE_GENERATION"),
        }
    ),
    "enable_zk": frozenset(
        {
            (200, None),
            (400, "RECOVERY_WRAP_MISSING"),
            (409, "ROTATION_PENDING"),
            (404, "VAULT_NOT_INITIALISED"),
            (412, "STALE_GENERATION"),
        }
    ),
    "disable_zk": frozenset(
        {(200, None), (409, "MASTER_KEY_MISMATCH"), (412, "STALE_GENERATION")},
    ),
}
# How often each is done, beside the others; the latter hand back a key.
ACTS = {
    "key": 5,
    "init": 1,
    "rotate": 2,
    "clear_recovery": 1,
    "enable_zk": 5,
    "begin_rotation": 1,
    "end_rotation": 3,
    "reset": 1,
}
# What makes a new key, and so answers with one.
RENEWALS = {"rotate": "rotate", "begin_rotation": "rotation_begin", "reset": "reset"}
ACTS_WITH_A_KEY = {"set_recovery": 8, "disable_zk": 3}
ACTIONS = {act: cells[1][2] for act, cells in states.TABLE.items()}
BROKEN_ROWS = (
    "SELECT count(*) FROM auth.encryption_vaults WHERE NOT ("
    " (wrapped_mk IS NOT NULL OR recovery_wrapped_mk IS NOT NULL)"
    " AND (wrapped_mk IS NULL) = (wrap_iv IS NULL)"
    " AND (previous_wrapped_mk IS NULL) = (previous_wrap_iv IS NULL)"
    " AND (previous_wrapped_mk IS NULL) = (previous_generation IS NULL)"
    " AND (previous_wrapped_mk IS NULL OR wrapped_mk IS NOT NULL)"
    " AND coalesce(previous_generation < generation, true)"
    " AND (recovery_wrapped_mk IS NULL) = (recovery_iv IS NULL)"
    " AND zero_knowledge = (wrapped_mk IS NULL)"
    " AND (NOT zero_knowledge OR recovery_wrapped_mk IS NOT NULL))"
)
CHECKS = (
    "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND convalidated"
    " AND conrelid = 'auth.encryption_vaults'::regclass"
)


@pytest.mark.parametrize("daemons", [1, 2])
async def test_fifty_inits_of_a_new_user_make_one_key(
    pair: tuple[Daemon, Daemon], daemons: int
) -> None:
    async with client_session() as session:
        devices = [Client(pair[n % daemons], session, "alice") for n in range(50)]
        answers = await asyncio.gather(*(device.init() for device in devices))
        assert {answer.status for answer in answers} == {200}
        assert len({answer.json["masterKey"] for answer in answers}) == 1
        assert len({generation_of(answer) for answer in answers}) == 1
        assert (await devices[0].key()).json == answers[0].json
    trail = Counter(await pair[0].database.audit("alice"))
    assert trail == {
        ("init", "created", 200): 1,
        ("init", "already-exists", 200): 49,
        ("fetch", None, 200): 1,
    }


@pytest.mark.parametrize("daemons", [1, 2])
async def test_twenty_rotations_are_serialised(pair: tuple[Daemon, Daemon], daemons: int) -> None:
    async with client_session() as session:
        devices = [Client(pair[n % daemons], session, "alice") for n in range(20)]
        first = generation_of(await devices[0].init())
        answers = await asyncio.gather(*(device.rotate() for device in devices))
        assert {answer.status for answer in answers} == {200}
        by_generation = {generation_of(answer): answer for answer in answers}
        assert sorted(by_generation) == list(range(first + 1, first + 21))
        assert len({answer.json["masterKey"] for answer in answers}) == 20
        now = await devices[1].key()
        assert now.json == by_generation[first + 20].json
        assert generation_of(now) == first + 20
    trail = Counter(await pair[0].database.audit("alice"))
    assert trail[("rotate", None, 200)] == 20


async def test_of_rotations_with_one_tag_one_wins(pair: tuple[Daemon, Daemon]) -> None:
    async with client_session() as session:
        devices = [Client(pair[n % 2], session, "alice") for n in range(20)]
        tag = tag_of(await devices[0].init())
        answers = await asyncio.gather(*(device.rotate(tag) for device in devices))
        assert Counter(answer.status for answer in answers) == {200: 1, 412: 19}
        won = next(answer for answer in answers if answer.status == 200)
        assert (await devices[0].key()).json == won.json


@dataclass
class Storm:
    """What all devices together have seen."""

    random: random.Random
    requests: int
    code: bytes = field(default_factory=new_recovery_code)
    sent: int = 0
    rows: Counter[tuple[str, int]] = field(default_factory=Counter)
    keys: dict[int, str] = field(default_factory=dict)
    # How often an end of a rotation was asked for, how many of these have no answer yet, and how
    # often it had been when one of this generation was last seen pending with none on its way.
    ends: int = 0
    ending: int = 0
    begun: dict[int, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


async def take_part(storm: Storm, client: Client) -> None:
    """Be a device that keeps the key it saw last, and hands it back whatever happened since."""
    key: str | None = None
    tag: str | None = None
    while storm.sent < storm.requests:
        storm.sent += 1
        acts = ACTS if key is None else ACTS | ACTS_WITH_A_KEY
        act = storm.random.choices(list(acts), list(acts.values()))[0]
        if_match = tag if storm.random.random() < 0.5 else None
        ends = None if storm.ending else storm.ends
        is_end = act in {"end_rotation", "reset"}
        storm.ends += is_end
        storm.ending += is_end
        if act == "set_recovery":
            # Always sent with its tag: it is of that generation's key. With it no interleaving may
            # leave a recovery wrap of another key than the live one.
            sealed = seal_recovery(storm.code, base64.b64decode(key or ""))
            answer = await client.set_recovery(*sealed, tag)
        else:
            answer = await states.act(client, act, key, if_match)
        storm.ending -= is_end
        if (answer.status, answer.code) not in ALLOWED[act]:
            storm.problems.append(f"{act}: {answer.status} {answer.code}")
        failed = act == "key" and answer.status != 200
        storm.rows["failed_fetch" if failed else ACTIONS[act], answer.status] += 1
        if answer.status == 200 and act in {"key", "init", *RENEWALS}:
            blob = answer.json
            wrapped = blob.get("requiresRecoveryCode")
            key = encode(open_recovery(storm.code, blob)) if wrapped else blob["masterKey"]
            generation, tag = generation_of(answer), tag_of(answer)
            # One generation is one key, whoever asks and whichever way the key came.
            if storm.keys.setdefault(generation, key) != key:
                storm.problems.append(f"generation {generation} has two keys")
            # A rotation that is pending gives way to no other.
            if storm.begun.get(generation - 1) == storm.ends:
                storm.problems.append(f"generation {generation} took the place of a pending one")
            previous = blob.get("previousMasterKey")
            if previous is None:
                # Live until somebody has said that it may go.
                if storm.begun.get(generation) == storm.ends:
                    storm.problems.append(f"generation {generation} lost the key before")
            elif storm.keys.setdefault(generation - 1, previous) != previous:
                storm.problems.append(f"generation {generation} has a wrong key before")
            elif ends is not None:
                storm.begun[generation] = max(ends, storm.begun.get(generation, 0))


@pytest.mark.prove
async def test_storm(pair: tuple[Daemon, Daemon]) -> None:
    before = load_keyring("env:MANA_AUTH_KEK", (), environ=pair[0].settings, development=False)
    await weather(pair, SEED, 500, before)


@pytest.fixture
async def movers(
    database: Database, issuer: Issuer, tmp_path: Path, deep: bool
) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Two daemons in the middle of a move: one writes under the old KEK, one under the new one.

    Where the data key goes, both write under the new one: else no data key may go.
    """
    keks = {f"raw_{name}": value for name, value in KEKS.items()}
    common = {"module": quick.__name__, "RESET": "on", **keks}
    first = {"KEK": NEW, "OLD_KEKS": OLD} if deep else {"KEK": OLD, "OLD_KEKS": NEW}
    with (
        daemon_beside(database, issuer, tmp_path, **first, **common) as here,
        daemon_beside(database, issuer, tmp_path, KEK=NEW, OLD_KEKS=OLD, **common) as there,
    ):
        yield here, there


@pytest.mark.prove
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("seed", "deep"), [(SEED, False), (7, False), (7, True)], ids=["there", "and back", "deep"]
)
async def test_storm_beside_rewraps(
    movers: tuple[Daemon, Daemon], seed: int, deep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All the while the row goes from one KEK to the other and back, or to new data keys."""
    database = movers[0].database
    calm = asyncio.Event()

    async def move() -> int:
        runs = 0
        back = new_kek() if deep else old_kek()
        for keks in cycle([keyring(), Keyring(back, [old_kek() if deep else new_kek()])]):
            if calm.is_set():
                break
            run = await rewrap(database, keks, deep=deep, everything=True)
            assert (run.state, run.failed) == ("done", 0)
            runs += 1
        return runs

    async def is_blind(_target: Target) -> None:
        """Else no run goes to a KEK under which not all daemons write."""

    monkeypatch.setattr("custody.rewrap.worker._IDLE_SECONDS", 0.02)
    if not deep:
        monkeypatch.setattr(Target, "check_instances", is_blind)
    moving = asyncio.create_task(move())
    try:
        await weather(movers, seed, LONG, keyring())
    finally:
        calm.set()
        runs = await asyncio.wait_for(moving, 60)
    # The row was moved in the storm, or taken from under a run's hands.
    met = await database.fetch("SELECT state, done, moved FROM auth.rewrap_runs")
    print(f"runs: {runs}; rows: {[tuple(row) for row in met]}")  # noqa: T201
    assert runs >= 1
    assert sum(row["done"] + row["moved"] for row in met) >= 1
    environ = {
        **movers[1].settings,
        "CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner"),
    }
    for words in (("audit", "verify"), ("verify", "--all")):
        done = await asyncio.to_thread(custody, environ, *words)
        assert done.code == 0, (words, done.out, done.err)


async def weather(pair: tuple[Daemon, Daemon], seed: int, requests: int, keks: Keyring) -> None:
    """Let the storm blow, and look at what it leaves."""
    database = pair[0].database
    log = database.server.folder / "postgres.log"
    already = log.stat().st_size
    storm = Storm(random.Random(seed), requests)  # noqa: S311 - a test that can be repeated
    async with client_session() as session:
        login = time.time()
        clients = [Client(pair[n % 2], session, "alice", auth_time=login) for n in range(DEVICES)]
        async with asyncio.timeout(90):
            await asyncio.gather(*(take_part(storm, client) for client in clients))
        assert storm.problems == []
        assert storm.rows.total() == requests
        audit = await database.audit("alice")
        rows = [(action, status) for action, _, status in audit]
        assert Counter(rows) == storm.rows
        # The storm was one: every act was both done and, where it can be, refused. A short one may
        # miss the act that needs most luck.
        missed = set(ACTIONS.values()) - {action for action, status in rows if status == 200}
        assert len(missed) <= (requests < LONG)
        assert {status for _, status in rows} >= {
            200,
            409,
            412,
            *([400] if requests == LONG else []),
        }
        assert b"violates" not in log.read_bytes()[already:]
        # Asked without the CHECKs; and they are there.
        assert await database.value(BROKEN_ROWS) == 0
        assert await database.value(CHECKS) >= 3
        generation, key = await _live_key(database, storm.code, keks)
        # Never handed out only if a device of its rotation never saw the answer: all saw theirs.
        assert storm.keys[generation] == key
        # Each generation after the first is one rotation, and all of them were seen by somebody.
        assert generation == max(storm.keys)
        # But for the one that made the vault, and those that found a rotation pending.
        renewals = [(action, None, 200) for action in RENEWALS.values()]
        assert generation - min(storm.keys) == sum(one in renewals for one in audit)
        assert storm.begun
        answer = await clients[0].key()
        if answer.json.get("requiresRecoveryCode"):
            assert (await clients[0].disable_zk(key)).status == 200
            answer = await clients[1].key()
        assert (answer.json["masterKey"], generation_of(answer)) == (key, generation)


async def _live_key(database: Database, code: bytes, keks: Keyring) -> tuple[int, str]:
    """Unwrap the user's key from the row itself, with no daemon in between."""
    row = await database.vault("alice")
    if row["zero_knowledge"]:
        blob = {"recoveryWrappedMk": row["recovery_wrapped_mk"], "recoveryIv": row["recovery_iv"]}
        key = open_recovery(code, blob)
    else:
        wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"])
        key = await keks.unwrap(Binding("alice", row["generation"]), wrap)
    assert is_master_key("alice", key, row["key_check"])
    return int(row["generation"]), encode(key)
