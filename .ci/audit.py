"""Look the releases of lock files up among known vulnerabilities, and say what was not looked up.

    python3 .ci/audit.py LOCK…

Runs the pip-audit of its own environment. That takes a release that its source does not know for
one without vulnerabilities, and ends with 0; here it counts as not looked at.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SECONDS = 300


class NotLookedAt(Exception):
    """The data can't be had; the message is why, in one line."""


def ask(lock: str) -> list[dict[str, Any]]:
    """Return what pip-audit says of each release of a lock.

    Args:
        lock: a file of releases with their hashes.

    Raises:
        NotLookedAt: pip-audit could not say anything.
    """
    command = [str(Path(sys.executable).with_name("pip-audit")), "--format", "json"]
    command += ["--disable-pip", "--require-hashes", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, "--timeout", "15", "--requirement", lock],
            check=False,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise NotLookedAt(f"no answer within {_SECONDS} seconds") from None
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        # pip-audit has one exit code for a vulnerability and for its own failures.
        last = done.stderr.strip().rpartition("\n")[2]
        raise NotLookedAt(last[:200] or f"pip-audit ended with {done.returncode}") from None
    return found


def releases(lock: str) -> set[str]:
    """Return the names that a lock has, as an index spells them."""
    names = re.findall(r"(?m)^([\w.-]+)==", Path(lock).read_text("utf-8"))
    return {normal(name) for name in names}


def normal(name: str) -> str:
    """Return a project's name as an index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def vulnerabilities(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield one line for each known vulnerability."""
    for name, release in sorted(found.items()):
        for one in release.get("vulns", ()):
            cure = ", ".join(one.get("fix_versions", ())) or "no release yet"
            yield f"audit: {name} {release['version']}: {one['id']}, mended in: {cure}"


def say(line: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{line}\n")


def main(*locks: str) -> int:
    """Say what is known, and of how many releases nothing could be learnt.

    Args:
        locks: files.

    Returns:
        1 where there is a known vulnerability, or else 0.
    """
    wanted: set[str] = set()
    found: dict[str, dict[str, Any]] = {}
    reason = "the index has no such data"
    reachable = True
    for lock in locks:
        try:
            # What could not be reached once is not waited for again.
            answers = ask(lock) if reachable else []
        except NotLookedAt as error:
            reason, reachable, answers = str(error), False, []
        # pip-audit leaves out what is for another system: that is never installed here.
        wanted |= {normal(one["name"]) for one in answers} or releases(lock)
        found |= {normal(one["name"]): one for one in answers if "skip_reason" not in one}
    lines = list(vulnerabilities(found))
    for line in lines:
        say(line)
    if left := wanted - found.keys():
        say(f"audit: {len(left)} of {len(wanted)} releases NOT looked at: {reason}")
    elif not lines:
        say(f"audit: {len(wanted)} releases, no known vulnerability")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
