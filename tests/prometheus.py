"""Debian's Prometheus and its promtool."""

import os
import re
import shutil
import subprocess

import pytest


def binary(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``; where it is not, the test is skipped."""
    found = shutil.which(name)
    if found is None:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking(f"{name} is not installed: apt-get install --no-install-recommends prometheus")
    return found


def lint(exposition: str) -> str:
    """Return what ``promtool check metrics`` finds wrong; nothing is the best.

    Args:
        exposition: OpenMetrics. Debian's promtool reads the form of before, in which a counter is
            described under its whole name and nothing says when it was made.
    """
    lines = [line for line in exposition.splitlines() if "_created" not in line.split("{")[0]]
    text = "\n".join(lines)
    for counter in re.findall(r"(?m)^# TYPE (\w+) counter$", text):
        text = re.sub(rf"(?m)^# (HELP|TYPE) {counter} ", rf"# \1 {counter}_total ", text)
    done = subprocess.run(
        [binary("promtool"), "check", "metrics"],
        input=text + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr
