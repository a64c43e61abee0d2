"""The load generators of the benchmarks: what they count, and that they count all of it."""

import threading
from array import array
from collections import Counter

import pytest

from tests.bench.load import (
    CompiledGenerator,
    Generator,
    Load,
    LoadError,
    Request,
    parse,
    percentile,
)
from tests.bench.load_python import PythonGenerator
from tests.http_servers import Asked, raw_server, serving
from tests.ports import free_port

SECONDS = 0.1
ASK = Request(b"GET /one HTTP/1.1\r\nHost: test\r\n\r\n")


@pytest.fixture(scope="module", params=["compiled", "python"])
def generator(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator:
    if request.param == "python":
        return PythonGenerator()
    try:
        return CompiledGenerator(tmp_path_factory.mktemp("load"), "-Wall", "-Wextra", "-Werror")
    except LoadError as error:
        if "no C compiler" in str(error):
            pytest.skip(str(error))
        raise


def text(body: bytes = b"{}", status: str = "200 OK", *, more: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + more + b"\r\n" + body


def test_percentiles_are_times_that_were_measured() -> None:
    assert [percentile(range(1, 101), p) for p in (1, 50, 99, 100)] == [1, 50, 99, 100]
    thirds = [percentile([10, 20, 30], percent) for percent in (1, 33, 34, 66, 67, 99)]
    assert thirds == [10, 10, 20, 20, 30, 30]
    assert percentile([7], 50) == percentile([7], 99) == 7


def test_no_times_have_no_percentile() -> None:
    assert percentile([], 99) == 0


def test_only_right_answers_make_the_rate() -> None:
    load = Load([1_500_000] * 10, 2.0, 0.1, {200: 6, 503: 4}, broken=3, wrong=2)
    assert load.rate == 2.0
    assert load.errors == {"503": 4, "broken": 3, "wrong": 2}
    assert load.milliseconds(50) == 1.5


def test_a_run_without_answers_has_no_rate() -> None:
    assert Load([], 0.0, 0.0, {}).rate == 0.0


@pytest.mark.prove
def test_every_answer_is_counted(generator: Generator) -> None:
    seen: Counter[str] = Counter()

    def answer(asked: Asked) -> list[bytes]:
        seen[asked.path] += 1
        return [text()]

    asks = [Request(f"GET /{n} HTTP/1.1\r\nHost: test\r\n\r\n".encode()) for n in range(5)]
    with serving(raw_server(answer)) as server:
        load = generator.run(server.server_port, asks, 3, 5 * SECONDS)
    assert load.statuses == {200: sum(seen.values())}
    assert len(load.times) == load.answered == sum(seen.values()) > 0
    assert list(load.times) == sorted(load.times)
    assert load.seconds > SECONDS / 2
    # In turn, whichever connection is free: each request as often as any other.
    assert set(seen) == {f"/{n}" for n in range(5)}
    assert max(seen.values()) - min(seen.values()) <= 1


def test_no_more_than_one_request_is_in_flight_on_a_connection(generator: Generator) -> None:
    most = now = 0
    lock = threading.Lock()
    all_there = threading.Event()

    def answer(asked: Asked) -> list[bytes]:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
            if now == 4:
                all_there.set()
        all_there.wait(5)
        with lock:
            now -= 1
        return [text()]

    with serving(raw_server(answer)) as server:
        load = generator.run(server.server_port, [ASK], 4, SECONDS)
    assert most == 4
    assert not load.errors


def test_each_status_is_counted(generator: Generator) -> None:
    turns = iter(range(10**9))

    def answer(asked: Asked) -> list[bytes]:
        return [text(status="503 Service Unavailable" if next(turns) % 4 else "200 OK")]

    with serving(raw_server(answer)) as server:
        load = generator.run(server.server_port, [ASK], 1, SECONDS)
    right, refused = load.statuses[200], load.statuses[503]
    assert 3 * right - 3 <= refused <= 3 * right
    assert load.errors == {"503": refused}


def test_an_answer_in_pieces_is_one(generator: Generator) -> None:
    whole = text(b'{"a": 1}', more=b"X: y\r\n")

    def answer(asked: Asked) -> list[bytes]:
        return [whole[at : at + 7] for at in range(0, len(whole), 7)]

    with serving(raw_server(answer)) as server:
        load = generator.run(server.server_port, [Request(ASK.text, b'"a": 1')], 2, SECONDS)
    assert load.answered > 0
    assert not load.errors


def test_names_of_headers_have_any_case(generator: Generator) -> None:
    def answer(asked: Asked) -> list[bytes]:
        return [b"HTTP/1.1 200 OK\r\nX: y\r\ncOnTeNt-LeNgTh:2\r\n\r\n{}"]

    with serving(raw_server(answer)) as server:
        assert not generator.run(server.server_port, [ASK], 1, SECONDS).errors


def test_another_users_answer_is_wrong(generator: Generator) -> None:
    asks = [
        Request(f"GET /{user} HTTP/1.1\r\nHost: test\r\n\r\n".encode(), f"key of {user}".encode())
        for user in ("alice", "bob")
    ]
    with serving(raw_server(lambda asked: [text(b"the key of alice")])) as server:
        load = generator.run(server.server_port, asks, 2, SECONDS)
    assert abs(load.wrong - load.answered) <= 1
    assert load.errors == {"wrong": load.wrong}


def test_a_connection_that_breaks_is_counted_and_opened_anew(generator: Generator) -> None:
    turns = iter(range(10**9))

    def answer(asked: Asked) -> list[bytes]:
        whole, asked.close_connection = text(), next(turns) % 2 == 0
        return [whole[:-1] if asked.close_connection else whole]

    with serving(raw_server(answer)) as server:
        load = generator.run(server.server_port, [ASK], 1, SECONDS)
    assert load.answered > 0
    assert abs(load.broken - load.answered) <= 1
    assert load.errors == {"broken": load.broken}


def test_a_connection_that_is_closed_after_its_answer_is_not_broken(generator: Generator) -> None:
    connections = set()

    def answer(asked: Asked) -> list[bytes]:
        connections.add(threading.get_ident())
        asked.close_connection = True
        return [text(more=b"Connection: close\r\n")]

    with serving(raw_server(answer)) as server:
        load = generator.run(server.server_port, [ASK], 2, SECONDS)
    assert load.answered > 2
    assert not load.errors


def test_a_port_without_a_server_is_said(generator: Generator) -> None:
    with pytest.raises(LoadError, match="can't connect"):
        generator.run(free_port(), [ASK], 1, SECONDS)


def test_what_is_not_http_is_said(generator: Generator) -> None:
    def answer(asked: Asked) -> list[bytes]:
        return [b"SSH-2.0-OpenSSH\r\n\r\n"]

    with serving(raw_server(answer)) as server, pytest.raises(LoadError, match=r"not HTTP/1\.1"):
        generator.run(server.server_port, [ASK], 1, SECONDS)


def test_an_answer_without_a_length_is_said(generator: Generator) -> None:
    def answer(asked: Asked) -> list[bytes]:
        return [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"]

    with serving(raw_server(answer)) as server, pytest.raises(LoadError, match="no Content-Length"):
        generator.run(server.server_port, [ASK], 1, SECONDS)


def test_output_that_is_cut_off_is_no_result() -> None:
    whole = b"seconds 1\ncpu 0.5\nbroken 0\nwrong 0\nstatus 200 2\ntimes 2\n"
    times = array("Q", [2, 1])
    assert list(parse(whole + times.tobytes()).times) == [1, 2]
    for cut in (whole + times.tobytes()[:8], whole.partition(b"times")[0], b""):
        with pytest.raises(LoadError, match="cut off"):
            parse(cut)
