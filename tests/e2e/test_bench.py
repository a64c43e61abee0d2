"""The benchmarks work; how fast anything is, no test says."""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.bench.__main__ import BARE, CHECKED, INIT, KEY, PG_KEY, PG_READ, STATUS
from tests.bench.__main__ import bench as measured
from tests.bench.remote_kek import BACKEND, SERVER
from tests.memory import memory
from tests.servers import ROOT

SECONDS = 110
SHORT = ("--seconds", "0.2", "--rounds", "1", "--connections", "2")

pytestmark = pytest.mark.timeout(SECONDS + 10)


def bench(module: str, folder: Path, *options: str) -> tuple[str, Any]:
    """Run a benchmark, and return what it printed and what it wrote."""
    path = folder / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", module, "--json", str(path), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "eyJ" not in done.stdout + done.stderr, "a token was printed"
    return done.stdout, json.loads(path.read_text("utf-8"))


@pytest.mark.prove
async def test_one_route_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small form of what follows, in this process; its database is durable in memory only."""
    if folder := memory():
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
    path = tmp_path / "bench.json"
    chosen = argparse.Namespace(
        seconds=0.2, rounds=1, connections=[2], users=2, workers=None, only=[STATUS], json=path
    )
    await measured(chosen)
    (row,) = json.loads(path.read_text("utf-8"))["rows"]
    assert row["name"] == STATUS
    assert row["answered"] > 0
    out = capsys.readouterr().out
    assert f"\n{STATUS} " in out
    assert "eyJ" not in out, "a token was printed"


@pytest.mark.prove
@pytest.mark.full
def test_the_routes_are_measured_beside_their_ceilings(tmp_path: Path) -> None:
    text, found = bench("tests.bench", tmp_path, *SHORT, "--users", "5")
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [BARE, CHECKED, PG_READ, PG_KEY, STATUS, KEY, INIT]
    assert all(f"\n{name} " in text for name in rows)
    assert all(rows[name]["answered"] > 0 for name in (BARE, CHECKED, STATUS, KEY, INIT))
    assert set(rows[KEY]["ratios"]) == {"bare", "token", "pgbench"}
    about = found["about"]
    assert [about["postgresql"][name] for name in ("fsync", "synchronous_commit")] == ["on", "on"]
    assert about["audit rows"] == about["answers to audit"] > 0


@pytest.mark.prove
@pytest.mark.full
def test_growth_is_measured_against_the_least_size(tmp_path: Path) -> None:
    options = ("--sizes", "5", "20", "--callers", "5", "--many-callers", "10", "--audit", "100")
    _, found = bench("tests.bench.growth", tmp_path, *SHORT, *options)
    keys = [row for row in found["rows"] if row["name"].startswith("GET /key")]
    assert [row["name"].partition(", ")[2] for row in keys] == [
        "5 users",
        "20 users",
        "20 users, 10 callers",
        "20 users, 100 audit rows",
    ]
    assert all(row["answered"] > 0 for row in keys)
    assert [list(row["ratios"]) for row in keys] == [[], ["least"], ["least"], ["least"]]


@pytest.mark.prove
@pytest.mark.full
def test_the_shapes_of_the_audit_table_are_compared(tmp_path: Path) -> None:
    _, found = bench("tests.bench.audit", tmp_path, *SHORT, "--rows", "1200", "--users", "10")
    assert [row["name"] for row in found["rows"]] == ["empty table", "one table", "partitioned"]
    let_go = [facts["oldest rows let go"] for facts in found["facts"].values()]
    assert all(90 <= rows <= 110 for rows in let_go)


@pytest.mark.prove
@pytest.mark.full
def test_commands_are_measured_beside_another_checkout(tmp_path: Path) -> None:
    names = ("python", "Tab in a shell", "custody --version", "custody kek list")
    options = ("--rounds", "1", "--beside", str(ROOT), "--only", *names)
    text, found = bench("tests.bench.commands", tmp_path, *options)
    (once,) = found["rounds"]
    assert set(once) == set(names)
    assert all(one["seconds"] > 0 for both in once.values() for one in both)
    assert all(f"\n{name} " in text for name in names)


@pytest.mark.prove
@pytest.mark.full
def test_starts_and_idle_connections_are_measured(tmp_path: Path) -> None:
    options = ("--starts", "1", "--idle", "60", "--users", "5")
    _, found = bench("tests.bench.start", tmp_path, *options)
    assert set(found["starts"][0]) == {"GET /key", "/readyz", "MiB"}
    assert found["idle"]["connections"] == 60


@pytest.mark.prove
@pytest.mark.full
def test_a_remote_kek_is_measured_beside_its_server(tmp_path: Path) -> None:
    _, found = bench("tests.bench.remote_kek", tmp_path, *SHORT, "--users", "5")
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [SERVER, BACKEND, KEY]
    assert all(row["answered"] > 0 for row in rows.values())
    assert list(rows[KEY]["ratios"]) == ["openbao"]


@pytest.mark.prove
@pytest.mark.full
def test_envelope_mode_is_measured_beside_a_kek_in_memory(tmp_path: Path) -> None:
    text, found = bench("tests.bench.envelope", tmp_path, *SHORT, "--users", "5")
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == [BARE, "env: direct", "OpenBao, envelope", "KMS stub, envelope"]
    assert all(row["answered"] > 0 for row in rows.values())
    # However fast it is: the KMS is asked for its key every 30 seconds, and for nothing else.
    assert re.search(r"calls of the KMS meanwhile: (none|\{'DescribeKey': 1\})\n", text)


@pytest.mark.prove
@pytest.mark.full
def test_a_kms_that_is_away_is_seen() -> None:
    # Back within five seconds where it has the machine for itself; here other proofs run beside it.
    options = ("--ttl", "2", "--age", "8", "--away", "12", "--users", "2", "--back", "10")
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.kms_away", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prove
@pytest.mark.full
def test_ways_to_another_kek_are_measured(tmp_path: Path) -> None:
    _, found = bench(
        "tests.bench.rotation", tmp_path, "--rounds", "1", "--few", "5", "--many", "20"
    )
    rows = {name: [one["rows"] for one in runs] for name, runs in found["runs"].items()}
    assert rows == {
        "shallow, 5 users": [0],
        "shallow, 20 users": [0],
        "plain, 20 users": [20],
        "deep, 20 users": [20],
    }


@pytest.mark.prove
@pytest.mark.full
def test_the_audit_is_verified_beside_reading_it(tmp_path: Path) -> None:
    text, found = bench("tests.bench.verify", tmp_path, "--rows", "300", "--users", "20")
    assert "300 rows, 1 checkpoints, 20 vaults: no finding" in text
    assert found["rows"] == 300
    assert found["verified rows/s"] > 0 < found["read alone rows/s"]


@pytest.mark.prove
@pytest.mark.full
def test_the_sealer_is_measured_on_and_off(tmp_path: Path) -> None:
    text, found = bench("tests.bench.sealer", tmp_path, *SHORT, "--users", "5", "--rows", "50")
    assert [row["name"] for row in found["rows"]] == [BARE, "sealer off", "sealer on"]
    assert "sealing alone: 50 rows in" in text


@pytest.mark.prove
@pytest.mark.full
def test_what_a_user_takes_and_a_login_writes(tmp_path: Path) -> None:
    options = ("--users", "200", "--seconds", "0.3")
    text, found = bench("tests.bench.scale", tmp_path, *options)
    assert all(what in text and value > 0 for what, value in found.items())
    # In a batch logins share what a transaction writes.
    shared, alone = (found[f"bytes of WAL a login, {n} at once, later"] for n in (64, 1))
    assert shared < alone
