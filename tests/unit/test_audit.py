"""`.ci/audit.py`: a vulnerability fails, and what was not looked at never passes for clean."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ROOT

CLEAN = {"name": "one", "version": "1", "vulns": []}
SKIPPED = {"name": "one", "skip_reason": "not found"}
VULNERABLE = CLEAN | {"vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}


class Audit:
    """`.ci/audit.py` beside a pip-audit that answers what it is told to."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("custody_audit", ROOT / ".ci/audit.py")
        assert spec is not None
        assert spec.loader is not None
        self._module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._module)
        self._folder = folder
        self.lock = folder / "a.lock"
        self.lock.write_text("one==1 \\\n    --hash=sha256:00\n", "utf-8")

    def run(self, answer: str, code: int) -> int:
        """Return the exit code."""
        (self._folder / "answer").write_text(answer, "utf-8")
        tool = self._folder / "pip-audit"
        cat = f"cat '{self._folder}/answer'"
        tool.write_text(f"#!/bin/sh\n{cat}\necho 'it did not work' >&2\nexit {code}\n", "utf-8")
        tool.chmod(0o700)
        return int(self._module.main(str(self.lock), str(self.lock)))


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return Audit(tmp_path)


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
    assert audit.run(json.dumps({"dependencies": [said]}), code) == code
    assert capsys.readouterr().out == f"{line}\n"


def test_a_source_that_is_down_is_no_clean_result_and_no_failure(
    audit: Audit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.run("", 1) == 0
    assert capsys.readouterr().out == "audit: 1 of 1 releases NOT looked at: it did not work\n"
