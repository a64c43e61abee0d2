"""Where a request ends: the daemon reads what all servers read alike, and refuses all else."""

import pytest

from custody.http.routes import BASE_PATH
from tests.http.wire import (
    SHARED,
    assert_problem,
    connect,
    exchange,
    first_answer,
    parse,
    read_to_end,
    request,
)
from tests.leaks import remember
from tests.servers import Daemon
from tests.smuggling import LAST, READABLE, Hidden, attempts

ATTEMPTS = dict(attempts())


def test_there_are_enough() -> None:
    assert len(ATTEMPTS) >= 40
    assert {*READABLE, *LAST} <= set(ATTEMPTS)


@SHARED
@pytest.mark.parametrize("name", ATTEMPTS)
async def test_hidden_request(shared: Daemon, name: str) -> None:
    token = remember(shared.issuer.bearer(f"mallory-{name}"))
    await exchange(shared.base, request("POST", f"{BASE_PATH}/init", {"Authorization": token}))
    hidden = Hidden("1", token, whole=True)
    # One more on the connection: it is answered as itself, or not at all.
    last = request("GET", f"{BASE_PATH}/status", {"Authorization": token, "X-Request-Id": "last"})
    answers = parse(await exchange(shared.base, ATTEMPTS[name](hidden) + last))
    statuses = tuple(answer.status for answer in answers)
    if name in READABLE:
        assert statuses == (*READABLE[name], 200)
        assert answers[-1].headers["X-Request-Id"] == "last"
    elif name in LAST:
        assert statuses == LAST[name]
        assert answers[-1].headers["Connection"] == "close"
    else:
        assert statuses == (400,)
        assert_problem(answers[0], 400, "BAD_REQUEST")
        assert answers[0].headers["Connection"] == "close"


@SHARED
async def test_an_open_one_takes_the_next_request(shared: Daemon) -> None:
    """The attempts are sharp: what is let through does its work, with a token that is not its own.

    Nobody but a proxy can bring two users onto one connection.
    """
    mallory, alice = (remember(shared.issuer.bearer(name)) for name in ("mallory", "alice"))
    hidden = Hidden("2", mallory, whole=False)
    asked = {"Authorization": alice, "X-Request-Id": "alices"}
    honest = request("GET", f"{BASE_PATH}/key", asked)
    await exchange(shared.base, request("POST", f"{BASE_PATH}/init", {"Authorization": alice}))
    before = await shared.database.audit("alice")
    answers = parse(await exchange(shared.base, ATTEMPTS["behind a GET"](hidden) + honest))
    assert [answer.status for answer in answers] == [404, 200]
    assert await shared.database.audit("alice") == [*before, ("rotate", None, 200)]


@SHARED
@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "nonsense"])
async def test_what_comes_with_an_upgrade_is_never_read_from_its_middle(
    shared: Daemon, upgrade: str
) -> None:
    token = remember(shared.issuer.bearer("upgrader"))
    headers = {"Authorization": token, "Upgrade": upgrade, "Connection": "Upgrade"}
    first = request("GET", f"{BASE_PATH}/status", headers, close=False)
    inner = request("POST", f"{BASE_PATH}/init", {"Authorization": token})
    around = request("POST", f"{BASE_PATH}/zero-knowledge", {"Content-Length": str(len(inner))})
    reader, writer = await connect(shared.base)
    writer.write(first + around)
    answer = await first_answer(reader)
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    writer.write(inner)
    assert await read_to_end(reader) == b""
    writer.close()
    assert await shared.database.audit("upgrader") == []
