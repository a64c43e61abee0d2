"""``make test``: the tests, the fast ones first. ``make prove``: the long proofs.

A proof is a test with the mark ``prove``: many repetitions, long waits, faults of what it
stands on, and most of what takes half a second and more. What it proves stands in ``make test`` in
a small form, or rests on what is tested there.
``make cover`` runs both, and measures what of the code they reach.
"""

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
# Many times what they take on two cores. Each test has a limit of its own; this one is for what no
# test's limit ends.
LONGEST_SECONDS = 20 * 60
LONGEST_PROOF_SECONDS = 75 * 60
_LAST_WORDS_SECONDS = 10
_LEAST_COVERAGE = 95
_SLOWEST_SHOWN = 20
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


def main() -> int:
    """Run the tests; the first argument may be ``prove`` or ``cover``, others go to pytest.

    Returns:
        The exit code of pytest, or of the coverage report.
    """
    # A shell that runs us in the background ignores SIGINT, and our children would inherit that:
    # a Ctrl-C in a test would do nothing. A handler is not inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mode = next(iter(sys.argv[1:2]), "")
    mode = mode if mode in {"prove", "cover"} else "test"
    arguments = sys.argv[1:] if mode == "test" else sys.argv[2:]
    logs = tempfile.mkdtemp(prefix="custody-test-logs-")
    environ = environ_of_all(logs)
    longest = LONGEST_SECONDS if mode == "test" else LONGEST_PROOF_SECONDS
    try:
        for options in _runs(mode, arguments):
            command = [sys.executable, "-m", "pytest", f"--durations={_SLOWEST_SHOWN}", *options]
            if failed := run(command, environ, longest):
                return failed
        if mode != "cover":
            return 0
        report = [sys.executable, "-m", "coverage", "report", f"--fail-under={_LEAST_COVERAGE}"]
        return subprocess.run(report, cwd=ROOT, check=False).returncode
    finally:
        shutil.rmtree(logs, ignore_errors=True)


def _runs(mode: str, arguments: list[str]) -> list[list[str]]:
    """Return what pytest is told, for each time that it is run."""
    asked = arguments or [f"tests/{folder}" for folder in FOLDERS]
    short = ["-n", str(workers(proves=False)), "-m", "not prove", *asked]
    long = ["-n", str(workers(proves=True)), *([] if arguments else ["-m", "prove"]), *asked]
    if mode == "test":
        return [short]
    if mode == "prove":
        return [long]
    # The short ones by themselves: so many at once would be too many for proofs.
    measured = ["--cov", "--cov-report="]
    return [[*short, *measured], [*long, *measured, "--cov-append"]]


def environ_of_all(logs: str) -> dict[str, str]:
    """Return the variables of the processes that share the tests.

    Each imports all tests: one may read what another has compiled, whatever this shell says. Half
    a minute of work would be done again and again.

    Args:
        logs: the folder for what is logged.
    """
    without = {name: value for name, value in os.environ.items() if name != _NO_BYTECODE}
    return without | {"CUSTODY_TEST_LOGS": logs}


def workers(*, proves: bool) -> int:
    """Return how many processes share the tests: tests wait half of their time, mostly.

    Each has a PostgreSQL of its own, so many cores get no more than one process each. Proofs wait
    as much, but some are under load, and those want a core for themselves.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return cores + 1 if proves else max(cores, min(2 * cores, 8))


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
