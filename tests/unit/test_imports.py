"""The directions of import, over the source itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody import DISTRIBUTION
from tests.servers import ROOT

FILES = sorted(
    path.relative_to(ROOT)
    for package in ("custody", "kek_backends")
    for path in (ROOT / package).rglob("*.py")
)


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            # "from custody import app" is an import of custody.app.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def module_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def offenders(importers: tuple[str, ...], *imported: str, but: tuple[str, ...] = ()) -> list[str]:
    """Return who of the importers (prefixes of modules) imports what it must not."""
    return [
        f"{path} imports {name}"
        for path in FILES
        if within(module_of(path), *importers) and not within(module_of(path), *but)
        for name in imports(path)
        if within(name, *imported)
    ]


EVERYTHING = ("custody", "kek_backends")

# who → must not import → but these may
FORBIDDEN: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "kek_backends stands alone": (("kek_backends",), ("custody",), ()),
    "the vault's side knows no HTTP server": (
        ("custody.vault", "custody.rewrap", "custody.audit", "custody.db", "kek_backends"),
        ("aiohttp", "custody.http"),
        (),
    ),
    "the vault's side knows no composition": (
        ("custody.vault", "custody.rewrap", "custody.audit", "custody.db", "custody.auth"),
        ("custody.app", "custody.cli", "custody.ops", "custody.http"),
        (),
    ),
    "the database knows nothing of what it keeps": (
        ("custody.db",),
        ("custody.vault", "custody.rewrap", "custody.audit", "custody.auth", "kek_backends"),
        (),
    ),
    "tokens know neither vault nor database": (
        ("custody.auth",),
        ("custody.vault", "custody.db", "custody.audit", "kek_backends", "aiohttp.web"),
        (),
    ),
    "http reaches the database through the vault": (
        ("custody.http",),
        ("custody.db", "custody.rewrap", "custody.audit.writer", "kek_backends"),
        ("custody.http.payloads",),  # the size of a master key
    ),
    "only the command line runs the command line": (
        EVERYTHING,
        ("custody.cli",),
        ("custody.cli", "custody.__main__"),
    ),
    "only the command line runs the application": (EVERYTHING, ("custody.app",), ("custody.cli",)),
    "hvac stays in its backend": (
        EVERYTHING,
        ("hvac", "requests"),
        (
            "kek_backends.transit.http",
            "kek_backends.transit.login",
            "kek_backends.transit.tokens",
            "kek_backends.transit.batches",
        ),
    ),
    # Their modules, and so the SDKs, are loaded by entry point alone: a host without one boots.
    "backends are loaded by name": (
        EVERYTHING,
        (
            "kek_backends.transit.kek",
            "kek_backends.transit.http",
            "kek_backends.transit.login",
            "kek_backends.transit.tokens",
            "kek_backends.transit.key",
            "kek_backends.transit.batches",
            "kek_backends.transit.diagnostics",
            "kek_backends.aws.kek",
        ),
        (
            "kek_backends.transit.kek",
            "kek_backends.transit.tokens",
            "kek_backends.transit.batches",
            "kek_backends.transit.diagnostics",
        ),
    ),
    "boto3 stays in its backend": (
        EVERYTHING,
        ("boto3", "botocore"),
        ("kek_backends.aws.kek",),
    ),
    "the driver stays in the database package": (
        EVERYTHING,
        ("asyncpg", "psycopg"),
        ("custody.db", "custody.vault.rows"),  # rows: two of its error types, inside a transaction
    ),
    "SQLAlchemy is a pool, and only that": (
        EVERYTHING,
        ("sqlalchemy",),
        (
            "custody.db",
            # These name the type AsyncEngine in signatures, and call nothing of it.
            "custody.vault.grouped",
            "custody.vault.rows",
            "custody.keks.registry",
            "custody.ops",
            "custody.rewrap",
            "custody.cli.commands.rewrap",
            "custody.cli.commands.rewrap_role",
            "custody.app",
            "custody.reload",
        ),
    ),
    "product code knows no tests": (EVERYTHING, ("tests", "pytest"), ("kek_backends.testing",)),
}


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_direction(rule: str) -> None:
    importers, imported, but = FORBIDDEN[rule]
    assert offenders(importers, *imported, but=but) == []


def test_a_host_without_the_sdks_boots() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('hvac', 'requests', 'boto3', 'botocore')))\n"
        "import custody.cli, custody.app\n"
        "from kek_backends.loader import load\n"
        "load('env:KEY', environ={}, development=True)\n"
        "for name in ('vault:transit/key', 'aws-kms:alias/key'):\n"
        "    try: load(name, environ={}, development=False)\n"
        "    except Exception as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    cure = f"in the sources of {DISTRIBUTION} run: pip install"
    assert f"hvac can't be imported; {cure} '.[vault]'" in run.stdout
    assert f"botocore.session can't be imported; {cure} '.[aws]'" in run.stdout


def test_rules_see_what_is_there() -> None:
    """The rules' names exist: a renamed package would make a rule empty."""
    modules = {module_of(path) for path in FILES}
    for name in ("custody.vault", "custody.http", "custody.db", "custody.auth", "custody.audit"):
        assert name in modules
    assert offenders(("custody.vault",), "custody.db") != []
    assert offenders(("custody.http",), "aiohttp.web") != []
    assert offenders(("custody.cli",), "custody.app") != []
