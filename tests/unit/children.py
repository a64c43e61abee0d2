"""What runs beside the tests: Python as a process of its own, and the scripts of ``.ci``."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from tests.servers import ROOT

Done: TypeAlias = "subprocess.CompletedProcess[str]"


def python(
    *words: str,
    folder: Path = ROOT,
    out: int = subprocess.PIPE,
    environ: dict[str, str] | None = None,
) -> Done:
    """Run Python, with no variables but those that are given."""
    return subprocess.run(
        [sys.executable, *words],
        env={"PATH": os.environ["PATH"], **(environ or {})},
        cwd=folder,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=100,
    )


def ci_script(name: str) -> ModuleType:
    """Load a script of ``.ci`` as a module."""
    spec = importlib.util.spec_from_file_location(f"custody_{name}", ROOT / f".ci/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
