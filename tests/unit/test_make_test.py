"""``make test`` ends, whatever hangs in it, and compiles once what all its processes import."""

import signal
import sys
from pathlib import Path

import pytest

from tests.__main__ import environ_of_all, run


def python(program: str, seconds: float) -> int:
    # Not measured, it begins within a fraction of the least time that a test gives it.
    return run([sys.executable, "-X", "faulthandler", "-c", program], {}, seconds)


def test_its_exit_code_is_that_of_the_tests() -> None:
    assert python("raise SystemExit(3)", 30) == 3


@pytest.mark.prove
def test_what_hangs_says_where_and_is_given_up(capfd: pytest.CaptureFixture[str]) -> None:
    assert python("import time\ndef stuck(): time.sleep(60)\nstuck()", 2) == -signal.SIGABRT
    said = capfd.readouterr().err
    assert "more than 2 s: given up" in said
    assert "in stuck" in said


@pytest.mark.prove
def test_what_can_say_nothing_is_ended_all_the_same(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.__main__._LAST_WORDS_SECONDS", 0.2)
    deaf = "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT])\n"
    assert python(f"{deaf}print('deaf', flush=True)\ntime.sleep(60)", 2) == 1
    assert "deaf" in capfd.readouterr().out


def test_what_one_process_has_compiled_is_there_for_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    (tmp_path / "imported.py").touch()
    program = f"import sys\nsys.path[:0] = [{str(tmp_path)!r}]\nimport imported"
    assert run([sys.executable, "-c", program], environ_of_all(str(tmp_path)), 30) == 0
    assert list(tmp_path.rglob("imported.*.pyc"))
