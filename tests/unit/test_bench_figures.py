"""How the benchmarks come from rounds to a row, what pgbench is told, and what /proc says."""

import subprocess
import sys
import time

import pytest

from tests.bench.load import Load, LoadError
from tests.bench.pgbench import READ, RECORD, Named, parse, script
from tests.bench.processes import Meter, cpu_seconds, family, resident_mib
from tests.bench.rounds import Round, Target, measure, row_of
from tests.bench.table import show
from tests.bench.users import FIRST, Users, master_key, requests_of

MS = 1_000_000
BUSY = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


def load(rate: int, *, errors: int = 0, slowest: int = 9) -> Load:
    times = [MS] * (rate - 1) + [slowest * MS]
    return Load(times, 1.0, 0.1, {200: rate, 503: errors} if errors else {200: rate})


def one_round(rate: int, *, errors: int = 0, slowest: int = 9, cpu: float = 50.0) -> Round:
    return Round(load(rate, errors=errors, slowest=slowest), {"server": cpu}, 100.0)


def test_a_row_has_the_medians_of_its_rounds() -> None:
    rounds = [one_round(100, cpu=10), one_round(400, cpu=90), one_round(200, cpu=20, slowest=30)]
    row = row_of(Target("x", lambda *_: load(1)), 64, rounds, {})
    assert (row.rate, row.spread, row.answered) == (200, 150, 700)
    assert (row.p50, row.longest) == (1, 30)
    assert row.cpu == {"server": 20}


def test_a_ratio_is_of_two_figures_of_one_round() -> None:
    mine = [one_round(100), one_round(200), one_round(300)]
    ceiling = [one_round(100), one_round(1000), one_round(400)]
    row = row_of(Target("x", lambda *_: load(1)), 1, mine, {"bare": ceiling})
    assert row.ratios == {"bare": 0.75}  # of 1, 0.2 and 0.75; that of the medians is 0.5


def test_errors_of_all_rounds_are_in_the_row() -> None:
    rounds = [one_round(10), one_round(10, errors=2), one_round(10, errors=3)]
    row = row_of(Target("x", lambda *_: load(1)), 1, rounds, {})
    assert row.errors == {"503": 5}
    assert "errors of x at 1: 503 5" in show([row], {})


def test_a_ceiling_that_stood_still_is_no_division_by_zero() -> None:
    still = Round(Load([], 0.0, 0.0, {}), {"server": 0.0}, 0.0)
    row = row_of(Target("x", lambda *_: load(1)), 1, [still], {"bare": [still]})
    assert (row.rate, row.spread, row.ratios) == (0, 0, {"bare": 0})


def test_targets_are_measured_in_turn() -> None:
    seen = []

    def target(name: str, **compared: str) -> Target:
        def run(connections: int, _seconds: float) -> Load:
            seen.append((name, connections))
            return load(10)

        return Target(name, run, None, compared)

    targets = [target("a"), target("b", bare="a", other="not measured")]
    rows = measure(targets, [1, 16], rounds=2, seconds=0, beside={})
    warm_up, a_round = [("a", 16), ("b", 16)], [("a", 1), ("b", 1), ("a", 16), ("b", 16)]
    assert seen == warm_up + 2 * a_round
    assert [(row.name, row.connections) for row in rows] == [
        ("a", 1),
        ("a", 16),
        ("b", 1),
        ("b", 16),
    ]
    assert [row.ratios for row in rows] == [{}, {}, {"bare": 1}, {"bare": 1}]


def test_pgbench_gets_the_daemons_statements_for_a_user_at_random() -> None:
    lines = script([*READ, *RECORD], 1000).splitlines()
    assert lines[0] == f"\\set user random({FIRST}, {FIRST + 999})"
    assert all(line.endswith(";") for line in lines[1:])
    assert "$" not in "".join(lines)
    assert any("custody_load_vaults(ARRAY[:user]::text[]);" in line for line in lines)
    assert any("custody_record_events(" in line and ":user::text" in line for line in lines)


def test_each_parameter_has_its_expression() -> None:
    text = Named("find_user", ("'alice'",)).text()
    assert "WHERE id = 'alice')" in text
    assert "--" not in text
    values = tuple(f"'{number}'" for number in range(1, 10))
    assert (
        f"VALUES ({', '.join(values[:8])}, decode({values[8]}, 'hex'))"
        in Named("insert_audit", values).text()
    )


def test_pgbenchs_log_is_read() -> None:
    lines = ["0 1 1500 0 1700000000 5", "1 1 500 0 1700000000 9", "1 2 failed 0 1700000000 9"]
    found = parse(iter(lines), "tps = 4.000000 (without initial connection time)\n", 0.5)
    assert list(found.times) == [500_000, 1_500_000]
    assert (found.rate, found.cpu, found.errors) == (4.0, 0.5, {"broken": 1})


def test_pgbench_without_a_transaction_has_no_rate() -> None:
    assert parse(iter([]), "number of transactions actually processed: 0\n", 0.1).rate == 0


def test_pgbench_without_a_rate_is_an_error() -> None:
    with pytest.raises(LoadError):
        parse(iter(["0 1 1500 0 1700000000 5"]), "", 0.1)


@pytest.mark.prove
def test_the_cpu_of_children_counts_whether_they_live_or_not() -> None:
    waits = "import sys; print(flush=True); sys.stdin.read()"
    code = (
        f"import subprocess, sys; busy = {BUSY!r}\n"
        "subprocess.run([sys.executable, '-c', busy])\n"
        f"child = subprocess.Popen([sys.executable, '-c', busy + {chr(10) + waits!r}])\n"
        "child.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()  # both have been busy; the second lives
        assert len(family(process.pid)) == 2
        assert cpu_seconds(process.pid) >= 0.55
        assert resident_mib(process.pid) > 2
        process.stdin.close()


def test_a_meter_tells_busy_from_idle() -> None:
    idle = "import sys; sys.stdin.read()"
    with (
        subprocess.Popen([sys.executable, "-c", idle], stdin=subprocess.PIPE) as quiet,
        subprocess.Popen([sys.executable, "-c", BUSY + "\n" + idle], stdin=subprocess.PIPE) as busy,
    ):
        with Meter({"quiet": quiet.pid, "busy": busy.pid}).running() as meter:
            while cpu_seconds(busy.pid) < 0.2:  # less than it uses: ticks are cut off
                time.sleep(0.02)
        assert meter.cpu["busy"] > meter.cpu["quiet"]
        assert meter.cpu["machine"] > 0
        for process in (quiet, busy):
            assert process.stdin is not None
            process.stdin.close()


def test_users_are_always_the_same_ones() -> None:
    users = Users(1000)
    assert [user for user, _ in users][:2] == [str(FIRST), str(FIRST + 1)]
    assert dict(users)[str(FIRST)] == master_key(str(FIRST))
    some = users.some(10)
    assert some == users.some(10)
    assert len(set(some)) == 10
    assert set(users.some(5000)) == set(dict(users))


def test_a_request_is_whole() -> None:
    get, post = (
        requests_of({"alice": "TOKEN"}, method, "/path", key=True)[0] for method in ("GET", "POST")
    )
    assert get.text.startswith(b"GET /path HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer TOKEN\r\n" in get.text
    assert get.text.endswith(b"\r\n\r\n")
    assert b"\r\nContent-Length: 0\r\n" in post.text
    assert len(get.expected) == 44
    assert b"TOKEN" not in repr(get).encode()
