"""`.ci/audit.py`: a vulnerability fails, and what was not looked at never passes for clean."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.children import ci_script

CLEAN = {"name": "one", "version": "1", "vulns": []}
SKIPPED = {"name": "one", "skip_reason": "not found"}
VULNERABLE = CLEAN | {"vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}


Audit = Callable[[str, int], int]


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """`.ci/audit.py` beside a pip-audit whose answer and exit code are given; says its own code."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    lock, tool, said = (tmp_path / name for name in ("a.lock", "pip-audit", "answer"))
    lock.write_text("one==1 \\\n    --hash=sha256:00\n", "utf-8")

    def run(answer: str, code: int) -> int:
        said.write_text(answer, "utf-8")
        text = f"#!/bin/sh\ncat '{said}'\necho 'it did not work' >&2\nexit {code}\n"
        tool.write_text(text, "utf-8")
        tool.chmod(0o700)
        return int(ci_script("audit").main(str(lock), str(lock)))

    return run


@pytest.mark.parametrize(
    ("said", "code", "line"),
    [
        (CLEAN, 0, "audit: 1 releases, no known vulnerability"),
        (SKIPPED, 0, "audit: 1 of 1 releases NOT looked at: the index has no such data"),
        (VULNERABLE, 1, "audit: one 1: PYSEC-1, mended in: 2"),
    ],
)
def test_what_is_known_is_said(
    audit: Audit, capsys: pytest.CaptureFixture[str], said: dict[str, Any], code: int, line: str
) -> None:
    assert audit(json.dumps({"dependencies": [said]}), code) == code
    assert capsys.readouterr().out == f"{line}\n"


def test_a_source_that_is_down_is_no_clean_result_and_no_failure(
    audit: Audit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit("", 1) == 0
    assert capsys.readouterr().out == "audit: 1 of 1 releases NOT looked at: it did not work\n"
