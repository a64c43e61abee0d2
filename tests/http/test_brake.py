"""A thief who has the issuer's key and asks for everybody; and canaries whom nobody asks for."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from custody.audit.events import Event
from custody.settings import LogFormat, LogLevel
from custody.vault.brake import Brake
from custody.vault.errors import AuditUnavailable
from custody.vault.model import Caller, RecoveryWrap
from custody.vault.rows import VaultRows
from kek_backends.loader import load_keyring
from tests.bench.users import Users, fill, master_key
from tests.client import Answer, Client, client_session
from tests.clock import Clock
from tests.logs import logging_to_memory
from tests.proofs import FULL
from tests.sealed_rows import data_key_of, reseal
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

Act = Callable[[Client], Awaitable[Answer]]

RECOVERY = tuple(
    base64.b64encode(bytes(size)).decode()
    for size in (RecoveryWrap.WRAPPED_SIZE, RecoveryWrap.IV_SIZE)
)
_AT_ONCE = 200
_AUDIT = (
    "SELECT action, context, status, count(*), count(DISTINCT user_id)"
    " FROM auth.encryption_vault_audit GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1"
)

ROUTES: dict[str, Act] = {
    "get_key": lambda client: client.key(),
    "init": lambda client: client.init(),
    "rotate": lambda client: client.rotate(),
    "set_recovery_wrap": lambda client: client.set_recovery(*RECOVERY),
    "clear_recovery_wrap": lambda client: client.clear_recovery(),
    "set_zero_knowledge": lambda client: client.enable_zk(),
}
ACTIONS = {
    "get_key": "failed_fetch",
    "init": "init",
    "rotate": "rotate",
    "set_recovery_wrap": "recovery_set",
    "clear_recovery_wrap": "recovery_clear",
    "set_zero_knowledge": "zk_enable",
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the brake of a daemon that begins after it."""
    clock = Clock()
    monkeypatch.setattr("custody.app.Brake", partial(Brake, clock=clock))
    return clock


class Stage:
    """A daemon with users whose vaults were there before it, and a thief who is each of them."""

    def __init__(self, daemon: Daemon, session: aiohttp.ClientSession) -> None:
        self.daemon = daemon
        self.device = partial(Client, daemon, session)
        self._session = session
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def ask(self, user: str) -> Answer:
        async with self._at_once:
            return await self.device(user).key()

    async def sweep(self, users: Iterable[str]) -> set[str]:
        """Ask for the key of each user; return whose keys left."""
        asked = list(users)
        answers = await asyncio.gather(*map(self.ask, asked))
        for user, answer in zip(asked, answers, strict=True):
            if answer.status == 200:
                assert answer.json["masterKey"] == base64.b64encode(master_key(user)).decode()
            else:
                assert (answer.status, answer.code) == (503, "OVERLOADED")
                assert int(answer.headers["Retry-After"]) > 0
        return {user for user, one in zip(asked, answers, strict=True) if one.status == 200}

    async def reseal(self, *users: str) -> None:
        database = self.daemon.database
        keyring = load_keyring(
            "env:MANA_AUTH_KEK", (), environ=self.daemon.settings, development=False
        )
        await reseal(database, await data_key_of(database, keyring.active), *users)

    async def counts(self, *names: str) -> list[int]:
        async with self._session.get(f"{self.daemon.admin}/metrics") as response:
            text = await response.text()
        found = [re.search(rf"(?m)^custody_{name}_total (\S+)$", text) for name in names]
        return [int(float(one[1])) if one else -1 for one in found]


@asynccontextmanager
async def staged(
    database: Database, issuer: Issuer, folder: Path, users: int, **settings: str
) -> AsyncIterator[Stage]:
    async with (
        daemon_here(database, issuer, folder, **settings) as daemon,
        client_session() as session,
    ):
        await fill(database, Users(users), daemon.settings)
        yield Stage(daemon, session)


@pytest.mark.parametrize("size", [(300, 20), pytest.param((10_000, 100), marks=FULL)])
async def test_a_thief_with_the_issuers_key(
    database: Database, issuer: Issuer, tmp_path: Path, clock: Clock, size: tuple[int, int]
) -> None:
    users, limit = size
    everybody = [user for user, _ in Users(users)]
    honest, others = everybody[:limit], everybody[limit:]
    async with staged(database, issuer, tmp_path, users, UNWRAP_LIMIT=str(limit)) as stage:
        assert await stage.sweep(honest) == set(honest)
        clock.now += 60
        with capture_logs() as logged:
            thefts = asyncio.ensure_future(stage.sweep(others))
            # Meanwhile those who were seen work as ever, and who fails is told why.
            while not thefts.done():
                assert await stage.sweep(honest[:5]) == set(honest[:5])
                answer = await stage.device("new").key()
                assert (answer.status, answer.code) == (404, "VAULT_NOT_INITIALISED")
            stolen = await thefts
        assert len(stolen) == limit
        assert stolen <= set(others)
        assert [
            (line["log_level"], line["limit"], line["refused"])
            for line in logged
            if line["event"] == "unwrap_limit_reached"
        ] == [("error", limit, 1)]
        assert await stage.counts("unwrap_newcomers", "unwrap_refusals") == [
            2 * limit,
            len(others) - limit,
        ]
        # Each action has its row.
        for user in others[: 2 * limit]:
            row = ("fetch", None, 200) if user in stolen else ("failed_fetch", "unwrap-limit", 503)
            assert await database.audit(user) == [row]
        rows = {tuple(row)[:3]: tuple(row)[3:] for row in await database.fetch(_AUDIT)}
        assert rows["failed_fetch", "unwrap-limit", 503] == (len(others) - limit,) * 2
        # The next minute has room for as many more.
        clock.now += 60
        left = [user for user in others if user not in stolen]
        assert len(await stage.sweep(left[: 3 * limit])) == limit


@pytest.mark.parametrize("route", ROUTES)
async def test_what_the_brake_holds(
    database: Database, issuer: Issuer, tmp_path: Path, clock: Clock, route: str
) -> None:
    """Who gets at a vault, to read or to change it, counts; and nothing changes for who is held."""
    first, second, third = (user for user, _ in Users(3))
    async with staged(database, issuer, tmp_path, 3, UNWRAP_LIMIT="1") as stage:
        # In zero-knowledge mode there is only the recovery wrap, which is held as a key is.
        for user in (first, second):
            await database.execute(
                "UPDATE auth.encryption_vaults SET recovery_wrapped_mk = $2, recovery_iv = $3,"
                " recovery_set_at = now() WHERE user_id = $1",
                user,
                *RECOVERY,
            )
        await stage.reseal(first, second)
        act = ROUTES[route]
        assert (await act(stage.device(first))).status == 200
        before = await database.vault(second)
        answer = await act(stage.device(second))
        assert (answer.status, answer.code) == (503, "OVERLOADED")
        assert await database.vault(second) == before
        assert await database.audit(second) == [(ACTIONS[route], "unwrap-limit", 503)]
        # Its addresses are held as its key is, without a row of that.
        assert (await stage.device(second).audit()).code == "OVERLOADED"
        assert len(await database.audit(second)) == 1
        assert (await stage.device(third).key()).status == 503
        # Who passed was seen; a look at what there is, and a new user, are not held.
        assert (await stage.device(first).key()).status == 200
        assert (await stage.device(second).status()).status == 200
        assert (await stage.device("new").audit()).status == 200
        assert (await stage.device("new").init()).status == 200
        assert await stage.counts("unwrap_newcomers") == [1]
        clock.now += 60
        assert (await act(stage.device(second))).status == 200


async def test_a_recovery_wrap_is_held_as_a_key_is(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    first, second = (user for user, _ in Users(2))
    async with staged(database, issuer, tmp_path, 2, UNWRAP_LIMIT="1") as stage:
        await database.execute(
            "UPDATE auth.encryption_vaults SET recovery_wrapped_mk = $1, recovery_iv = $2,"
            " recovery_set_at = now(), zero_knowledge = true, wrapped_mk = NULL, wrap_iv = NULL",
            *RECOVERY,
        )
        await stage.reseal(first, second)
        assert (await stage.device(first).key()).json["requiresRecoveryCode"] is True
        for answer in (await stage.device(second).key(), await stage.device(second).init()):
            assert (answer.status, answer.code) == (503, "OVERLOADED")


async def test_a_wrap_that_does_not_open_takes_no_place(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    first, second = (user for user, _ in Users(2))
    async with staged(database, issuer, tmp_path, 2, UNWRAP_LIMIT="1") as stage:
        await database.execute(
            "UPDATE auth.encryption_vaults SET key_check = $2 WHERE user_id = $1",
            first,
            base64.b64encode(bytes(32)).decode(),
        )
        await stage.reseal(first)
        assert (await stage.device(first).key()).code == "ROW_TAMPERED"
        assert await stage.sweep([second]) == {second}
        assert (await stage.device(first).key()).code == "OVERLOADED"


class WithoutReserve(VaultRows):
    """The connections that are kept for the rows of failures are all in use."""

    async def record_failure(self, caller: Caller, event: Event) -> None:
        raise AuditUnavailable


async def test_refusals_leave_alone_what_is_kept_for_failures(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thief chooses how many there are: their rows go together, as those of fetches do."""
    monkeypatch.setattr("custody.app.VaultRows", WithoutReserve)
    first, second, canary = (user for user, _ in Users(3))
    settings = {"UNWRAP_LIMIT": "1", "CANARY_USERS": canary}
    async with staged(database, issuer, tmp_path, 3, **settings) as stage:
        assert await stage.sweep([first]) == {first}
        assert await stage.sweep([second, canary]) == set()
        assert await database.audit(second) == [("failed_fetch", "unwrap-limit", 503)]
        assert await database.audit(canary) == [("failed_fetch", "canary", 503)]
        await database.execute(
            "UPDATE auth.encryption_vaults SET seal = reverse(seal) WHERE user_id = $1", first
        )
        assert (await stage.device(first).key()).code == "ROW_TAMPERED"
        assert (await database.audit(first))[-1] == ("failed_fetch", "row-tampered", 500)
        assert (await stage.device("new").key()).code == "AUDIT_UNAVAILABLE"


async def test_without_a_limit_nobody_is_held(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    everybody = [user for user, _ in Users(200)]
    async with staged(database, issuer, tmp_path, 200) as stage:
        assert await stage.sweep(everybody) == set(everybody)
        assert await stage.counts("unwrap_newcomers", "unwrap_refusals") == [0, 0]


def alarms(log: str) -> list[tuple[str, str, str, str]]:
    lines = [json.loads(line) for line in log.splitlines()]
    touched = [line for line in lines if line["event"] == "canary_touched"]
    assert {line["level"] for line in touched} <= {"error"}
    return [
        (line["route"], line["user_id"], line["address"], line["request_id"]) for line in touched
    ]


@pytest.mark.parametrize("served", [False, True])
async def test_a_canary_rings_on_every_route(
    database: Database, issuer: Issuer, tmp_path: Path, served: bool
) -> None:
    canary, alice = (user for user, _ in Users(2))
    settings = {"CANARY_USERS": f"nobody {canary}"} | ({"CANARY_ANSWER": "serve"} if served else {})
    async with staged(database, issuer, tmp_path, 2, **settings) as stage:
        before = await database.vault(canary)
        device, asked = stage.device(canary), []
        with logging_to_memory(LogLevel.INFO, LogFormat.JSON) as log:
            silent = {"get_status": Client.status, "get_audit": Client.audit}
            for route, act in (silent | ROUTES).items():
                answer = await act(device)
                asked.append((route, canary, "127.0.0.1", answer.headers["X-Request-Id"]))
                if served or route == "get_status":
                    # Its recovery wrap was cleared by then.
                    assert answer.code == (
                        "RECOVERY_WRAP_MISSING" if route == "set_zero_knowledge" else None
                    )
                else:
                    assert (answer.status, answer.code) == (503, "OVERLOADED")
                    assert b"masterKey" not in answer.body
                assert (await act(stage.device(alice))).status in (200, 400)
            # Also a body that nobody could understand.
            broken = await device.call("POST", "/zero-knowledge", data=b"{")
            assert broken.code == "BAD_REQUEST"
            asked.append(
                ("set_zero_knowledge", canary, "127.0.0.1", broken.headers["X-Request-Id"])
            )
        assert alarms(log.getvalue()) == asked
        assert await stage.counts("canary_requests", "unwrap_refusals") == [len(asked), 0]
        rows = await database.audit(canary)
        if served:
            assert ("fetch", None, 200) in rows
            assert len(rows) == len(ROUTES)
        else:
            assert rows == [(ACTIONS[route], "canary", 503) for route in ROUTES]
            assert await database.vault(canary) == before


async def test_a_canary_rings_whatever_becomes_of_the_request(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    settings = {"CANARY_USERS": "eve", "STEP_UP_MAX_AGE": "60"}
    async with staged(database, issuer, tmp_path, 1, **settings) as stage:
        device = stage.device("eve")
        assert (await device.rotate()).code == "STEP_UP_REQUIRED"
        fresh = {"Authorization": issuer.bearer("eve", auth_time=int(issuer.now()))}
        broken = await device.call("POST", "/rotate", if_match="?", headers=fresh)
        assert broken.code == "BAD_REQUEST"
        assert await stage.counts("canary_requests") == [2]
        # Who is not the canary rings nothing, nor does a token that proves nothing.
        forged = {"Authorization": issuer.bearer("eve", aud="another")}
        assert (await device.call("GET", "/key", headers=forged)).status == 401
        assert (await stage.device("Eve").key()).status == 404
        assert await stage.counts("canary_requests") == [2]


async def test_a_canary_without_a_vault_gets_none(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with staged(database, issuer, tmp_path, 1, CANARY_USERS="eve") as stage:
        device = stage.device("eve")
        for act in (Client.audit, *ROUTES.values()):
            assert (await act(device)).code == "OVERLOADED"
        assert not (await device.status()).json["vaultExists"]


async def test_a_thief_cant_tell_a_canary_from_the_brake(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    first, second, canary = (user for user, _ in Users(3))
    settings = {"UNWRAP_LIMIT": "1", "CANARY_USERS": canary}
    async with staged(database, issuer, tmp_path, 3, **settings) as stage:
        assert await stage.sweep([first]) == {first}
        held_ones = ("get_key", "init", "rotate", "set_recovery_wrap")
        for act in (*(ROUTES[route] for route in held_ones), Client.audit):
            held, refused = [await act(stage.device(user)) for user in (second, canary)]
            assert held.status == refused.status == 503
            assert (held.body, headers(held)) == (refused.body, headers(refused))


def headers(answer: Answer) -> list[tuple[str, str]]:
    """The headers, without the values of those that are another each time."""
    each = {"date", "x-request-id"}
    return [(name, "" if name.lower() in each else value) for name, value in answer.headers.items()]
