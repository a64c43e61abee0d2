"""Who is let in to the admin listener: sessions, guesses, and whose page a form is of."""

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from pydantic import SecretStr

from custody.http import attempts
from custody.http.access import COOKIE, SESSION_SECONDS, Access, cookie, is_of_our_page
from custody.http.attempts import BURST, SECONDS_EACH, Attempts
from custody.http.problems import Problem
from tests.leaks import remember

TOKEN = remember("a token of the console's tests: 32+")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def request(**headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request("GET", "/", headers=named)


def with_session(value: str) -> Any:
    return request(Cookie=f"{COOKIE}={value}")


def test_a_session_is_taken_by_every_process_that_has_the_token() -> None:
    made = Access(SecretStr(TOKEN)).new_session()
    Access(SecretStr(TOKEN)).check(with_session(made))
    assert TOKEN not in made


def test_a_session_ends() -> None:
    clock = Clock()
    access = Access(SecretStr(TOKEN), clock)
    made = access.new_session()
    clock.now += SESSION_SECONDS - 1
    assert access.has_session(with_session(made))
    clock.now += 1
    assert not access.has_session(with_session(made))


def test_a_new_token_ends_all_sessions() -> None:
    made = Access(SecretStr(TOKEN)).new_session()
    assert not Access(SecretStr(TOKEN + "x")).has_session(with_session(made))


def test_a_session_can_not_be_made_up() -> None:
    access = Access(SecretStr(TOKEN))
    until, _, mac = access.new_session().partition(".")
    later = str(int(until) + 1)
    for value in (
        f"{later}.{mac}",
        f"{until}.{mac[:-1]}",
        f"{until}.{'0' * 64}",
        until,
        f".{mac}",
        f"{until}.",
        f"{'9' * 5000}.{mac}",
        f"²{until}.{mac}",
        TOKEN,
        "",
    ):
        assert not access.has_session(with_session(value)), value


def test_without_a_token_there_are_no_sessions_and_all_are_let_in() -> None:
    access = Access(None)
    access.check(request())
    assert not access.has_session(with_session(access.new_session()))


def test_the_cookie_is_strict_and_never_the_token() -> None:
    said = cookie("value", secure=True)
    assert {"Path=/", "HttpOnly", "SameSite=Strict", "Secure"} <= set(said.split("; "))
    assert "Secure" not in cookie("value", secure=False)
    assert "Max-Age=0" in cookie("", secure=False)


def test_guesses_are_bounded_and_the_right_token_waits_with_them() -> None:
    clock = Clock()
    access = Access(SecretStr(TOKEN), attempts=Attempts(clock))
    for _ in range(BURST):
        with pytest.raises(Problem, match="401"):
            access.check(request(Authorization="Bearer wrong"))
    with pytest.raises(Problem, match="429") as refused:
        access.check(request(Authorization=f"Bearer {TOKEN}"))
    assert int(refused.value.headers["Retry-After"]) >= 1
    with pytest.raises(Problem, match="429"):
        access.try_token(request(), TOKEN)
    assert not access.lets_in(request(Authorization=f"Bearer {TOKEN}"))
    # Who is in stays in, and who has none is told to bring one.
    access.check(with_session(access.new_session()))
    with pytest.raises(Problem, match="401"):
        access.check(request())
    clock.now += SECONDS_EACH
    access.check(request(Authorization=f"Bearer {TOKEN}"))


def test_right_tokens_are_no_guesses() -> None:
    access = Access(SecretStr(TOKEN))
    for _ in range(3 * BURST):
        access.check(request(Authorization=f"Bearer {TOKEN}"))


def test_others_are_not_kept_waiting() -> None:
    counted = Attempts(Clock())
    for _ in range(2 * BURST):
        counted.failed("192.0.2.1")
    assert counted.seconds_to_wait("192.0.2.1")
    assert not counted.seconds_to_wait("192.0.2.2")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_MOST_ADDRESSES", 100)
    clock = Clock()
    counted = Attempts(clock)
    for _ in range(BURST):
        counted.failed("the worst")
    for number in range(1000):
        counted.failed(f"address-{number}")
    assert len(counted._until) <= 100
    assert counted.seconds_to_wait("the worst")
    clock.now += 10 * BURST * SECONDS_EACH
    counted.failed("one more")
    assert len(counted._until) == 1


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ({"Sec_Fetch_Site": "same-origin"}, True),
        ({"Sec_Fetch_Site": "none"}, True),
        ({"Sec_Fetch_Site": "same-site", "Origin": "http://host"}, False),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "http://host"}, False),
        ({"Origin": "http://host"}, True),
        ({"Origin": "https://host"}, True),
        ({"Origin": "http://host:1"}, False),
        ({"Origin": "http://evil"}, False),
        ({"Origin": "null"}, False),
        ({}, False),
    ],
)
def test_whose_page_a_form_is_of(headers: dict[str, str], is_ours: bool) -> None:
    assert is_of_our_page(request(Host="host", **headers)) is is_ours
