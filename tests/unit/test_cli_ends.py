"""How commands end when nobody wants them any more: Ctrl-C, a full disk, a reader that has gone."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from custody.cli.commands import event_loop
from custody.development.issuer import DevelopmentIssuer
from tests.proofs import some
from tests.servers import ROOT
from tests.unit.children import python
from tests.unit.commands import commands

# What each command needs to come as far as its work.
WORDS = {
    "audit follow": ("--state", "state"),
    "audit prune": ("--before", "2026-01-01", "--export", "-", "--yes"),
    "audit redact": ("--before", "2026-01-01", "--yes"),
    "completion": ("bash",),
    "kek forget": ("kek-id", "--yes"),
    "kek retire": ("kek-id",),
    "token": ("--sub", "alice"),
    "users erase": ("somebody", "--yes"),
    "users replay-erasures": ("--yes",),
}
# Ctrl-C comes in the middle of an import: that of the module named first.
_INTERRUPTED = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == wanted:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
wanted = sys.argv.pop(1)
sys.meta_path.insert(0, Finder())
runpy.run_module("custody", run_name="__main__", alter_sys=True)
"""


# ── Ctrl-C ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("module", ["custody.cli", "click", "click.core", "custody.cli.rewrap"])
def test_interrupted_before_the_command_is_known(module: str) -> None:
    done = python("-c", _INTERRUPTED, module, "doctor")
    assert (done.returncode, done.stderr.strip()) == (130, "")


@pytest.mark.prove
@pytest.mark.parametrize("command", sorted(set(commands()) - {"completion"}))
def test_interrupted_while_the_command_is_loaded(command: str) -> None:
    words = (*command.split(), *WORDS.get(command, ()))
    done = python("-c", _INTERRUPTED, "custody.cli.commands", *words)
    assert (done.returncode, done.stderr.strip()) == (130, "")


@pytest.mark.parametrize("module", ["pydantic_core", "asyncpg", "cryptography", "structlog"])
def test_interrupted_in_what_others_wrote(module: str) -> None:
    done = python("-c", _INTERRUPTED, module, "doctor")
    assert (done.returncode, done.stderr.strip()) == (130, "")


@pytest.mark.prove
def test_interrupted_at_work() -> None:
    """Here a database that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://custody_rewrap:x@127.0.0.1:{silent.getsockname()[1]}/custody"
        process = subprocess.Popen(
            [sys.executable, "-m", "custody", "kek", "list"],
            env={"PATH": os.environ["PATH"], "CUSTODY_REWRAP_DATABASE_URL": url},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.settimeout(30)
        with silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
    assert (process.returncode, said.strip()) == (130, "")


def test_interrupted_just_when_what_it_waits_for_is_there() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        awaited = loop.create_future()

        def done() -> None:
            signal.raise_signal(signal.SIGINT)
            awaited.set_result(None)

        loop.call_soon(done)
        await awaited

    with capture_logs() as logged, pytest.raises(KeyboardInterrupt):
        event_loop.run(work())
    assert not logged


# ── standard output ───────────────────────────────────────────────────────────

LOST = (
    "custody: standard output could not be written: No space left on device; what is there is not "
    "whole\n"
)
PRINTING = [
    ("--help",),
    ("--version",),
    ("rewrap", "run", "--help"),
    ("completion", "zsh"),
    ("config",),
    ("config", "--json"),
    ("doctor",),
    ("doctor", "--json"),
    ("kek", "generate"),
    ("openapi",),
]


@pytest.fixture
def full() -> Iterator[int]:
    """A disk that is full."""
    with Path("/dev/full").open("wb", buffering=0) as device:
        yield device.fileno()


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe whose reader has gone, as `| head -0` leaves it."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("words", some(PRINTING, *PRINTING[1:7:2], ids=" ".join))
def test_a_full_disk(words: tuple[str, ...], full: int) -> None:
    done = python("-m", "custody", *words, out=full)
    assert (done.returncode, done.stderr) == (74, LOST)


@pytest.mark.parametrize("words", some(PRINTING, *PRINTING[1:7:2], ids=" ".join))
def test_a_reader_that_has_gone(words: tuple[str, ...], unread: int) -> None:
    done = python("-m", "custody", *words, out=unread)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_token_that_nobody_got(tmp_path: Path, full: int) -> None:
    DevelopmentIssuer.create(tmp_path)
    done = python("-m", "custody", "token", "--sub", "alice", "--data", str(tmp_path), out=full)
    assert (done.returncode, done.stderr) == (74, LOST)


def test_a_shell_that_asks_for_completions(full: int) -> None:
    asked = {"_CUSTODY_COMPLETE": "bash_complete", "COMP_WORDS": "custody ", "COMP_CWORD": "1"}
    done = python("-m", "custody", out=full, environ=asked)
    assert (done.returncode, done.stderr) == (74, LOST)


def test_unbuffered(full: int) -> None:
    done = python("-m", "custody", "--version", out=full, environ={"PYTHONUNBUFFERED": "1"})
    assert (done.returncode, done.stderr) == (74, LOST)


@pytest.mark.prove
def test_a_standard_error_that_is_full(full: int) -> None:
    """Then the exit code alone can tell."""
    for words, code in ((("serve",), 78), (("no-such-command",), 2), (("kek", "list"), 78)):
        done = subprocess.run(
            [sys.executable, "-m", "custody", *words],
            env={"PATH": os.environ["PATH"]},
            cwd=ROOT,
            stdout=full,
            stderr=full,
            check=False,
            timeout=60,
        )
        assert done.returncode == code
