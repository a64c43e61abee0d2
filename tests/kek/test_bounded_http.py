"""Answers that end, through ``requests`` and through bare ``urllib3``."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

from kek_backends import bounded_http
from kek_backends.bounded_http import MAX_ANSWER_SIZE, deadline
from tests.http_servers import Asked, raw_server, serving

# What both kernels may hold of an answer that nobody reads any more.
_SOCKET_BUFFERS = 15 * 1024 * 1024

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError)

Get = Callable[[str], bytes]
Pieces = Callable[[Asked], Iterable[bytes]]


def adapter(session: requests.Session, scheme: str = "http") -> HTTPAdapter:
    found = session.get_adapter(f"{scheme}://")
    assert isinstance(found, HTTPAdapter)
    return found


@pytest.fixture(params=["requests", "urllib3"])
def get(request: pytest.FixtureRequest) -> Iterator[Get]:
    # The libraries' own timeout, between two bytes, is far away: it must not be what helps.
    with requests.Session() as session, urllib3.PoolManager(retries=False) as manager:
        if request.param == "requests":
            bounded_http.bind(adapter(session).poolmanager)
            yield lambda url: session.get(url, timeout=(5, 30)).content
        else:
            bounded_http.bind(manager)
            yield lambda url: manager.request("GET", url, timeout=urllib3.Timeout(5, 30)).data


def within(seconds: float) -> contextlib.AbstractContextManager[None]:
    return deadline(time.monotonic() + seconds)


def answering(head: bytes, piece: bytes = b"", times: int = 0, pause: float = 0.0) -> Pieces:
    """Return an answer that ends in a piece, again and again."""

    def answer(_: Asked) -> Iterator[bytes]:
        yield head
        for _turn in range(times):
            yield piece
            time.sleep(pause)

    return answer


ANSWERS = answering(OK)


dripping = partial(answering, piece=b"x", times=500, pause=0.02)
endless = partial(answering, piece=b"x" * 65536, times=10**9)

DRIPPING: dict[str, Pieces] = {
    "drips_headers": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Long: "),
    "drips_status": dripping(b"HTTP/1.1 200 ", piece=b"O"),
    "drips_body": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
    "drips_chunks": dripping(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", piece=b"1\r\nx\r\n"
    ),
    "drips_continues": dripping(CONTINUE, piece=CONTINUE),
    "says_nothing": lambda _: (),
}


@pytest.mark.parametrize("answer", DRIPPING)
def test_an_answer_that_does_not_end_ends_at_the_deadline(get: Get, answer: str) -> None:
    with serving(raw_server(DRIPPING[answer])) as server:
        began = time.monotonic()
        with within(0.15), pytest.raises(FAILURES):
            get(server.url)
        assert 0.12 < time.monotonic() - began < 5


ENDLESS = {
    "fast_body": endless(b"HTTP/1.1 200 OK\r\n\r\n"),
    "fast_body_that_says_its_length": endless(
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
    ),
    "fast_chunks": endless(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        piece=b"10000\r\n" + b"x" * 65536 + b"\r\n",
    ),
    "fast_continues": endless(CONTINUE, piece=CONTINUE * 1000),
}


@pytest.mark.parametrize("answer", ENDLESS)
def test_an_endless_answer_ends_at_its_size(get: Get, answer: str) -> None:
    """With much time left; and no more of it is read than that (the rest is in buffers)."""
    with serving(raw_server(ENDLESS[answer])) as server, within(60), pytest.raises(FAILURES):
        get(server.url)
    assert server.sent < MAX_ANSWER_SIZE + _SOCKET_BUFFERS


HUGE = {
    "huge_chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffff\r\nx",
    "huge_length": b"HTTP/1.1 200 OK\r\nContent-Length: 17592186044415\r\n\r\nx",
}


@pytest.mark.parametrize("answer", HUGE)
def test_no_memory_is_taken_for_what_is_only_announced(get: Get, answer: str) -> None:
    server = raw_server(answering(HUGE[answer]))
    with serving(server), within(0.2), pytest.raises(FAILURES):
        get(server.url)


@pytest.mark.parametrize("bounded", [True, False])
def test_an_answer_up_to_the_size_passes(get: Get, bounded: bool) -> None:
    size = MAX_ANSWER_SIZE - 1000
    answer = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b"x" * size, 1)
    with serving(raw_server(answer)) as server, within(20) if bounded else contextlib.nullcontext():
        assert len(get(server.url)) == size
        get(server.url)


@pytest.mark.prove
def test_a_connection_is_used_again_under_each_new_deadline(get: Get) -> None:
    with serving(raw_server(ANSWERS)) as server:
        for _ in range(3):
            with within(0.2):
                assert get(server.url) == b"ok"
            time.sleep(0.25)
        assert get(server.url) == b"ok"
        assert len(server.connections) == 1


@pytest.mark.prove
def test_a_deadline_of_before_does_not_bound_a_later_answer(get: Get) -> None:
    """The socket still has the timeout that was left then."""

    def slow(_: Asked) -> list[bytes]:
        time.sleep(0.4 if server.sent else 0)
        return [OK]

    with serving(raw_server(slow)) as server:
        with within(0.2):
            get(server.url)
        with within(5):
            assert get(server.url) == b"ok"
        assert get(server.url) == b"ok"
        assert len(server.connections) == 1


def test_a_deadline_holds_for_an_old_connection_too(get: Get) -> None:
    def answer(asked: Asked) -> Iterable[bytes]:
        return (DRIPPING["drips_body"] if server.sent else ANSWERS)(asked)

    with serving(raw_server(answer)) as server:
        get(server.url)
        began = time.monotonic()
        with within(0.3), pytest.raises(FAILURES):
            get(server.url)
        assert time.monotonic() - began < 5
        assert len(server.connections) == 1


def test_a_connection_that_was_given_up_is_not_used_again(get: Get) -> None:
    """The rest of its answer would be taken for the next one, of another user."""

    def answer(_: Asked) -> Iterator[bytes]:
        if len(server.connections) == 1:
            yield b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nsecret"
            time.sleep(0.4)
            yield b"of another"
        else:
            yield OK

    with serving(raw_server(answer)) as server:
        with within(0.2), pytest.raises(FAILURES):
            get(server.url)
        time.sleep(0.3)
        with within(2):
            assert get(server.url) == b"ok"
        assert len(server.connections) == 2


def test_a_deadline_that_is_over_takes_no_answer(get: Get) -> None:
    with serving(raw_server(ANSWERS)) as server, within(-1), pytest.raises(FAILURES):
        get(server.url)


def test_the_outer_deadline_is_back_after_an_inner_one(get: Get) -> None:
    with serving(raw_server(DRIPPING["drips_body"])) as server:
        began = time.monotonic()
        with within(0.4):
            with within(30):
                pass
            with pytest.raises(FAILURES):
                get(server.url)
        assert time.monotonic() - began < 5


def test_a_deadline_is_of_its_own_thread(get: Get) -> None:
    def slow(_: Asked) -> list[bytes]:
        time.sleep(0.3)
        return [OK]

    got: list[bytes] = []
    with serving(raw_server(slow)) as server, within(0.1):
        thread = threading.Thread(target=lambda: got.append(get(server.url)))
        thread.start()
        thread.join(5)
    assert got == [b"ok"]


def test_through_a_proxy_that_drips() -> None:
    with serving(raw_server(DRIPPING["drips_headers"])) as server, requests.Session() as session:
        for scheme in ("http", "https"):
            bounded_http.bind(adapter(session, scheme).proxy_manager_for(server.url))
            began = time.monotonic()
            with within(0.3), pytest.raises(FAILURES):
                session.get(
                    f"{scheme}://kms.invalid/", proxies={scheme: server.url}, timeout=(5, 30)
                )
            assert time.monotonic() - began < 5
