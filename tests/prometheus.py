"""Debian's Prometheus and its promtool."""

import os
import shutil

import pytest


def binary(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``; where it is not, the test is skipped."""
    found = shutil.which(name)
    if found is None:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking(f"{name} is not installed: apt-get install --no-install-recommends prometheus")
    return found
