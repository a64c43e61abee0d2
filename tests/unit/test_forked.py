"""Processes of the tests that are forked behave as started ones do."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.eventually import soon
from tests.forked import Forked


def start(folder: Path, module: str, *arguments: str, **environ: str) -> Forked:
    return Forked(module, *arguments, environ=environ, out=folder / "out", err=folder / "err")


def test_the_exit_code_and_the_output_are_those_of_the_module(tmp_path: Path) -> None:
    process = start(tmp_path, "custody", "no-such-command", PATH=os.environ["PATH"])
    assert process.wait(20) == 2
    assert process.poll() == process.returncode == 2
    assert "no-such-command" in (tmp_path / "err").read_text("utf-8")
    assert (tmp_path / "out").read_text("utf-8") == ""


def test_it_gets_the_arguments_and_no_variable_but_those_given(tmp_path: Path) -> None:
    words = ("custody", "config", "--json")
    given = {"CUSTODY_LISTEN": "127.0.0.1:4711", "PATH": os.environ["PATH"]}
    assert start(tmp_path, *words, **given).wait(20) == 0
    started = subprocess.run(
        [sys.executable, "-m", *words], env=given, capture_output=True, check=True, text=True
    )
    assert (tmp_path / "out").read_text("utf-8") == started.stdout


def test_it_leads_a_group_and_ends_by_a_signal(tmp_path: Path) -> None:
    process = start(tmp_path, "timeit", "-n", "1", "-r", "1", "__import__('time').sleep(60)")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    assert process.poll() is None
    soon(lambda: os.getpgid(process.pid) == process.pid)
    process.terminate()
    assert process.wait(20) == -signal.SIGTERM
