"""Step-up (RFC 9470): what can lose or unlock a key for good wants a fresh and strong login."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from custody.http.routes import ROUTES
from tests.client import Client, client_session
from tests.http.refusals import refused_tokens, rises
from tests.http.wire import SHARED, assert_problem
from tests.servers import Daemon, Database, daemon_here
from tests.states import TABLE, act, bring
from tests.tokens import ABSENT, Issuer

# By the client's method.
DESTRUCTIVE = (
    "rotate",
    "set_recovery",
    "clear_recovery",
    "enable_zk",
    "disable_zk",
    "begin_rotation",
    "end_rotation",
    "reset",
)
HARMLESS = ("status", "key", "init")
PATHS = {
    ("POST", "/rotate"),
    ("POST", "/rotation"),
    ("DELETE", "/rotation"),
    ("POST", "/reset"),
    ("POST", "/recovery-wrap"),
    ("DELETE", "/recovery-wrap"),
    ("POST", "/zero-knowledge"),
}
CHALLENGE = (
    'Bearer error="insufficient_user_authentication", '
    'error_description="The user must log in again for this."'
)
ASKED = {"STEP_UP_MAX_AGE": "300", "STEP_UP_ACR": "phr, urn:example:acr:2"}
ACR, AGE = ', acr_values="phr urn:example:acr:2"', ', max_age="300"'
# The setting, what its challenge has, and the reasons that there are with it alone.
ALONE = {
    "STEP_UP_MAX_AGE": (AGE, {"step-up-old", "step-up-no-auth-time"}),
    "STEP_UP_ACR": (ACR, {"step-up-acr"}),
}

# The auth_time (a number: that many seconds ago), the acr, and the reason that is counted.
LOGINS: dict[str, tuple[object, object, str | None]] = {
    "fresh": (0, "phr", None),
    "fresh, the other acr": (10, "urn:example:acr:2", None),
    "within the leeway": (320, "phr", None),
    "from a clock that is ahead": (-20, "phr", None),
    "too old": (331, "phr", "step-up-old"),
    "very old": (10**9, "phr", "step-up-old"),
    "in the future": (-60, "phr", "step-up-no-auth-time"),
    "no time": (ABSENT, "phr", "step-up-no-auth-time"),
    "time null": (None, "phr", "step-up-no-auth-time"),
    "time a string": ("1800000000", "phr", "step-up-no-auth-time"),
    "time a date": ("2999-01-01T00:00:00Z", "phr", "step-up-no-auth-time"),
    "time true": (True, "phr", "step-up-no-auth-time"),
    "time a list": ([1_800_000_000], "phr", "step-up-no-auth-time"),
    "time out of range": (-(10**400), "phr", "step-up-no-auth-time"),
    "another acr": (0, "pwd", "step-up-acr"),
    "no acr": (0, ABSENT, "step-up-acr"),
    "acr null": (0, None, "step-up-acr"),
    "acr empty": (0, "", "step-up-acr"),
    "acr a list": (0, ["phr"], "step-up-acr"),
    "acr a number": (0, 2, "step-up-acr"),
    "acr in another case": (0, "PHR", "step-up-acr"),
    "acr of both": (0, "phr urn:example:acr:2", "step-up-acr"),
    "acr a part": (0, "ph", "step-up-acr"),
    "neither": (ABSENT, ABSENT, "step-up-no-auth-time"),
}
BAD = [name for name, (_, _, reason) in LOGINS.items() if reason]
GOOD = [name for name in LOGINS if name not in BAD]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Daemon]:
    """A daemon that wants both."""
    folder = tmp_path_factory.mktemp("strict")
    async with daemon_here(module_database, issuer, folder, **ASKED, RESET="on") as running:
        yield running


@asynccontextmanager
async def logged_in(daemon: Daemon, user: str, login: str = "fresh") -> AsyncIterator[Client]:
    """Give a user a device with such a login."""
    auth_time, acr, _ = LOGINS[login]
    if isinstance(auth_time, int) and not isinstance(auth_time, bool):
        auth_time = int(daemon.issuer.now()) - auth_time
    async with client_session() as session:
        yield Client(daemon, session, user, auth_time=auth_time, acr=acr)


def test_each_route_is_one_or_the_other() -> None:
    assert {(route.method, route.path) for route in ROUTES if route.needs_step_up} == PATHS
    assert {*DESTRUCTIVE, *HARMLESS} == TABLE.keys() | {"status"}


@pytest.mark.prove
@SHARED
@pytest.mark.parametrize("route", DESTRUCTIVE)
async def test_refused(strict: Daemon, transactions: list[str], route: str) -> None:
    async with logged_in(strict, route) as client:
        key = await bring(client, "with_recovery")
    contents = await strict.database.contents()
    transactions.clear()
    for login in BAD:
        before = await refused_tokens(strict)
        async with logged_in(strict, route, login) as client:
            answer = await act(client, route, key)
        assert_problem(answer, 401, "STEP_UP_REQUIRED", login)
        assert answer.headers["WWW-Authenticate"] == CHALLENGE + ACR + AGE
        assert await rises(strict, before) == {LOGINS[login][2]: 1}, login
    assert transactions == []
    assert await strict.database.contents() == contents


@SHARED
@pytest.mark.parametrize("route", DESTRUCTIVE)
async def test_let_through(strict: Daemon, route: str) -> None:
    for login in GOOD:
        user = f"{route}, {login}"
        async with logged_in(strict, user, login) as client:
            key = await bring(client, "with_recovery")
            before = await strict.database.audit(user)
            assert (await act(client, route, key)).status == 200
        status, _, action, context = TABLE[route][2]
        assert await strict.database.audit(user) == [*before, (action, context, status)]


@SHARED
@pytest.mark.parametrize("route", HARMLESS)
async def test_what_loses_nothing_never_needs_it(strict: Daemon, route: str) -> None:
    async with logged_in(strict, "harmless") as client:
        await client.init()
    for login in LOGINS:
        async with logged_in(strict, "harmless", login) as client:
            answer = await getattr(client, route)()
            assert answer.status == 200, login


@SHARED
@pytest.mark.parametrize(("method", "path"), sorted(PATHS))
async def test_it_comes_before_the_body_and_the_precondition(
    strict: Daemon, method: str, path: str
) -> None:
    async with logged_in(strict, "alice", "too old") as client:
        answer = await client.call(method, path, data=b"{", if_match="not a tag")
    assert_problem(answer, 401, "STEP_UP_REQUIRED")


@SHARED
async def test_a_token_that_proves_nothing_is_just_that(strict: Daemon) -> None:
    async with logged_in(strict, "alice") as client:
        bearer = strict.issuer.bearer("alice", exp=0)
        answer = await client.call("POST", "/rotate", headers={"Authorization": bearer})
    assert_problem(answer, 401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


@SHARED
@pytest.mark.parametrize("name", ALONE)
async def test_each_setting_alone(
    module_database: Database, issuer: Issuer, tmp_path: Path, name: str
) -> None:
    parameter, reasons = ALONE[name]
    async with daemon_here(module_database, issuer, tmp_path, **{name: ASKED[name]}) as daemon:
        for login, (_, _, reason) in LOGINS.items():
            async with logged_in(daemon, f"{name}, {login}", login) as client:
                answer = await client.rotate()
            if reason in reasons or login == "neither":
                assert_problem(answer, 401, "STEP_UP_REQUIRED", login)
                assert answer.headers["WWW-Authenticate"] == CHALLENGE + parameter
            else:
                assert answer.status == 200, login


@pytest.mark.prove
@SHARED
@pytest.mark.parametrize("route", [route for route in DESTRUCTIVE if route != "reset"])
async def test_off_by_default(shared: Daemon, route: str) -> None:
    for login in LOGINS:
        async with logged_in(shared, f"off, {route}, {login}", login) as client:
            key = await bring(client, "with_recovery")
            assert (await act(client, route, key)).status == 200
