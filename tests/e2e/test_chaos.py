"""``make chaos``: each fault once and for a moment; and what it says where something is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.fault import Result
from tests.chaos.table import show
from tests.servers import ROOT

SECONDS = 280


@pytest.mark.prove
@pytest.mark.timeout(SECONDS + 20)
def test_each_fault_for_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "chaos.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--seconds", "0.8", "--json", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(path.read_text("utf-8"))["results"]
    tried = [one for one in results if not one["skipped"]]
    assert len(tried) > 15
    for one in tried:
        assert one["faults"] > 0, one
        assert one["requests"] > 10, one
    # Faults they were: of most of them users have noticed something.
    assert sum(bool(one["errors"]) for one in tried) > len(tried) / 3


def test_what_was_lost_is_shown_and_is_not_good() -> None:
    good = Result("disk full", 1, 100, {"DATABASE_UNAVAILABLE": 3}, back=0.5)
    lost = Result("stop fast", 1, 100, lost=("lost: alice",))
    away = Result("frozen", 1, 100, back=float("inf"))
    skipped = Result("clock", skipped="there is no C compiler (cc)")
    said = show([good, lost, away, skipped])
    assert "disk full: not served: 3 DATABASE_UNAVAILABLE" in said
    assert "stop fast: lost: alice" in said
    assert "not tried: there is no C compiler" in said
    assert [one.is_good for one in (good, lost, away, skipped)] == [True, False, False, True]
