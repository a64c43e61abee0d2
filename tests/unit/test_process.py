"""Process hygiene, in processes of their own: core dumps, locked memory, an end with the parent."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.eventually import soon
from tests.servers import ROOT
from tests.unit.children import Done, python

HARDEN = """
import ctypes, pathlib, resource, sys
from custody.ops.process import harden
limit = int(sys.argv[1])
try:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
except ValueError:
    # With CAP_IPC_LOCK no limit binds, whatever is said of it.
    ask = resource.getrlimit
    resource.getrlimit = lambda of: (limit, limit) if of == resource.RLIMIT_MEMLOCK else ask(of)
harden()
much = bytearray(64 * 1024 * 1024)
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
assert ctypes.CDLL(None).prctl(3) == 0, "dumpable"
print(pathlib.Path("/proc/self/status").read_text())
"""
FINITE = 8 * 1024 * 1024
CAP_IPC_LOCK = 14

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
print(child.pid, flush=True)
time.sleep(60)
"""
CHILD = """
import os, pathlib, signal, sys, time
from custody.ops.process import end_with_parent
folder = pathlib.Path(sys.argv[1])
def end(*_):
    (folder / "told").touch()
    sys.exit()
signal.signal(signal.SIGTERM, end)
end_with_parent(os.getppid())
(folder / "begun").touch()
time.sleep(60)
"""
ORPHAN = """
import sys
from custody.ops.process import end_with_parent
end_with_parent(int(sys.argv[1]))
print("goes on")
"""


def run(code: str, *arguments: str) -> Done:
    return python("-c", code, *arguments, environ=dict(os.environ))


def locked_kilobytes(limit: int) -> int:
    """Return how much memory a hardened process under a limit has locked."""
    done = run(HARDEN, str(limit))
    assert done.returncode == 0, done.stderr
    found = re.search(r"(?m)^VmLck:\s*(\d+) kB$", done.stdout)
    assert found is not None
    return int(found[1])


def may_lock_without_limit() -> bool:
    found = re.search(r"(?m)^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text())
    assert found is not None
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    return hard == resource.RLIM_INFINITY or bool(int(found[1], 16) >> CAP_IPC_LOCK & 1)


@pytest.mark.skipif(
    not may_lock_without_limit(), reason="RLIMIT_MEMLOCK is finite here, and CAP_IPC_LOCK missing"
)
def test_memory_is_locked_where_that_has_no_limit() -> None:
    assert locked_kilobytes(resource.RLIM_INFINITY) > 64 * 1024


def test_memory_is_not_locked_under_a_limit() -> None:
    """Else the allocation that goes beyond it would fail."""
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    limit = FINITE if hard == resource.RLIM_INFINITY else min(FINITE, hard)
    assert locked_kilobytes(limit) == 0


def test_child_of_a_parent_that_is_killed_is_told_to_end(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            soon((tmp_path / "begun").exists)
            assert not (tmp_path / "told").exists()
            parent.kill()
            soon((tmp_path / "told").exists)
        finally:
            parent.kill()
            if not (tmp_path / "told").exists():
                os.kill(child, signal.SIGKILL)


def test_child_whose_parent_ended_before_it_asked_ends() -> None:
    done = run(ORPHAN, str(os.getpid()))
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    # Of another parent, as after the end of ours.
    done = run(ORPHAN, str(os.getppid()))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
