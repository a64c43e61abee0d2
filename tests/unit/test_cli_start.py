"""Commands answer at once: what they load, and what they don't; and their exit codes."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from custody.auth.development import DevelopmentIssuer
from custody.cli.exit_codes import CODES, exit_code_of
from custody.db.errors import Busy, DatabaseError
from custody.db.migrate import MigrationError
from kek_backends.errors import Tampered
from tests.servers import ROOT

# Each takes a tenth of a second to import, or more.
HEAVY = {
    *("aiohttp", "asyncpg", "boto3", "botocore", "cryptography", "hvac", "jwt"),
    *("prometheus_client", "pydantic", "rich", "sqlalchemy", "structlog", "uvloop"),
}
_LOADED = """
import json, sys
from custody.cli import main
try:
    main()
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def loaded(*words: str, **environ: str) -> tuple[set[str], str]:
    """Run custody; return the heavy packages that are loaded in the end, and what was printed."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *words],
        env={"PATH": os.environ["PATH"], **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return HEAVY & set(json.loads(done.stderr.splitlines()[-1])), done.stdout


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("--version",), "custody, version"),
        (("--help",), "Keep users' master keys"),
        (("kek", "retire", "--help"), "Retire a KEK for good"),
        (("rewrap", "run", "--help"), "Re-wrap every row"),
        (("completion", "bash"), "_CUSTODY_COMPLETE"),
        (("completion", "zsh"), "_CUSTODY_COMPLETE"),
        (("completion", "fish"), "_CUSTODY_COMPLETE"),
    ],
    ids=" ".join,
)
def test_what_only_explains_loads_nothing(words: tuple[str, ...], shown: str) -> None:
    heavy, out = loaded(*words)
    assert heavy == set()
    assert shown in out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("custody ", {"serve", "dev", "kek", "doctor"}),
        ("custody kek ", {"list", "retire", "generate"}),
        ("custody rewrap run --", {"--dry-run", "--rate", "--verify"}),
    ],
)
def test_a_shell_is_answered_without_them(typed: str, offered: set[str]) -> None:
    heavy, out = loaded(
        _CUSTODY_COMPLETE="bash_complete",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split(" ")) - 1),
    )
    assert heavy == set()
    assert offered <= {line.partition(",")[2] for line in out.splitlines()}


def test_a_token_loads_what_signs_it_alone(tmp_path: Path) -> None:
    DevelopmentIssuer.create(tmp_path)
    heavy, out = loaded("token", "--sub", "alice", "--data", str(tmp_path))
    assert heavy == {"cryptography", "jwt"}
    assert out.count(".") == 2


def test_generate_loads_no_database_client() -> None:
    heavy, _ = loaded("kek", "generate")
    assert not heavy & {"aiohttp", "asyncpg", "boto3", "hvac", "sqlalchemy"}


@pytest.mark.parametrize("name", CODES)
def test_the_exit_codes_are_of_classes_that_there_are(name: str) -> None:
    module, _, kind = name.rpartition(".")
    found = getattr(importlib.import_module(module), kind)
    assert issubclass(found, Exception)
    assert f"{found.__module__}.{found.__qualname__}" == name


def test_the_exit_code_is_that_of_the_nearest_class() -> None:
    assert exit_code_of(DatabaseError()) == 69
    assert exit_code_of(Busy()) == 75
    assert exit_code_of(MigrationError()) == 1
    assert exit_code_of(Tampered()) == 78
    assert exit_code_of(RuntimeError()) is None
