"""Answers that end, through ``requests`` and through bare ``urllib3``."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

from kek_backends import bounded_http
from kek_backends.bounded_http import MAX_ANSWER_SIZE, deadline
from tests.kek.http_server import Connection, serving

# What both kernels may hold of an answer that nobody reads any more.
_SOCKET_BUFFERS = 15 * 1024 * 1024

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError)

Get = Callable[[str], bytes]


class Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        super().init_poolmanager(*args, **named)
        bounded_http.bind(self.poolmanager)


@contextlib.contextmanager
def by_requests() -> Iterator[Get]:
    with requests.Session() as session:
        session.mount("http://", Adapter())
        # The library's own timeout, between two bytes, is far away: it must not be what helps.
        yield lambda url: session.get(url, timeout=(5, 30)).content


@contextlib.contextmanager
def by_urllib3() -> Iterator[Get]:
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(5, 30)) as manager:
        bounded_http.bind(manager)
        yield lambda url: manager.request("GET", url).data


@pytest.fixture(params=[by_requests, by_urllib3], ids=["requests", "urllib3"])
def get(request: pytest.FixtureRequest) -> Iterator[Get]:
    with request.param() as made:
        yield made


def within(seconds: float) -> contextlib.AbstractContextManager[None]:
    return deadline(time.monotonic() + seconds)


def drips_headers(connection: Connection) -> None:
    connection.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Long: " + b"x" * 500)


def drips_status(connection: Connection) -> None:
    connection.drip(b"HTTP/1.1 200 " + b"O" * 500)


def drips_body(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    connection.drip(b"x" * 500)


def drips_chunks(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(500):
        connection.send(b"1\r\nx\r\n")
        time.sleep(0.02)


def drips_continues(connection: Connection) -> None:
    for _ in range(500):
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.02)


def says_nothing(connection: Connection) -> None:
    connection.hear()


@pytest.mark.parametrize(
    "answer",
    [drips_headers, drips_status, drips_body, drips_chunks, drips_continues, says_nothing],
)
def test_an_answer_that_does_not_end_ends_at_the_deadline(
    get: Get, answer: Callable[[Connection], None]
) -> None:
    with serving(answer) as server:
        began = time.monotonic()
        with within(0.15), pytest.raises(FAILURES):
            get(server.url)
        assert 0.12 < time.monotonic() - began < 5


def fast_body(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.send(b"x" * 65536)


def fast_body_that_says_its_length(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    while True:
        connection.send(b"x" * 65536)


def fast_chunks(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def fast_continues(connection: Connection) -> None:
    while True:
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


@pytest.mark.parametrize(
    "answer", [fast_body, fast_body_that_says_its_length, fast_chunks, fast_continues]
)
def test_an_endless_answer_ends_at_its_size(get: Get, answer: Callable[[Connection], None]) -> None:
    """With much time left; and no more of it is read than that (the rest is in buffers)."""
    with serving(answer) as server, within(60), pytest.raises(FAILURES):
        get(server.url)
    assert server.sent < MAX_ANSWER_SIZE + _SOCKET_BUFFERS


def huge_chunk(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffff\r\nx")


def huge_length(connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 17592186044415\r\n\r\nx")


@pytest.mark.parametrize("answer", [huge_chunk, huge_length])
def test_no_memory_is_taken_for_what_is_only_announced(
    get: Get, answer: Callable[[Connection], None]
) -> None:
    with serving(answer) as server, within(0.2), pytest.raises(FAILURES):
        get(server.url)


@pytest.mark.parametrize("bounded", [True, False])
def test_an_answer_up_to_the_size_passes(get: Get, bounded: bool) -> None:
    size = MAX_ANSWER_SIZE - 1000

    def answer(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        connection.send(b"x" * size)

    with serving(answer) as server, within(20) if bounded else contextlib.nullcontext():
        assert len(get(server.url)) == size
        get(server.url)


def answers(connection: Connection) -> None:
    connection.send(OK)


def test_a_connection_is_used_again_under_each_new_deadline(get: Get) -> None:
    with serving(answers) as server:
        for _ in range(3):
            with within(0.2):
                assert get(server.url) == b"ok"
            time.sleep(0.25)
        assert get(server.url) == b"ok"
        assert server.connections == 1


def test_a_deadline_of_before_does_not_bound_a_later_answer(get: Get) -> None:
    """The socket still has the timeout that was left then."""

    def slow(connection: Connection) -> None:
        time.sleep(0.4 if server.sent else 0)
        connection.send(OK)

    with serving(slow) as server:
        with within(0.2):
            get(server.url)
        with within(5):
            assert get(server.url) == b"ok"
        assert get(server.url) == b"ok"
        assert server.connections == 1


def test_a_deadline_holds_for_an_old_connection_too(get: Get) -> None:
    def answer(connection: Connection) -> None:
        (drips_body if server.sent else answers)(connection)

    with serving(answer) as server:
        get(server.url)
        began = time.monotonic()
        with within(0.3), pytest.raises(FAILURES):
            get(server.url)
        assert time.monotonic() - began < 5
        assert server.connections == 1


def test_a_connection_that_was_given_up_is_not_used_again(get: Get) -> None:
    """The rest of its answer would be taken for the next one, of another user."""

    def answer(connection: Connection) -> None:
        if server.connections == 1:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nsecret")
            time.sleep(0.4)
            connection.send(b"of another")
        else:
            answers(connection)

    with serving(answer) as server:
        with within(0.2), pytest.raises(FAILURES):
            get(server.url)
        time.sleep(0.3)
        with within(2):
            assert get(server.url) == b"ok"
        assert server.connections == 2


def test_a_deadline_that_is_over_takes_no_answer(get: Get) -> None:
    with serving(answers) as server, within(-1), pytest.raises(FAILURES):
        get(server.url)


def test_the_outer_deadline_is_back_after_an_inner_one(get: Get) -> None:
    with serving(drips_body) as server:
        began = time.monotonic()
        with within(0.4):
            with within(30):
                pass
            with pytest.raises(FAILURES):
                get(server.url)
        assert time.monotonic() - began < 5


def test_a_deadline_is_of_its_own_thread(get: Get) -> None:
    def slow(connection: Connection) -> None:
        time.sleep(0.3)
        connection.send(OK)

    got: list[bytes] = []
    with serving(slow) as server, within(0.1):
        thread = threading.Thread(target=lambda: got.append(get(server.url)))
        thread.start()
        thread.join(5)
    assert got == [b"ok"]


def test_through_a_proxy_that_drips() -> None:
    class Proxied(Adapter):
        def proxy_manager_for(self, proxy: str, **named: Any) -> urllib3.ProxyManager:
            manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **named)
            bounded_http.bind(manager)
            return manager

    with serving(drips_headers) as server, requests.Session() as session:
        for scheme in ("http", "https"):
            session.mount(f"{scheme}://", Proxied())
            began = time.monotonic()
            with within(0.3), pytest.raises(FAILURES):
                session.get(
                    f"{scheme}://kms.invalid/", proxies={scheme: server.url}, timeout=(5, 30)
                )
            assert time.monotonic() - began < 5
