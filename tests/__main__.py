"""``make test``: all tests on all cores, with coverage, the fast ones first."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("unit", "kek", "db", "http", "rewrap", "systemd", "e2e")


def main() -> int:
    """Run the tests; arguments go to pytest.

    Returns:
        The exit code of pytest, or of the coverage report.
    """
    # A shell that runs us in the background ignores SIGINT, and our children would inherit that:
    # a Ctrl-C in a test would do nothing. A handler is not inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logs = tempfile.mkdtemp(prefix="custody-test-logs-")
    environ = os.environ | {"CUSTODY_TEST_LOGS": logs}
    chosen = sys.argv[1:] or [f"tests/{folder}" for folder in FOLDERS]
    python = [sys.executable, "-m"]
    try:
        tested = subprocess.run(
            [*python, "pytest", "-n", "auto", "--cov", "--cov-report=", *chosen],
            cwd=ROOT,
            env=environ,
            check=False,
        ).returncode
        if tested or sys.argv[1:]:
            return tested
        return subprocess.run(
            [*python, "coverage", "report", "--fail-under=95"], cwd=ROOT, check=False
        ).returncode
    finally:
        shutil.rmtree(logs, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
