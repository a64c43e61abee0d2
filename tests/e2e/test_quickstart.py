"""The quickstart, line by line: its commands are run as they stand, and print what it shows."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.dev import environ_for, running
from tests.leaks import remember
from tests.servers import ROOT

PAGE = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
# What differs from run to run: keys and wraps, in base64.
_SECRET = re.compile(r'("(?:masterKey|recoveryWrappedMk|recoveryIv)": ?)"([^"]+)"')
_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _steps() -> Iterator[tuple[str, list[str]]]:
    """Return the commands with the lines that are shown for them: those that are JSON alone."""
    blocks = _BLOCK.findall(PAGE)
    for (kind, commands), (following, shown) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "sh" and "curl" in commands:
            answers = shown.splitlines() if following == "text" else []
            yield commands, [line for line in answers if line.startswith("{")]


def _bare(line: str) -> object:
    for _, secret in _SECRET.findall(line):
        remember(secret)
    return json.loads(_SECRET.sub(r'\1"…"', line))


def test_its_commands_print_what_it_shows(folder: Path) -> None:
    steps = list(_steps())
    assert sum(len(shown) for _, shown in steps) >= 10
    with running(folder / "data") as dev:
        vault, admin = (dev.address(name).split("/")[2] for name in ("vault", "admin"))
        custody = f"'{sys.executable}' -m custody"
        script = "set -euo pipefail\n"
        for number, (commands, _) in enumerate(steps):
            script += f"{commands}\necho 'end {number}'\n"
        script = script.replace("127.0.0.1:3001", vault).replace("127.0.0.1:3002", admin)
        script = re.sub(
            r"\.venv/bin/custody token", f"{custody} token --data '{folder / 'data'}'", script
        )
        done = subprocess.run(
            ["bash", "-c", script],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environ_for(),
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    printed = re.split(r"^end \d+\n", done.stdout, flags=re.MULTILINE)
    for (_, shown), lines in zip(steps, printed, strict=False):
        if shown:
            said = [line for line in lines.splitlines() if line.startswith("{")]
            assert [_bare(line) for line in said] == [_bare(line) for line in shown]
