"""Whatever a row is made to say: no key, no blob, no belief, and nothing new in its place.

The cases are made by rule, and so is what is expected of each (tests/e2e/tampering.py): a row gives
out what the daemon once stored in this very combination, or nothing.
"""
# ruff: noqa: S608 - the SQL is of this file

import base64
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from custody.vault.key_check import key_check_value
from kek_backends.base import KekBackend
from kek_backends.env import EnvKek
from kek_backends.uri import KekUri
from tests.bindings import of
from tests.client import Answer, Client, client_session
from tests.e2e.tampering import COLUMNS, WRAP, Ledger, Row, Tampering, several, singles
from tests.http.wire import assert_problem
from tests.leaks import remember
from tests.sealed_rows import past_triggers
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

SECOND = "env:SECOND_KEK?id=env-v0"
SECOND_KEY = b"the second KEK of these tests: 2"
READ = f"SELECT {', '.join(COLUMNS)} FROM auth.encryption_vaults WHERE user_id = $1"
WRITE = (
    f"UPDATE auth.encryption_vaults SET ({', '.join(COLUMNS)})"
    f" = ({', '.join(f'${number}' for number in range(2, len(COLUMNS) + 2))}) WHERE user_id = $1"
)
EVENTS = (
    "SELECT action, context, status FROM auth.encryption_vault_audit WHERE user_id = 'alice'"
    " ORDER BY created_at, id OFFSET $1"
)
STATES = ("standard", "recovery", "zero-knowledge")
REFUSED_BY_CHECK = (asyncpg.CheckViolationError, asyncpg.NotNullViolationError)


def recovery_wrap() -> tuple[str, str]:
    wrapped, iv = (base64.b64encode(secrets.token_bytes(size)).decode() for size in (48, 12))
    return wrapped, iv


class Attacker:
    """Whoever may write everything, on a database whose daemon goes on.

    Args:
        daemon: the daemon.
        session: of alice's connections.
        superuser: past all triggers.
    """

    def __init__(self, daemon: Daemon, session: aiohttp.ClientSession, superuser: Any) -> None:
        self.daemon = daemon
        self.alice = Client(daemon, session, "alice")
        self.bob = Client(daemon, session, "bob")
        self.superuser = superuser
        self.ledger = Ledger(frozenset({"env-v1", "env-v0"}))
        self.good: Row = {}
        self.key = ""
        self.sources: dict[str, Row] = {}
        self.seen = self.alarms = 0

    async def row(self, user: str = "alice") -> Row:
        return dict(await self.superuser.fetchrow(READ, user))

    async def write(self, row: Row) -> None:
        await self.superuser.execute(WRITE, "alice", *(row[column] for column in COLUMNS))

    async def events(self) -> list[tuple[str, str | None, int]]:
        """Return alice's audit rows since the last call."""
        rows = [tuple(row) for row in await self.superuser.fetch(EVENTS, self.seen)]
        self.seen += len(rows)
        return rows

    async def remembered(self, name: str) -> None:
        """Keep the row as it is now, to be put back later."""
        self.sources[name] = row = await self.row()
        self.ledger.note(row, self.key)

    async def live(self, state: str) -> None:
        """Let alice's vault see all states, and end in this one; let bob's be in it, too."""
        self.key = (await self.alice.init()).json["masterKey"]
        await self.remembered("the row before the rotate")
        self.key = (await self.alice.rotate()).json["masterKey"]
        await self.alice.set_recovery(*recovery_wrap())
        await self.remembered("the row with its first recovery wrap")
        await self.alice.enable_zk()
        await self.alice.set_recovery(*recovery_wrap())
        await self.remembered("the row in zero-knowledge mode")
        await self.alice.disable_zk(self.key)
        await self.remembered("the row after zero-knowledge mode")
        others = (await self.bob.init()).json["masterKey"]
        for client in (self.alice, self.bob):
            await client.set_recovery(*recovery_wrap())
            if state == "standard":
                await client.clear_recovery()
            if state == "zero-knowledge":
                await client.enable_zk()
        self.good = await self.row()
        self.ledger.note(self.good, self.key)
        self.sources["another user's row"] = stranger = await self.row("bob")
        self.ledger.note_wrap(stranger, others)
        await self._wrap_otherwise()
        await self.events()

    async def _wrap_otherwise(self) -> None:
        """Make wraps that were never in the row, though a KEK of this daemon has made them."""
        first = base64.b64decode(self.daemon.settings["MANA_AUTH_KEK"])
        generation, key = self.good["generation"], base64.b64decode(self.key)
        moved = await wrapped(kek("env-v0", SECOND_KEY), generation, key)
        self.sources["the row under another KEK"] = {**self.good, **moved}
        self.ledger.note_wrap({**self.good, **moved}, self.key)
        # A rotate that got lost, with its database, and was made again.
        lost = secrets.token_bytes(32)
        other = await wrapped(kek("env-v1", first), generation, lost)
        check = {"key_check": key_check_value("alice", lost)}
        self.sources["a lost row of this generation"] = {**self.good, **other, **check}
        self.ledger.note_wrap({**self.good, **other}, remember(base64.b64encode(lost).decode()))

    async def try_all(self, cases: Iterable[Tampering]) -> int:
        """Write each, see what becomes of it, and undo it; return how many there were."""
        tried = 0
        for case in cases:
            now = {**self.good, **case.values}
            if now == self.good:
                continue
            try:
                await self.write(now)
            except REFUSED_BY_CHECK:
                continue
            await self.see(case.name, now, tried)
            tried += 1
            await self.write(self.good)
        return tried

    async def see(self, name: str, now: Row, number: int) -> None:
        expected, alice = self.ledger.expect(now), self.alice
        for answer in (await alice.key(), await alice.init()):
            if expected.code is not None:
                assert_problem(answer, expected.status, expected.code, name)
            else:
                assert answer.status == 200, name
                assert answer.json.get("masterKey") == expected.key, name
                assert answer.json.get("recoveryWrappedMk") == expected.blob, name
            self.search(name, answer, {expected.key, expected.blob})
        answer = await alice.status()
        assert answer.status == expected.of_status, name
        self.search(name, answer)
        refused = [("failed_fetch", expected.context, expected.status)]
        refused.append(("init", expected.context, expected.status))
        if expected.of_status == 500:
            action, change = self.change(number)
            assert_problem(await change, 500, "ROW_TAMPERED", name)
            refused.append((action, expected.context, 500))
        events = await self.events()
        if expected.code is None:
            assert [(action, status) for action, _, status in events] == [
                *(("fetch", 200), ("init", 200))
            ], name
        else:
            assert events == refused, name
        if expected.context == "row-tampered":
            self.alarms += len(refused) + (expected.of_status == 500)
        assert await self.row() == now, name

    def change(self, number: int) -> tuple[str, Any]:
        """Return one change after the other, with what the audit calls it."""
        alice, mine = self.alice, base64.b64encode(bytes(32)).decode()
        changes: tuple[tuple[str, Callable[[], Any]], ...] = (
            ("rotate", alice.rotate),
            ("recovery_set", lambda: alice.set_recovery(*recovery_wrap())),
            ("recovery_clear", alice.clear_recovery),
            ("zk_enable", alice.enable_zk),
            ("zk_disable", lambda: alice.disable_zk(mine)),
        )
        action, call = changes[number % len(changes)]
        return action, call()

    def search(self, name: str, answer: Answer, allowed: Iterable[str | None] = ()) -> None:
        for secret in self.ledger.secrets() - set(allowed):
            assert secret.encode() not in answer.body, name

    async def rung(self) -> float:
        """Return how often the alarm has rung."""
        async with (
            client_session() as session,
            session.get(f"{self.daemon.admin}/metrics") as answer,
        ):
            lines = (await answer.text()).splitlines()
        ours = (line for line in lines if line.startswith("custody_tampered_rows_total"))
        return sum(float(line.rpartition(" ")[2]) for line in ours)


def kek(kek_id: str, key: bytes) -> KekBackend:
    uri = KekUri.parse(f"env:ANY?id={kek_id}")
    return EnvKek(uri=uri, kek_id=kek_id, key=key, development=False)


async def wrapped(by: KekBackend, generation: int, key: bytes) -> Row:
    wrap = await by.wrap(of("alice", generation), key)
    return dict(
        zip(WRAP, (wrap.wrapped_mk, wrap.wrap_iv, wrap.format_version, wrap.kek_id), strict=True)
    )


@asynccontextmanager
async def attacked(
    database: Database, issuer: Issuer, folder: Path, state: str
) -> AsyncIterator[Attacker]:
    overrides = {"OLD_KEKS": SECOND, "LOG_LEVEL": "info"}
    overrides["raw_SECOND_KEK"] = remember(base64.b64encode(SECOND_KEY).decode())
    async with (
        daemon_here(database, issuer, folder, **overrides) as daemon,
        client_session() as session,
        past_triggers(database) as superuser,
    ):
        attacker = Attacker(daemon, session, superuser)
        await attacker.live(state)
        yield attacker
        # Nothing was made in its place, and the row still holds.
        assert await attacker.rung() == attacker.alarms
        answer = await attacker.alice.key()
        found = answer.json.get("masterKey") or answer.json["recoveryWrappedMk"]
        assert found in {attacker.key, attacker.good["recovery_wrapped_mk"]}


@pytest.mark.parametrize(
    "state", ["standard", pytest.param("recovery", marks=pytest.mark.prove), "zero-knowledge"]
)
async def test_each_column(database: Database, issuer: Issuer, tmp_path: Path, state: str) -> None:
    async with attacked(database, issuer, tmp_path, state) as attacker:
        tried = await attacker.try_all(singles(attacker.good, attacker.sources))
        assert tried >= 60


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("state", STATES)
async def test_several_columns(
    database: Database, issuer: Issuer, tmp_path: Path, state: str
) -> None:
    async with attacked(database, issuer, tmp_path, state) as attacker:
        tried = await attacker.try_all(several(attacker.sources))
        assert tried >= 200
