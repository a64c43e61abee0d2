"""``make mutate ARGS="custody/vault"``: mutants of an area, made and judged by mutmut.

Each mutant has one fault: a comparison turned round, an argument gone, a constant one more. It is
killed when a test fails. Tests that cover a function are those that called it in a first run. Where
an area has more mutants than were asked for, they are drawn at random, by a seed.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.leaks import LOGS
from tests.mutation.areas import AREAS, Area
from tests.mutation.plugin import FOLDER, PORT
from tests.servers import ROOT, postgres_server

_COPIED = ("custody", "kek_backends", "sql", "tests", "docs", "systemd", "pyproject.toml")
# What is written to be read is no behaviour: a log line, the words of an error.
_WORDS = (r"log\.\w+\(", r"raise \w+\(f?\"")
# Nothing is drawn by this: mutmut makes all mutants, and sees which tests call what, when it runs.
_NONE_OF_THEM = "none"
_KILLED = {1, 3}
_CONFIGURATION = """
[tool.mutmut]
source_paths = ["custody", "kek_backends"]
only_mutate = {modules}
also_copy = ["sql", "docs", "systemd"]
do_not_mutate_patterns = {words}
pytest_add_cli_args = ["-p", "tests.mutation.plugin", "-p", "no:cacheprovider", "-m", "not prove"]
pytest_add_cli_args_test_selection = {tests}
process_isolation = "forkserver"
use_git_change_detection = false
debug = true
timeout_multiplier = 4.0
timeout_constant = 4.0
"""


def main() -> int:
    """Judge an area's mutants, and print those that no test has noticed."""
    parser = argparse.ArgumentParser(prog="make mutate ARGS=…", description=__doc__)
    parser.add_argument("area", choices=AREAS)
    parser.add_argument("--sample", type=int, default=150, help="how many at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=20, help="what draws them (%(default)s)")
    parser.add_argument("--only", help="these alone, a pattern of their names")
    asked = parser.parse_args()
    folder = ROOT / "dist" / "mutants" / asked.area.replace("/", "-")
    _lay(folder, AREAS[asked.area])
    try:
        with postgres_server() as server:
            environ = os.environ | {FOLDER: str(server.folder), PORT: str(server.port)}
            # The first time it ends with its complaint that nothing of that name is there.
            said = _mutmut(folder, environ, _NONE_OF_THEM)
            if not any(_results(folder)):
                _say(said)
                return 1
            names = [asked.only] if asked.only else _drawn(folder, asked.sample, asked.seed)
            _mutmut(folder, environ, *names)
    finally:
        shutil.rmtree(LOGS, ignore_errors=True)
    return _report(folder, names)


def _lay(folder: Path, area: Area) -> None:
    """Make a copy of what is tested, as mutmut wants to find it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in _COPIED:
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, folder)
        else:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    selection = [*area.tests, *(("-k", area.leave_out) if area.leave_out else ())]
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        lists = {"modules": area.modules, "words": _WORDS, "tests": selection}
        as_toml = {name: json.dumps(list(value)) for name, value in lists.items()}
        file.write(_CONFIGURATION.format(**as_toml))


def _mutmut(folder: Path, environ: dict[str, str], *names: str) -> str:
    command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", "1", *names]
    with (folder / "mutmut.log").open("a", encoding="utf-8") as log:
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, check=False
        )
        log.write(done.stdout + done.stderr)
    return done.stdout + done.stderr


def _results(folder: Path) -> Iterator[tuple[str, int | None]]:
    """Return each mutant with the exit code of its tests, None where they were not run."""
    for path in sorted((folder / "mutants").rglob("*.py.meta")):
        yield from json.loads(path.read_text("utf-8"))["exit_code_by_key"].items()


def _drawn(folder: Path, count: int, seed: int) -> list[str]:
    names = sorted(name for name, _ in _results(folder))
    if len(names) <= count:
        return names
    return random.Random(seed).sample(names, count)  # noqa: S311 - a sample, no secret


def _report(folder: Path, names: list[str]) -> int:
    results = dict(_results(folder))
    judged = {name: code for name, code in results.items() if code is not None}
    if not judged:
        _say("nothing was judged: see", folder / "mutmut.log")
        return 1
    verdicts = Counter(map(_verdict, judged.values()))
    killed = verdicts["killed"] + verdicts["timeout"]
    _say(f"{len(results)} mutants, {len(judged)} judged: {dict(verdicts)}")
    _say(f"killed: {100 * killed / len(judged):.1f} %")
    for name, code in judged.items():
        if _verdict(code) not in {"killed", "timeout"}:
            _say(f"\n{_verdict(code)}: {name}")
            _say(_difference(folder, name))
    return 0


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")


def _verdict(code: int | None) -> str:
    if code in _KILLED:
        return "killed"
    return {0: "survived", 33: "no test", 5: "no test"}.get(code or 0, "timeout")


def _difference(folder: Path, name: str) -> str:
    mutmut = Path(sys.executable).with_name("mutmut")
    shown = subprocess.run(
        [str(mutmut), "show", name], cwd=folder, capture_output=True, text=True, check=False
    )
    changed = [line for line in shown.stdout.splitlines() if line[:1] in "+-"]
    return "\n".join(line for line in changed if line[:3] not in {"+++", "---"})


if __name__ == "__main__":
    sys.exit(main())
