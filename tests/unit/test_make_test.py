"""``make test`` ends, whatever hangs in it."""

import signal
import sys

import pytest

from tests.__main__ import run


def python(program: str, seconds: float) -> int:
    # Not measured, it begins within a fraction of the least time that a test gives it.
    return run([sys.executable, "-X", "faulthandler", "-c", program], {}, seconds)


def test_its_exit_code_is_that_of_the_tests() -> None:
    assert python("raise SystemExit(3)", 30) == 3


def test_what_hangs_says_where_and_is_given_up(capfd: pytest.CaptureFixture[str]) -> None:
    assert python("import time\ndef stuck(): time.sleep(60)\nstuck()", 2) == -signal.SIGABRT
    said = capfd.readouterr().err
    assert "more than 2 s: given up" in said
    assert "in stuck" in said


def test_what_can_say_nothing_is_ended_all_the_same(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.__main__._LAST_WORDS_SECONDS", 0.2)
    deaf = "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT])\n"
    assert python(f"{deaf}print('deaf', flush=True)\ntime.sleep(60)", 2) == 1
    assert "deaf" in capfd.readouterr().out
