"""No key leaves before its audit row is committed, and every answer has the row that it says."""

import base64
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from custody.ops import health
from tests.client import Client, client_session
from tests.http.wire import assert_problem
from tests.servers import Daemon, Database, daemon_here
from tests.states import STATES, TABLE, act, bring
from tests.tokens import Issuer

COLUMNS = "(id, user_id, action, ip_address, user_agent, context, status, state, seal)"
GRANT = f"GRANT INSERT {COLUMNS} ON auth.encryption_vault_audit TO custody_app"
REVOKE = "REVOKE INSERT ON auth.encryption_vault_audit FROM custody_app"
FAIL = (
    "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$;"
    "CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON auth.encryption_vault_audit"
    " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.user_id <> 'vault')"
    " EXECUTE FUNCTION public.fail()"
)


@asynccontextmanager
async def in_each_state(daemon: Daemon) -> AsyncIterator[dict[str, tuple[Client, str | None]]]:
    """Make a user in each state of the contract's table, with the key where there is one."""
    async with client_session() as session:
        login = time.time()
        clients = [Client(daemon, session, state, auth_time=login) for state in STATES]
        yield {client.user: (client, await bring(client, client.user)) for client in clients}


@pytest.fixture
async def users(served: Daemon) -> AsyncIterator[dict[str, tuple[Client, str | None]]]:
    """A user in each state; the daemon is a process of its own."""
    async with in_each_state(served) as made:
        yield made


async def test_without_its_audit_row_nothing_happens(
    served: Daemon, users: dict[str, tuple[Client, str | None]]
) -> None:
    database = served.database
    before = await database.contents()
    await database.execute(REVOKE)
    for name, (client, key) in users.items():
        for route in TABLE:
            answer = await act(client, route, key)
            cell = f"{route} with {name}"
            assert_problem(answer, 503, "AUDIT_UNAVAILABLE", cell)
            assert "Retry-After" in answer.headers
            assert key is None or key.encode() not in answer.body
        # Also where the audit row would be one of a refusal.
        if key is not None:
            wrong = base64.b64encode(secrets.token_bytes(32)).decode()
            for answer in (await client.disable_zk(wrong), await client.rotate('"77"')):
                assert (answer.status, answer.code) == (503, "AUDIT_UNAVAILABLE"), name
        status = await client.status()
        assert status.status == 200
        assert status.json["vaultExists"] == (key is not None)
    assert await database.contents() == before
    await database.execute(GRANT)
    for client, key in users.values():
        answer = await client.key()
        assert answer.status == (404 if key is None else 200)
        assert answer.json.get("masterKey", key) == key
    assert len(await database.contents()) == len(before) + len(users)


@pytest.mark.prove
async def test_every_answer_is_the_one_that_its_row_says(
    served: Daemon, users: dict[str, tuple[Client, str | None]]
) -> None:
    for at, (name, (client, key)) in enumerate(users.items()):
        sent = await served.database.audit(name)
        for route in ("key", "clear_recovery", "set_recovery", "enable_zk", "disable_zk", "rotate"):
            answer = await act(client, route, key)
            trail = await served.database.audit(name)
            assert trail[:-1] == sent, route
            assert trail[-1][0] in {TABLE[route][at][2], TABLE[route][1][2], "fetch"}
            assert trail[-1][2] == answer.status, (name, route)
            sent = trail
        # What was refused before it was understood was no action.
        for answer in (
            await client.call("POST", "/recovery-wrap", {"recoveryIv": "x"}),
            await client.call("POST", "/zero-knowledge", data=b"{"),
            await client.call("POST", "/rotate", if_match="3"),
            await client.call("GET", "/nothing"),
            await client.call("PUT", "/key"),
        ):
            assert 400 <= answer.status < 500
        assert (await client.status()).status == 200
        assert await served.database.audit(name) == sent


@pytest.mark.prove
@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        ("", "203.0.113.9", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "198.51.100.1, '; DROP", "127.0.0.1"),
    ],
)
async def test_rows_say_who_it_was(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    *,
    proxies: str,
    forwarded: str,
    expected: str,
) -> None:
    agent = "Mozilla/5.0 (a test) " + "x" * 1000
    headers = {"User-Agent": agent, "X-Forwarded-For": forwarded}
    wrapped, iv = (base64.b64encode(bytes(size)).decode() for size in (48, 12))
    acts = (
        ("GET", "/key", None),
        ("POST", "/init", None),
        ("GET", "/key", None),
        ("POST", "/recovery-wrap", {"recoveryWrappedMk": wrapped, "recoveryIv": iv}),
        ("POST", "/zero-knowledge", {"enable": True}),
        ("POST", "/rotate", None),
        ("DELETE", "/recovery-wrap", None),
        ("POST", "/zero-knowledge", {"enable": False, "masterKey": iv * 2 + "AAAAAAAAAAA="}),
    )
    async with (
        daemon_here(database, issuer, tmp_path, TRUSTED_PROXIES=proxies) as daemon,
        client_session() as session,
    ):
        client = Client(daemon, session, "alice")
        statuses = [
            (await client.call(method, path, body, headers=headers)).status
            for method, path, body in acts
        ]
    rows = await database.fetch(
        "SELECT action, status, ip_address, user_agent FROM auth.encryption_vault_audit"
        " ORDER BY created_at, id"
    )
    assert statuses == [404, 200, 200, 200, 200, 409, 409, 409]
    assert [row["status"] for row in rows] == statuses
    assert {(row["ip_address"], row["user_agent"]) for row in rows} == {(expected, agent[:512])}


@pytest.mark.prove
async def test_no_key_leaves_when_the_commit_fails(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is written, and what fails is COMMIT itself: for one user, at every route."""
    # A trigger that is not ours shuts the routes at the next look. What is asked is what happens
    # until then.
    monkeypatch.setattr(health, "_RETRY_SECONDS", 3600)
    async with (
        daemon_here(database, issuer, tmp_path, RESET="on") as daemon,
        in_each_state(daemon) as users,
    ):
        await database.execute(FAIL)
        before = await database.contents()
        for name, (client, key) in users.items():
            if name == "vault":
                continue
            for route in TABLE:
                answer = await act(client, route, key)
                assert answer.code in {"AUDIT_UNAVAILABLE", "DATABASE_UNAVAILABLE"}
                assert_problem(answer, 503, answer.code, f"{route} with {name}")
                assert key is None or key.encode() not in answer.body
                if route == "key":
                    assert answer.code == "AUDIT_UNAVAILABLE"
        assert await database.contents() == before
        other, other_key = users["vault"]
        assert (await other.key()).json["masterKey"] == other_key
        await database.execute("DROP TRIGGER fail ON auth.encryption_vault_audit")
        client, key = users["with_recovery"]
        assert (await client.key()).json["masterKey"] == key
        assert (await client.rotate()).status == 200
