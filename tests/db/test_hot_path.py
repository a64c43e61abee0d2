"""The promises of GET /key, while many go to the database together through a pool of four."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from custody.audit.events import Event
from custody.audit.row_seal import RowSeals
from custody.audit.writer import write_together
from custody.db.engine import Connection
from custody.http import frontend
from custody.ops.health import Health
from custody.vault import grouped
from tests.client import Answer, Client
from tests.db.breaking import freeze, thawed
from tests.eventually import eventually
from tests.servers import Database

Device = Callable[[str], Client]
FETCHED = (
    "SELECT user_id, count(*) FROM auth.encryption_vault_audit"
    " WHERE action = 'fetch' AND status = 200 GROUP BY user_id"
)


pytestmark = pytest.mark.usefixtures("engines")


@pytest.fixture
def database(own_database: Database) -> Database:
    return own_database


async def init(device: Device, users: Sequence[str]) -> dict[str, str]:
    answers = await asyncio.gather(*(device(user).init() for user in users))
    return {user: answer.json["masterKey"] for user, answer in zip(users, answers, strict=True)}


async def fetched(database: Database) -> Counter[str]:
    return Counter(dict(await database.fetch(FETCHED)))


async def test_everyone_gets_the_own_key_and_one_row_for_each_answer(
    device: Device, database: Database
) -> None:
    users = [f"user-{number}" for number in range(50)]
    keys = await init(device, users)
    chosen = random.Random(6)  # noqa: S311 - a course that can be run again
    asked: Counter[str] = Counter()

    async def one_device() -> None:
        for _ in range(30):
            user = chosen.choice([*users, "nobody"])
            if chosen.random() < 0.2:
                answer = await device(user).status()
                assert answer.json["vaultExists"] == (user in keys)
                continue
            answer = await device(user).key()
            assert answer.json.get("masterKey") == keys.get(user), user
            # The refusals go one by one, over two connections: some find those busy.
            if answer.code != "AUDIT_UNAVAILABLE":
                asked[user] += 1

    await asyncio.gather(*(one_device() for _ in range(64)))
    assert asked["nobody"]
    assert await database.audit("nobody") == [("failed_fetch", "not-initialised", 404)] * asked.pop(
        "nobody"
    )
    assert await fetched(database) == asked


@pytest.mark.prove
async def test_commit_that_fails_for_one_fails_for_no_other(
    device: Device, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would look at once, find the trigger below, and shut the routes to everybody.
    monkeypatch.setattr(Health, "met", lambda *_: None)
    users = [f"user-{number}" for number in range(20)]
    keys = await init(device, users)
    await database.execute(
        "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$;"
        "CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON auth.encryption_vault_audit"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.user_id = 'user-7')"
        " EXECUTE FUNCTION public.fail()"
    )
    for _ in range(4):
        answers = await asyncio.gather(*(device(user).key() for user in users))
        for user, answer in zip(users, answers, strict=True):
            if user == "user-7":
                assert (answer.status, answer.code) == (503, "AUDIT_UNAVAILABLE")
                assert keys[user].encode() not in answer.body
            else:
                assert answer.json["masterKey"] == keys[user]
    del keys["user-7"]
    assert await fetched(database) == dict.fromkeys(keys, 4)


@pytest.mark.prove
async def test_row_that_is_swallowed_holds_back_one_key(
    device: Device, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would look at once, find the trigger below, and shut the routes to everybody.
    monkeypatch.setattr(Health, "met", lambda *_: None)
    users = [f"user-{number}" for number in range(20)]
    keys = await init(device, users)
    await database.execute(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER swallow BEFORE INSERT ON auth.encryption_vault_audit"
        " FOR EACH ROW WHEN (NEW.user_id = 'user-3') EXECUTE FUNCTION swallow()"
    )
    answers = await asyncio.gather(*(device(user).key() for user in users))
    refused = {user: a for user, a in zip(users, answers, strict=True) if a.status != 200}
    assert {user: answer.code for user, answer in refused.items()} == {
        "user-3": "AUDIT_UNAVAILABLE"
    }
    assert keys["user-3"].encode() not in refused["user-3"].body
    assert set(await fetched(database)) == set(users) - {"user-3"}


@pytest.mark.prove
@pytest.mark.parametrize(
    ("genuine", "doctored"),
    [
        # The rows of two users change places.
        ("SELECT asked.place::", "SELECT (asked.place % 2 + 1)::"),
        # The right places, each with the row of the one before.
        (
            "'app.current_user_id', asked.user_id",
            "'app.current_user_id', coalesce(wanted[asked.place - 1], asked.user_id)",
        ),
        # A row too few.
        ("AS users ON true;", "AS users ON true LIMIT greatest(cardinality(wanted) - 1, 1);"),
    ],
)
async def test_another_users_row_is_nobodys(
    device: Device, database: Database, genuine: str, doctored: str
) -> None:
    """A database that answers with the wrong rows gets nobody another user's key."""
    users = [f"user-{number}" for number in range(20)]
    keys = await init(device, users)
    source = await database.value("SELECT pg_get_functiondef('auth.custody_load_vaults'::regproc)")
    assert genuine in source
    await database.execute(source.replace(genuine, doctored))
    answers = await asyncio.gather(*(device(user).key() for user in users))
    for user, answer in zip(users, answers, strict=True):
        if answer.status == 200:  # alone in its batch
            assert answer.json["masterKey"] == keys[user]
        else:
            assert (answer.status, answer.code) == (503, "DATABASE_UNAVAILABLE")
            assert keys[user].encode() not in answer.body
    assert {answer.status for answer in answers} & {503}


@pytest.mark.prove
async def test_client_that_goes_away_hurts_nobody(device: Device, database: Database) -> None:
    users = [f"user-{number}" for number in range(30)]
    keys = await init(device, users)
    for number in range(10):
        calls = [asyncio.create_task(device(user).key()) for user in users]
        await asyncio.sleep(number / 1000)
        for call in calls[::3]:
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        for user, answer in zip(users, done, strict=True):
            if isinstance(answer, Answer):
                assert answer.json["masterKey"] == keys[user]
        assert sum(isinstance(answer, Answer) for answer in done) >= 20


@pytest.mark.prove
async def test_sessions_that_end_under_load(device: Device, database: Database) -> None:
    users = [f"user-{number}" for number in range(16)]
    keys = await init(device, users)
    answered: Counter[str] = Counter()

    async def one_device(user: str) -> None:
        for _ in range(25):
            answer = await device(user).key()
            assert answer.status in {200, 503}
            if answer.status == 200:
                assert answer.json["masterKey"] == keys[user]
                answered[user] += 1

    async def end_sessions() -> None:
        for _ in range(5):
            await asyncio.sleep(0.05)
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'custody' AND datname = current_database()"
            )

    await asyncio.gather(end_sessions(), *(one_device(user) for user in users))
    rows = await fetched(database)
    # A commit whose word never arrived may have been made: never the other way round.
    assert all(rows[user] >= answered[user] for user in users)
    answers = await asyncio.gather(*(device(user).key() for user in users))
    assert {answer.status for answer in answers} == {200}


@pytest.mark.prove
async def test_rows_that_arrive_at_a_frozen_server_are_never_committed(
    database: Database, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement is in the server's socket: it is read after the deadline, and refused."""
    users = [f"user-{number}" for number in range(8)]

    async def freeze_then_write(
        held: Connection, events: Sequence[Event], deadline: float, seals: RowSeals
    ) -> None:
        freeze(database.server)
        await write_together(held, events, deadline, seals)

    async def first_key() -> object:
        return (await device(users[0]).key()).json.get("masterKey")

    keys = await init(device, users)
    with monkeypatch.context() as patch, thawed(database.server):
        patch.setattr(frontend, "REQUEST_SECONDS", 3.0)
        patch.setattr(grouped, "write_together", freeze_then_write)
        answers = await asyncio.gather(*(device(user).key() for user in users))
    assert {(answer.status, answer.code) for answer in answers} == {(503, "AUDIT_UNAVAILABLE")}
    await asyncio.sleep(1)
    assert not await fetched(database)
    assert await eventually(first_key) == keys[users[0]]
