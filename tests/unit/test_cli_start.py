"""Commands answer at once: what they load, and what they don't; and their exit codes."""

import importlib
import json
import re
from pathlib import Path

import pytest

from custody.cli.exit_codes import CODES, exit_code_of
from custody.db.errors import Busy, DatabaseError
from custody.db.migrate import MigrationError
from custody.development.issuer import DevelopmentIssuer
from kek_backends.errors import Tampered
from tests.tokens import Issuer
from tests.unit.children import python

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


def loaded(*words: str, code: int = 0, **environ: str) -> tuple[set[str], str]:
    """Run custody; return the heavy packages that are loaded in the end, and what was printed."""
    done = python("-c", _LOADED, *words, environ=environ)
    assert done.returncode == code, done.stderr
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
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_only_explains_loads_nothing(words: tuple[str, ...], shown: str) -> None:
    heavy, out = loaded(*words)
    assert heavy == set()
    assert shown in out


@pytest.mark.parametrize(
    ("shell", "typed", "offered"),
    [
        ("bash", "custody ", {"serve", "dev", "kek", "doctor"}),
        ("bash", "custody rewrap run --", {"--dry-run", "--rate", "--verify"}),
        ("zsh", "custody kek ", {"list", "retire", "generate"}),
        ("fish", "custody kek ", {"list", "retire", "generate"}),
    ],
)
def test_a_shell_is_answered_without_them(shell: str, typed: str, offered: set[str]) -> None:
    words = typed.split(" ")
    heavy, out = loaded(
        _CUSTODY_COMPLETE=f"{shell}_complete",
        COMP_WORDS=typed,
        # fish says the word that is begun, the others its number.
        COMP_CWORD=words[-1] if shell == "fish" else str(len(words) - 1),
    )
    assert heavy == set()
    assert offered <= set(re.split(r"[\s,]+", out))


@pytest.mark.prove
def test_ids_that_cannot_be_had_are_no_error_at_the_prompt() -> None:
    _, out = loaded(
        _CUSTODY_COMPLETE="bash_complete", COMP_WORDS="custody kek retire ", COMP_CWORD="3"
    )
    assert out.strip() == ""


def test_a_token_loads_what_signs_it_alone(tmp_path: Path) -> None:
    DevelopmentIssuer.create(tmp_path)
    heavy, out = loaded("token", "--sub", "alice", "--data", str(tmp_path))
    assert heavy == {"cryptography", "jwt"}
    assert out.count(".") == 2


def test_generate_loads_no_database_client() -> None:
    heavy, _ = loaded("kek", "generate")
    assert not heavy & {"aiohttp", "asyncpg", "boto3", "hvac", "sqlalchemy"}


@pytest.mark.prove
def test_kek_list_loads_no_web_server_and_no_kms() -> None:
    heavy, _ = loaded("kek", "list", code=78)  # it says which variable must be set
    assert heavy == {"asyncpg", "cryptography", "pydantic", "rich", "sqlalchemy", "structlog"}


@pytest.mark.prove
def test_doctor_loads_an_http_client_only_for_a_url(tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(Issuer().jwks())
    heavy, out = loaded("doctor", code=1, CUSTODY_JWKS_FILE=str(jwks))
    assert "ok      jwks: " in out
    assert heavy == {"asyncpg", "cryptography", "pydantic", "rich", "sqlalchemy", "structlog"}


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
