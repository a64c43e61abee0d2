"""GET /audit: the user's own audit rows, a page at a time, and nobody else's."""

import asyncio
import itertools
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from custody.db.queries import query
from custody.http.routes import BASE_PATH
from custody.ops import health
from tests.client import Answer, Client, client_session, readiness
from tests.eventually import eventually
from tests.http.wire import SHARED, exchange, parse, request
from tests.servers import Daemon, Database
from tests.states import STATES, bring

Device = Callable[[str], Client]

OWN = query("list_own_events")
ROWS = (
    "SELECT id, created_at, action, context, status, ip_address, user_agent"
    " FROM auth.encryption_vault_audit WHERE user_id = $1 ORDER BY number DESC"
)
ADD = (
    "INSERT INTO auth.encryption_vault_audit (id, user_id, action, context, status)"
    " SELECT gen_random_uuid(), $1, 'fetch', 'row ' || one, 200"
    " FROM generate_series(1, $2::integer) AS one"
)
MANY = 10_000


async def stored(database: Database, user: str) -> list[dict[str, Any]]:
    """Return what there is of a user, the newest first, as the route is to show it."""
    return [
        {
            "id": row["id"],
            "at": row["created_at"],
            "action": row["action"],
            "context": row["context"],
            "status": row["status"],
            "ipAddress": row["ip_address"],
            "userAgent": row["user_agent"],
        }
        for row in await database.fetch(ROWS, user)
    ]


def shown(answer: Answer) -> list[dict[str, Any]]:
    """Return the events of an answer, with their times as times."""
    assert answer.status == 200, answer.body
    assert set(answer.json) == {"events", "next"}
    events: list[dict[str, Any]] = answer.json["events"]
    assert all(event["at"].endswith("Z") for event in events)
    return [event | {"at": datetime.fromisoformat(event["at"])} for event in events]


async def page(client: Client, question: str = "") -> Answer:
    return await client.call("GET", f"/audit{question}")


async def pages(client: Client, limit: int) -> AsyncIterator[Answer]:
    """Read one page after the other, to the last."""
    question = f"?limit={limit}"
    while True:
        answer = await page(client, question)
        yield answer
        if answer.json["next"] is None:
            return
        question = f"?limit={limit}&before={answer.json['next']}"


def ids(answer: Answer) -> list[str]:
    return [event["id"] for event in shown(answer)]


def cursor(number: int) -> str:
    return urlsafe_b64encode(number.to_bytes(8, "big", signed=True)).rstrip(b"=").decode()


@SHARED
@pytest.mark.parametrize("state", STATES)
async def test_in_every_state(shared: Daemon, visitor: Device, state: str) -> None:
    client = visitor(f"in-{state}")
    await bring(client, state)
    rows = await stored(shared.database, client.user)
    assert (len(rows) > 0) is (state != "nothing")
    answer = await client.audit()
    assert shown(answer) == rows
    assert answer.json["next"] is None
    assert answer.headers["Cache-Control"] == "no-store"
    # It leaves no row of its own.
    assert shown(await client.audit()) == rows


@SHARED
async def test_what_a_row_says(visitor: Device) -> None:
    client = visitor("whole")
    before = datetime.now(UTC)
    await client.call("POST", "/init", headers={"User-Agent": 'a "b"\té'})
    (event,) = shown(await client.audit())
    assert before <= event.pop("at") <= datetime.now(UTC)
    assert UUID(event.pop("id")).version == 7
    assert event == {
        "action": "init",
        "context": "created",
        "status": 200,
        "ipAddress": "127.0.0.1",
        "userAgent": 'a "b"\té',
    }


@SHARED
async def test_what_failed_is_there(shared: Daemon, visitor: Device) -> None:
    client = visitor("failed")
    await client.key()
    await client.clear_recovery()
    await bring(client, "zero_knowledge")
    await client.rotate()
    await client.clear_recovery()
    await client.disable_zk("A" * 43 + "=")
    await client.rotate('"7"')
    async with shared.database.connect("custody_rewrap") as connection:
        await connection.execute(
            "INSERT INTO auth.encryption_vault_audit (id, user_id, action, context, status)"
            " VALUES (gen_random_uuid(), 'failed', 'rewrap_failed', 'unwrap-failed', 500)"
        )
    events = shown(await client.audit())
    assert [(one["action"], one["context"], one["status"]) for one in events] == [
        ("rewrap_failed", "unwrap-failed", 500),
        ("rotate", "stale-generation", 412),
        ("zk_disable", "master-key-mismatch", 409),
        ("recovery_clear", "zk-active", 409),
        ("rotate", "zk-rotate-forbidden", 409),
        ("zk_enable", None, 200),
        ("recovery_set", None, 200),
        ("init", "created", 200),
        ("recovery_clear", "no-vault", 404),
        ("failed_fetch", "not-initialised", 404),
    ]
    # A run's row is nobody's.
    assert events == await stored(shared.database, "failed")


@SHARED
async def test_of_twenty_users_nobody_sees_another(shared: Daemon, visitor: Device) -> None:
    """All pairs: the one asks with the other's cursor, and sees own rows only."""
    clients = [visitor(f"one-of-{number}") for number in range(20)]
    for act in (Client.key, Client.init, Client.key, Client.rotate):
        # In turns, so that their rows stand between one another's.
        await asyncio.gather(*(act(client) for client in clients))
    own, cursors = {}, {}
    for client in clients:
        answer = await client.audit()
        own[client.user] = ids(answer)
        assert shown(answer) == await stored(shared.database, client.user)
        assert len(own[client.user]) == 4
        cursors[client.user] = (await page(client, "?limit=1")).json["next"]
    assert len(set(itertools.chain(*own.values()))) == 80

    async def looks(one: Client, other: Client) -> None:
        seen = ids(await page(one, f"?before={cursors[other.user]}"))
        assert seen == own[one.user][len(own[one.user]) - len(seen) :]
        if one is other:
            assert seen == own[one.user][1:]

    for one in clients:
        await asyncio.gather(*(looks(one, other) for other in clients))
        # Not by the far end, either.
        assert ids(await page(one, f"?before={cursor(2**63 - 1)}")) == own[one.user]
        assert ids(await page(one, f"?before={cursor(-(2**63))}")) == []


@SHARED
async def test_pages_are_complete_while_rows_are_written(shared: Daemon, visitor: Device) -> None:
    client, other = visitor("busy"), visitor("busy-too")
    await client.init()
    await other.init()
    await shared.database.execute(ADD, "busy", MANY)
    at_the_start = [row["id"] for row in await stored(shared.database, "busy")]
    done = asyncio.Event()

    async def write() -> None:
        while not done.is_set():
            await asyncio.gather(client.key(), client.init(), other.key())

    writing = asyncio.create_task(write())
    seen: list[str] = []
    async for answer in pages(client, 200):
        assert len(answer.json["events"]) == 200 or answer.json["next"] is None
        seen += ids(answer)
    done.set()
    await writing
    assert len(at_the_start) == MANY + 1
    assert len(seen) == len(set(seen))
    # Rows that came before the first page was read stand before them, newer ones nowhere.
    assert seen[-len(at_the_start) :] == at_the_start
    written = len(await stored(shared.database, "busy")) - len(at_the_start)
    assert written > len(seen) - len(at_the_start)


@SHARED
@pytest.mark.parametrize(
    ("count", "limit", "sizes"),
    [
        (50, None, [50]),
        (51, None, [50, 1]),
        (4, 2, [2, 2]),
        (3, 1, [1, 1, 1]),
        (201, 200, [200, 1]),
    ],
)
async def test_where_a_page_ends(
    shared: Daemon, visitor: Device, count: int, limit: int | None, sizes: list[int]
) -> None:
    client = visitor(f"pages-{count}")
    await shared.database.execute(ADD, client.user, count)
    seen, before = [], ""
    for size in sizes:
        asked = "" if limit is None else f"&limit={limit}"
        answer = await page(client, f"?{(before + asked).lstrip('&')}")
        assert len(answer.json["events"]) == size
        seen += [event["context"] for event in answer.json["events"]]
        before = f"before={answer.json['next']}"
    assert answer.json["next"] is None
    assert seen == [f"row {number}" for number in range(count, 0, -1)]


GOOD = cursor(77)
MISFITS = {
    "limit must be": [
        *("limit=0", "limit=201", "limit=1e2", "limit=", "limit=+5", "limit=%2B5", "limit=-1"),
        *("limit=05", "limit=5.0", "limit=%205", "limit=%D9%A5", "limit=5%00", "limit=0x5"),
        *("limit=1000", "limit=NaN", "limit=null", "limit=5%0A", "limit=" + "9" * 5000),
    ],
    "before must be": [
        *("before=", "before=%00", "before=77", f"before={GOOD}%3D", f"before={GOOD}%00"),
        *(f"before={GOOD[:-1]}", f"before={GOOD}A", f"before=%20{GOOD}", f"before={GOOD}%0A"),
        # Not the one text of its bits; and of the other alphabet.
        *(f"before={GOOD[:-1]}B", f"before={GOOD[:-1]}-", "before=AAAA%2FAAAAAA", "before=null"),
        "before=2026-11-28T00:00:00Z",
    ],
    "twice": ["limit=5&limit=5", f"before={GOOD}&limit=1&before={GOOD}", "limit=5&%6Cimit=6"],
    "unknown": ["x=1", "Limit=5", "limit=5&after=", "user_id=bob", "%00=1", "=5", "limit%00=5"],
    "list of name=value": ["limit", "limit=5&", "&limit=5", "&", "limit=%FF", "before=%C0%80"],
}


@SHARED
@pytest.mark.parametrize("what", MISFITS)
async def test_query_that_does_not_fit(
    shared: Daemon, visitor: Device, transactions: list[str], what: str
) -> None:
    """400 that says what is wrong, before anything is asked of the database."""
    token = {"Authorization": shared.issuer.bearer("misfit")}
    for text in MISFITS[what]:
        sent = request("GET", f"{BASE_PATH}/audit?{text}", token)
        (answer,) = parse(await exchange(shared.base, sent))
        assert (answer.status, answer.code) == (400, "BAD_REQUEST"), text
        assert what in answer.json["detail"], text
    assert transactions == []
    assert (await page(visitor("misfit"), "?")).status == 200


@SHARED
@pytest.mark.parametrize("text", ["limit=" + "5" * 16_384, "limit=5\0"], ids=["long", "NUL"])
async def test_query_that_is_no_http(shared: Daemon, transactions: list[str], text: str) -> None:
    sent = request("GET", f"{BASE_PATH}/audit?{text}", {"Authorization": shared.issuer.bearer("x")})
    (answer,) = parse(await exchange(shared.base, sent))
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert transactions == []


@SHARED
async def test_a_misfit_is_named_only_to_who_has_a_token(shared: Daemon) -> None:
    (answer,) = parse(await exchange(shared.base, request("GET", f"{BASE_PATH}/audit?limit=0")))
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")


@SHARED
async def test_what_an_administrator_wrote_is_shown_cut(shared: Daemon, visitor: Device) -> None:
    """No row that the database can hold is an error, or an answer without bounds."""
    client = visitor("doctored")
    await shared.database.execute(
        "INSERT INTO auth.encryption_vault_audit"
        " (id, user_id, action, ip_address, user_agent, context, status, created_at)"
        " SELECT gen_random_uuid() || left(x, 100000), 'doctored', x, x, x, x, -2147483648, at"
        " FROM repeat('é', 1000000) AS x, unnest('{infinity, -infinity, 4713-01-01 BC,"
        " 294276-12-31}'::timestamptz[]) AS at"
    )
    await shared.database.execute(
        "INSERT INTO auth.encryption_vault_audit (number, id, user_id, action, status)"
        " OVERRIDING SYSTEM VALUE SELECT number, gen_random_uuid(), 'doctored', '', 0"
        " FROM unnest('{-9223372036854775808, -1, 0}'::bigint[]) AS number"
    )
    seen = [answer async for answer in pages(client, 1)]
    events = [event for answer in seen for event in answer.json["events"]]
    assert [event["at"] is None for event in events] == [True] * 4 + [False] * 3
    assert len({event["id"] for event in events}) == 7
    assert max(len(answer.body) for answer in seen) < 3000


class TestEachWallAlone:
    """Rows of others are kept away by the statement, and by row-level security."""

    @SHARED
    async def test_without_row_level_security(self, shared: Daemon, visitor: Device) -> None:
        await self._fill(visitor)
        async with shared.database.connect() as connection:
            rows = await connection.fetch(OWN, "wall-a", None, 200)
        assert [row["id"] for row in rows] == ids(await visitor("wall-a").audit())

    @SHARED
    async def test_without_the_condition(
        self, shared: Daemon, visitor: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self._fill(visitor)
        before = [ids(await visitor(user).audit()) for user in ("wall-a", "wall-b")]
        assert all(before)
        open_wide = OWN.replace("user_id = $1", "$1::text IS NOT NULL")
        assert open_wide != OWN
        monkeypatch.setattr(
            "custody.vault.rows.query",
            lambda name: open_wide if name == "list_own_events" else query(name),
        )
        assert [ids(await visitor(user).audit()) for user in ("wall-a", "wall-b")] == before
        assert ids(await visitor("wall-nobody").audit()) == []

    @SHARED
    @pytest.mark.parametrize("scope", ["wall-b", "", None])
    async def test_in_the_scope_of_another(
        self, shared: Daemon, visitor: Device, scope: str | None
    ) -> None:
        await self._fill(visitor)
        async with shared.database.connect("custody_app") as connection, connection.transaction():
            if scope is not None:
                await connection.execute(
                    "SELECT set_config('app.current_user_id', $1, true)", scope
                )
            assert await connection.fetch(OWN, "wall-a", None, 200) == []
            if scope:
                assert await connection.fetch(OWN, scope, None, 200)

    async def _fill(self, visitor: Device) -> None:
        for user in ("wall-a", "wall-b"):
            await visitor(user).init()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon that begins after it looks at its database often."""
    monkeypatch.setattr(health, "_AGAIN_SECONDS", 0.2)
    monkeypatch.setattr(health, "_RETRY_SECONDS", 0.2)


async def test_a_missing_right_shuts_nothing_else(
    quick: None, daemon: Daemon, device: Device
) -> None:
    """The route answers 503, /readyz says why under degraded, and the vault goes on."""
    alice = device("alice")
    await alice.init()
    await daemon.database.execute("REVOKE SELECT ON auth.encryption_vault_audit FROM custody_app")
    answer = await alice.audit()
    assert (answer.status, answer.code) == (503, "DATABASE_UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) > 0
    assert (await alice.key()).status == 200
    status, parts = await readiness(daemon)
    assert (status, parts["audit"]) == (200, "ok")
    async with client_session() as session:

        async def degraded() -> str:
            async with session.get(f"{daemon.admin}/readyz") as response:
                said = await response.json()
            assert response.status == 200
            return str(said.get("degraded", {}).get("audit", ""))

        assert "may not SELECT auth.encryption_vault_audit" in await eventually(degraded)
    assert (await alice.key()).status == 200


async def test_without_the_database(daemon: Daemon, device: Device) -> None:
    alice = device("alice")
    await alice.init()
    name = daemon.database.name
    await daemon.database.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
    await daemon.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = 'custody_app'"
    )
    answer = await alice.audit()
    assert (answer.status, answer.code) == (503, "DATABASE_UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) > 0
