"""What must hold for a measured run to end: see tests/tracing.py."""

import subprocess
import sys
from pathlib import Path

import pytest
from coverage.collector import Collector

_THREAD = """
import gc, threading
import coverage
from greenlet import greenlet
from tests.tracing import ask_for_greenlets_in_the_main_thread_only

measured = coverage.Coverage(data_file=None, config_file=False, concurrency=["thread", "greenlet"])
measured.start()
{}
begun, end = threading.Event(), threading.Event()

def work():
    begun.set()
    end.wait()

thread = threading.Thread(target=work)
thread.start()
begun.wait()
print(sum(isinstance(one, greenlet) for one in gc.get_objects()))
end.set()
thread.join()
"""


@pytest.mark.parametrize(
    ("asked", "greenlets"), [("", "2"), ("ask_for_greenlets_in_the_main_thread_only()", "1")]
)
def test_a_thread_has_a_greenlet_only_where_coverage_asks_it(asked: str, greenlets: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _THREAD.format(asked)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
        env={},
    )
    assert (done.stdout.strip(), done.stderr) == (greenlets, "")


def test_this_run_is_measured_so() -> None:
    assert isinstance(vars(Collector).get("concur_id_func"), property)
