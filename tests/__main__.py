"""``make test``: all tests on all cores, with coverage, the fast ones first."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("unit", "kek", "db", "http", "rewrap", "systemd", "e2e")
# Three times what they take on two cores. Each test has a limit of its own; this one is for what no
# test's limit ends.
LONGEST_SECONDS = 75 * 60
_LAST_WORDS_SECONDS = 10


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
        command = [*python, "pytest", "-n", "auto", "--cov", "--cov-report=", *chosen]
        tested = run(command, environ, LONGEST_SECONDS)
        if tested or sys.argv[1:]:
            return tested
        return subprocess.run(
            [*python, "coverage", "report", "--fail-under=95"], cwd=ROOT, check=False
        ).returncode
    finally:
        shutil.rmtree(logs, ignore_errors=True)


def run(command: list[str], environ: dict[str, str], seconds: float) -> int:
    """Run a command, for so long at most; then it says where each of its threads is, and ends.

    Args:
        command: a Python program that has faulthandler enabled, as pytest has.
        environ: its variables.
        seconds: how long it may take.

    Returns:
        Its exit code.
    """
    with subprocess.Popen(command, cwd=ROOT, env=environ) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            print(f"the tests took more than {seconds} s: given up", file=sys.stderr)  # noqa: T201
            process.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_LAST_WORDS_SECONDS)
            return 1
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
