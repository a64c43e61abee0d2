"""Benchmarks: run by ``make bench`` and its like; the tests only try out that they work."""

import atexit
import os
import shutil
import tempfile

# Daemons log there (tests/leaks.py). A test that runs a benchmark has a folder already, whose logs
# it searches; ours would stay behind, at a line for each of some hundred thousand requests.
if "CUSTODY_TEST_LOGS" not in os.environ:
    os.environ["CUSTODY_TEST_LOGS"] = tempfile.mkdtemp(prefix="custody-bench-logs-")
    atexit.register(shutil.rmtree, os.environ["CUSTODY_TEST_LOGS"], ignore_errors=True)
